//! Processes that outlive their starter, found again by pid and start time; and the programs they run.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

use crate::failure::usage;

/// How often a wait for a process looks again.
const POLL: Duration = Duration::from_millis(10);

/// A pid together with the start time, so that a reused pid is never mistaken for the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    pub pid: i32,
    /// Clock ticks after boot, from /proc/PID/stat.
    pub start_ticks: u64,
}

impl ProcessId {
    pub(super) fn of(pid: i32) -> Option<Self> {
        let (state, start_ticks) = stat(pid)?;
        // The first thread may be a zombie while others still hold files open.
        let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count());
        (state != 'Z' || threads() > 1).then_some(Self { pid, start_ticks })
    }

    /// Whether this very process is there and no zombie.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    /// Whether this very process is there and stopped by a signal.
    pub fn is_paused(self) -> bool {
        self.is_alive() && stat(self.pid).is_some_and(|(state, _)| state == 'T')
    }

    /// Sends a signal, if the process is still there.
    pub fn signal(self, signal: Signal) -> Result<()> {
        if self.is_alive() {
            let pid = Pid::from_raw(self.pid).context("a pid is positive")?;
            rustix::process::kill_process(pid, signal).with_context(|| format!("signal to process {}", self.pid))?;
        }
        Ok(())
    }

    /// Waits until it is gone; `false` if it is still there after `patience`.
    pub fn wait_gone(self, patience: Duration) -> bool {
        let end = Instant::now() + patience;
        while self.is_alive() {
            if Instant::now() >= end {
                return false;
            }
            std::thread::sleep(POLL);
        }
        true
    }
}

/// State letter and start time of a process.
fn stat(pid: i32) -> Option<(char, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command in parentheses may hold anything; the rest follows its last one.
    let rest = stat.rsplit_once(')')?.1;
    let mut fields = rest.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

/// The folder with Caribou's programs.
#[derive(Debug, Clone)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// `dir`, or the folder of the program that is running.
    pub fn find(dir: Option<&Path>) -> Result<Self> {
        let dir = match dir {
            Some(dir) => dir.to_owned(),
            None => std::env::current_exe()?.parent().context("a program lies in a folder")?.to_owned(),
        };
        for name in ["caribou-meta", "caribou-chunkd", "caribou-mount"] {
            if !dir.join(name).is_file() {
                return Err(usage(format!(
                    "{name} is not in {}: build all programs (make build), or name their folder with --bin",
                    dir.display()
                )));
            }
        }
        Ok(Self(dir))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The last lines of a log, for a person.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
