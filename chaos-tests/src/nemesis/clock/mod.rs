//! Clocks that jump: wall clocks of running servers that are suddenly an hour early or late, and right again. libfaketime stands between a
//! server and its C library (`library`), so a victim is started with it before and without it afterwards. Only the wall clock jumps, as on a
//! real machine: monotonic clocks go on. How far those may drift apart is a promise of the machines (docs/adr/0007), which no fault breaks.
//!
//! What shows that it took effect: lines of logs that were written at the wrong time. A metadata node at rest says nothing, so the leadership
//! changes hands before its clock is set right, which each of them tells.

mod library;

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use caribou_cli::local::Part;
use rand::RngExt as _;
use rustix::process::Signal;

use self::library::{Library, RIGHT, forget_shared};
use super::harm::start;
use super::{Harm, Kind, Remedy, Server, Site, Whom, process, said_since};
use crate::wait;

/// How far it jumps, and from when on a time in a log is none of this hour.
const JUMP: Duration = Duration::from_secs(3600);
const WRONG: Duration = Duration::from_secs(1800);
/// How long servers keep what the file says: the library looks once a second.
const NOTICED: Duration = Duration::from_millis(1500);
/// How long a node that has been started anew may take until it can lead, and until all have told who leads.
const LEADS: Duration = Duration::from_secs(4);
const TOLD: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Servers whose clocks are wrong.
#[derive(Debug)]
pub(super) struct Clocks {
    library: Library,
    victims: Vec<Victim>,
    /// It was to be the leader's, and was not.
    missed: bool,
}

#[derive(Debug)]
struct Victim {
    server: Server,
    /// What stood in front of its program before.
    through: Vec<String>,
    log: PathBuf,
    log_bytes: u64,
}

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    let whom = match kind {
        // A leader that is started anew leads no more: a follower comes to lead.
        Kind::ClockJumpLeader | Kind::ClockJumpFollower => Whom::Follower,
        Kind::ClockJumpAllMeta => Whom::AllMeta,
        Kind::ClockJumpChunkServer => Whom::ChunkServer,
        _ => Whom::AllChunkServers,
    };
    let Some(servers) = site.victims(whom).await else { return Ok(None) };
    let library = Library::new(site.lab.folder())?;
    let mut victims = Vec::new();
    for server in &servers {
        victims.push(restart(site, *server, &library)?);
    }
    for (part, number) in &servers {
        site.lab.cluster.start(*part, *number).await?;
    }
    let missed = kind == Kind::ClockJumpLeader && !comes_to_lead(site, servers[0]).await;
    let sign = if site.rng.random() { "+" } else { "-" };
    library.say(&format!("{sign}{}s", JUMP.as_secs()))?;
    tokio::time::sleep(NOTICED).await;
    for (part, number) in &servers {
        let process = site.lab.cluster.layout().nodes(*part)[number - 1].process;
        process.into_iter().for_each(forget_shared);
    }
    if kind == Kind::ClockJumpFollower {
        // If the others cannot be reached, it stays what it is, with a wrong clock all the same.
        comes_to_lead(site, servers[0]).await;
    }
    Ok(Some(Harm::new(kind, servers).with([Remedy::SetRight(Clocks { library, victims, missed })])))
}

/// Kills a server; it will be started with the library.
fn restart(site: &mut Site<'_>, (part, number): Server, library: &Library) -> Result<Victim> {
    site.lab.cluster.signal(part, number, Signal::KILL)?;
    let node = &site.lab.cluster.layout().nodes(part)[number - 1];
    let (through, log) = (node.through.clone(), node.log.clone());
    let log_bytes = std::fs::metadata(&log).with_context(|| log.display().to_string())?.len();
    site.lab.cluster.start_through(part, number, [through.clone(), library.words(part)].concat())?;
    Ok(Victim { server: (part, number), through, log, log_bytes })
}

/// Whoever leads is told to hand over to that node until it does.
async fn comes_to_lead(site: &Site<'_>, (_, number): Server) -> bool {
    let (lab, to) = (&site.lab, number as u64);
    wait::until(LEADS, LOOK, async || process::hand_over(lab, to).await == Some(true)).await
}

impl Clocks {
    /// They jump back while their servers run, which then start anew without the library. Returns how many lines were written at a wrong
    /// time; none, if it was not the leader's clock that has jumped.
    pub(super) async fn set_right(self, site: &mut Site<'_>) -> Result<u64> {
        if self.victims.iter().any(|victim| victim.server.0 == Part::Meta) {
            // Fails if nobody leads: then they tell who does next.
            process::hand_over(site.lab, 0).await;
            let all_have_told =
                async || self.victims.iter().all(|victim| victim.lines_at_wrong_times().is_ok_and(|lines| lines > 0));
            wait::until(TOLD, LOOK, all_have_told).await;
        }
        let mut wrong = 0;
        for victim in &self.victims {
            wrong += victim.lines_at_wrong_times()?;
        }
        self.library.say(RIGHT)?;
        tokio::time::sleep(NOTICED).await;
        for Victim { server: (part, number), through, .. } in &self.victims {
            site.lab.cluster.signal(*part, *number, Signal::KILL)?;
            site.lab.cluster.start_through(*part, *number, through.clone())?;
        }
        for victim in &self.victims {
            start(site, victim.server).await?;
        }
        Ok(if self.missed { 0 } else { wrong })
    }
}

impl Victim {
    fn lines_at_wrong_times(&self) -> Result<u64> {
        lines_at_wrong_times(&self.log, self.log_bytes)
    }
}

fn lines_at_wrong_times(log: &Path, from: u64) -> Result<u64> {
    let now = SystemTime::now();
    let is_wrong = |line: &&str| {
        let time = line.split(' ').next().and_then(|word| humantime::parse_rfc3339(word).ok());
        time.is_some_and(|time| now.duration_since(time).unwrap_or_else(|ahead| ahead.duration()) > WRONG)
    };
    Ok(said_since(log, from)?.lines().filter(is_wrong).count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_another_hour_are_counted() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("meta1.log");
        let at = |time: SystemTime| format!("{}  INFO raft: beat\n", humantime::format_rfc3339_micros(time));
        let now = SystemTime::now();
        let before = at(now - JUMP);
        let text = [before.clone(), at(now - JUMP), at(now + JUMP), at(now), "no time\n".to_owned()].concat();
        std::fs::write(&log, text).expect("written");
        assert_eq!(lines_at_wrong_times(&log, before.len() as u64).expect("read"), 2);
    }
}
