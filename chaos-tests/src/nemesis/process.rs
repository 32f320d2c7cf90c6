//! Processes that are killed, also while they start, stopped in order, and paused.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use caribou_cli::local::ProcessId;
use rand::RngExt as _;
use rustix::process::Signal;

use super::{Broken, Harm, Kind, Remedy, Server, Site, Whom};
use crate::lab::STOP_PATIENCE;

/// How often one is killed while it starts, and how old it gets each time, in milliseconds.
const STARTS: usize = 5;
const AGE_MS: std::ops::Range<u64> = 20..200;

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    let whom = match kind {
        Kind::KillLeader
        | Kind::StopLeader
        | Kind::PauseLeader
        | Kind::FreezeLeader
        | Kind::RestartStorm
        | Kind::TransferLeader => Whom::Leader,
        Kind::KillFollower | Kind::PauseFollower | Kind::KillStartingFollower => Whom::Follower,
        Kind::KillMajority => Whom::LeaderAndFollower,
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
            // It may fail, if the others cannot be reached: then there was no hand-over to survive.
            let (part, number) = victims[0];
            let address = site.lab.cluster.layout().nodes(part)[number - 1].address.clone();
            let handed_over = caribou_cli::admin::transfer_leader(&address, 0).await;
            site.taken.remove(&victims[0]);
            Ok(handed_over.is_ok().then_some(harm))
        }
        Kind::RestartStorm => {
            for _ in 0..3 {
                signal(site, &victims, Signal::KILL)?;
                site.lab.cluster.spawn(victims[0].0, victims[0].1)?;
            }
            signal(site, &victims, Signal::KILL)?;
            Ok(Some(harm.with(victims.into_iter().map(Remedy::Start))))
        }
        Kind::KillStartingFollower | Kind::KillStartingChunkServer => {
            signal(site, &victims, Signal::KILL)?;
            kill_starting(site, victims[0]).await?;
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

/// Starts and kills it again and again. One that ends by itself, whatever was cut short before, has failed to start.
async fn kill_starting(site: &mut Site<'_>, (part, number): Server) -> Result<()> {
    for _ in 0..STARTS {
        site.lab.cluster.spawn(part, number)?;
        tokio::time::sleep(Duration::from_millis(site.rng.random_range(AGE_MS))).await;
        let process = site.lab.cluster.layout().nodes(part)[number - 1].process;
        if !process.is_some_and(ProcessId::is_alive) {
            return Err(Broken::promise(format!("{} {number} ended by itself while it started", part.name())));
        }
        signal(site, &[(part, number)], Signal::KILL)?;
    }
    Ok(())
}

/// Returns when all of them stand still: a thread in the middle of a system call stops at its end.
async fn pause(site: &mut Site<'_>, victims: &[Server]) -> Result<()> {
    signal(site, victims, Signal::STOP)?;
    for (part, number) in victims {
        let process = site.lab.cluster.layout().nodes(*part)[number - 1].process;
        let end = Instant::now() + STOP_PATIENCE;
        while !process.is_some_and(ProcessId::is_paused) {
            ensure!(Instant::now() < end, "{} {number} goes on after SIGSTOP", part.name());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}
