//! Processes that are killed, also while they start, stopped in order, and paused.

use std::ops::Range;
use std::time::Duration;

use anyhow::{Result, ensure};
use caribou_cli::local::ProcessId;
use rand::RngExt as _;
use rustix::process::Signal;

use super::{Broken, Harm, Kind, Remedy, Server, Site, Whom};
use crate::lab::{Lab, STOP_PATIENCE};
use crate::wait;

/// How often one is killed while it starts, and how old it gets each time, in milliseconds.
const STARTS: usize = 5;
const AGE_MS: Range<u64> = 20..200;
/// The same for a leader that dies before it has looked at its files.
const STORM_STARTS: usize = 3;
const STORM_AGE_MS: Range<u64> = 1..20;
/// How long it may take until everybody knows who leads after a hand-over.
const HANDED_OVER: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    let whom = match kind {
        Kind::KillLeader
        | Kind::StopLeader
        | Kind::PauseLeader
        | Kind::FreezeLeader
        | Kind::RestartStorm
        | Kind::TransferLeader => Whom::Leader,
        Kind::KillFollower | Kind::PauseFollower | Kind::KillStartingFollower => Whom::Follower,
        Kind::KillMajority => Whom::Majority,
        Kind::KillAllMeta | Kind::PauseAllMeta => Whom::AllMeta,
        Kind::KillChunkServer
        | Kind::StopChunkServer
        | Kind::PauseChunkServer
        | Kind::FreezeChunkServer
        | Kind::KillStartingChunkServer => Whom::ChunkServer,
        Kind::KillAllChunkServers => Whom::AllChunkServers,
        _ => Whom::Everybody,
    };
    let Some(victims) = site.victims(whom).await else { return Ok(None) };
    let harm = Harm::new(kind, victims.clone());
    match kind {
        Kind::PauseLeader
        | Kind::PauseFollower
        | Kind::PauseChunkServer
        | Kind::PauseAllMeta
        | Kind::FreezeLeader
        | Kind::FreezeChunkServer => {
            pause(site, &victims).await?;
            Ok(Some(harm.with(victims.into_iter().map(Remedy::Continue))))
        }
        Kind::TransferLeader => {
            site.taken.remove(&victims[0]);
            let handed_over = Harm::beside_others(kind, &victims);
            let seen = hand_over(site.lab, 0).await;
            let what = "hand-overs to another node in a higher term";
            Ok(seen.map(|seen| handed_over.with([Remedy::Seen(u64::from(seen), what)])))
        }
        Kind::RestartStorm => {
            signal(site, &victims, Signal::KILL)?;
            kill_starting(site, victims[0], STORM_STARTS, STORM_AGE_MS).await?;
            Ok(Some(harm.with(victims.into_iter().map(Remedy::Start))))
        }
        Kind::KillStartingFollower | Kind::KillStartingChunkServer => {
            signal(site, &victims, Signal::KILL)?;
            kill_starting(site, victims[0], STARTS, AGE_MS).await?;
            Ok(Some(harm.with(victims.into_iter().map(Remedy::Start))))
        }
        Kind::StopLeader | Kind::StopChunkServer => {
            signal(site, &victims, Signal::TERM)?;
            Ok(Some(harm.with(victims.into_iter().map(Remedy::Start))))
        }
        _ => {
            signal(site, &victims, Signal::KILL)?;
            Ok(Some(harm.with(victims.into_iter().map(Remedy::Start))))
        }
    }
}

/// Deadly ones return when the processes are gone.
fn signal(site: &mut Site<'_>, victims: &[Server], signal: Signal) -> Result<()> {
    victims.iter().try_for_each(|(part, number)| site.lab.cluster.signal(*part, *number, signal))
}

/// The leader lets another node lead: that one, or with 0 whichever can. Returns whether it is seen to lead. None: it may fail, if the others
/// cannot be reached; then there was no hand-over to survive.
pub(super) async fn hand_over(lab: &Lab, to: u64) -> Option<bool> {
    let status = lab.cluster.status().await;
    let leader = status.leader()?;
    if leader.node_id == to {
        return Some(true);
    }
    caribou_cli::admin::transfer_leader(&leader.address, to).await.ok()?;
    let leads_now = async || {
        let status = lab.cluster.status().await;
        let newer = status.leader().filter(|now| now.term > leader.term && now.node_id != leader.node_id);
        newer.is_some_and(|now| to == 0 || now.node_id == to)
    };
    Some(wait::until(HANDED_OVER, LOOK, leads_now).await)
}

/// Starts and kills it again and again. One that ends by itself, whatever was cut short before, has failed to start.
async fn kill_starting(site: &mut Site<'_>, (part, number): Server, times: usize, age_ms: Range<u64>) -> Result<()> {
    for _ in 0..times {
        site.lab.cluster.spawn(part, number)?;
        tokio::time::sleep(Duration::from_millis(site.rng.random_range(age_ms.clone()))).await;
        let process = site.lab.cluster.layout().nodes(part)[number - 1].process;
        if !process.is_some_and(ProcessId::is_alive) {
            return Err(Broken::promise(format!("{} {number} ended by itself while it started", part.name())));
        }
        signal(site, &[(part, number)], Signal::KILL)?;
    }
    Ok(())
}

/// Returns when all of them stand still.
async fn pause(site: &mut Site<'_>, victims: &[Server]) -> Result<()> {
    signal(site, victims, Signal::STOP)?;
    for (part, number) in victims {
        let process = site.lab.cluster.layout().nodes(*part)[number - 1].process;
        stand_still(process, &format!("{} {number}", part.name())).await?;
    }
    Ok(())
}

/// Waits until a process that was told to stand still does: a thread in the middle of a system call stops at its end.
pub(super) async fn stand_still(process: Option<ProcessId>, name: &str) -> Result<()> {
    let stands_still = wait::until(STOP_PATIENCE, LOOK, async || process.is_some_and(ProcessId::is_paused)).await;
    ensure!(stands_still, "{name} goes on after SIGSTOP");
    Ok(())
}
