//! Clocks that jump: wall clocks of running chunk servers that are suddenly an hour early or late, and right again. The library libfaketime
//! stands between a server and its C library, so a victim is started with it before and without it afterwards; in between its clock is what
//! a file says. Only the wall clock jumps, as on a real machine: monotonic clocks go on.
//!
//! Metadata nodes cannot be started with it: jemalloc asks for the time while it starts, libfaketime then looks for a function that the C library
//! does not have, and the message of that failure asks jemalloc for memory, which waits for itself.
//!
//! What shows that it took effect: lines of logs that were written at the wrong time.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use rand::RngExt as _;
use rustix::process::Signal;

use super::{Harm, Kind, Remedy, Server, Site, Whom, said_since};

/// How far it jumps, and from when on a time in a log is none of this hour.
const JUMP: Duration = Duration::from_secs(3600);
const WRONG: Duration = Duration::from_secs(1800);
/// How long servers keep what the file says: the library looks once a second.
const NOTICED: Duration = Duration::from_millis(1500);
/// Right, in the library's words.
const RIGHT: &str = "+0\n";

/// Servers whose clocks are wrong.
#[derive(Debug)]
pub(super) struct Clocks {
    /// What the library reads.
    file: PathBuf,
    victims: Vec<Victim>,
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
    let whom = if kind == Kind::ClockJumpChunkServer { Whom::ChunkServer } else { Whom::AllChunkServers };
    let Some(servers) = site.victims(whom).await else { return Ok(None) };
    let file = site.lab.folder().join("clock");
    std::fs::write(&file, RIGHT)?;
    let mut victims = Vec::new();
    for server in &servers {
        victims.push(restart(site, *server, &file)?);
    }
    for (part, number) in &servers {
        site.lab.cluster.start(*part, *number).await?;
    }
    let jump = format!("{}{}s\n", if site.rng.random() { "+" } else { "-" }, JUMP.as_secs());
    std::fs::write(&file, jump)?;
    tokio::time::sleep(NOTICED).await;
    servers.iter().for_each(|server| forget_shared(site, *server));
    Ok(Some(Harm::new(kind, servers).with([Remedy::SetRight(Clocks { file, victims })])))
}

/// Kills a server; it will be started with the library.
fn restart(site: &mut Site<'_>, (part, number): Server, file: &Path) -> Result<Victim> {
    let words = [
        "env".to_owned(),
        format!("LD_PRELOAD={}", library()?.display()),
        format!("FAKETIME_TIMESTAMP_FILE={}", file.display()),
        "FAKETIME_CACHE_DURATION=1".to_owned(),
        "FAKETIME_DONT_FAKE_MONOTONIC=1".to_owned(),
        "NO_FAKE_STAT=1".to_owned(),
    ];
    site.lab.cluster.signal(part, number, Signal::KILL)?;
    let node = &site.lab.cluster.layout().nodes(part)[number - 1];
    let (through, log) = (node.through.clone(), node.log.clone());
    let log_bytes = std::fs::metadata(&log).with_context(|| log.display().to_string())?.len();
    site.lab.cluster.start_through(part, number, [through.clone(), words.to_vec()].concat())?;
    Ok(Victim { server: (part, number), through, log, log_bytes })
}

/// The library's shared memory keeps its name only as long as it takes to find it: a process that is killed would leave it behind.
fn forget_shared(site: &Site<'_>, (part, number): Server) {
    let Some(process) = site.lab.cluster.layout().nodes(part)[number - 1].process else { return };
    for name in ["faketime_shm_", "sem.faketime_sem_"] {
        // Another release of the library may have none.
        let _ = std::fs::remove_file(Path::new("/dev/shm").join(format!("{name}{}", process.pid)));
    }
}

fn library() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").context("/usr/lib")?.flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|path| path.is_file()).context("clocks that jump need libfaketime: install Debian's package libfaketime")
}

impl Clocks {
    /// They jump back while their servers run, which then start anew without the library. Returns how many lines they have written at a
    /// wrong time.
    pub(super) async fn set_right(self, site: &mut Site<'_>) -> Result<u64> {
        let mut wrong = 0;
        for victim in &self.victims {
            wrong += lines_at_wrong_times(&victim.log, victim.log_bytes)?;
        }
        std::fs::write(&self.file, RIGHT)?;
        tokio::time::sleep(NOTICED).await;
        for Victim { server: (part, number), through, .. } in &self.victims {
            site.lab.cluster.signal(*part, *number, Signal::KILL)?;
            site.lab.cluster.start_through(*part, *number, through.clone())?;
        }
        for Victim { server: (part, number), .. } in &self.victims {
            site.lab.cluster.start(*part, *number).await?;
        }
        Ok(wrong)
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
