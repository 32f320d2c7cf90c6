//! Processes that outlive their starter: started in a session of their own, found again by pid and start time.

use std::fs::{File, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
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
    fn of(pid: i32) -> Option<Self> {
        let (state, start_ticks) = stat(pid)?;
        // The first thread may be a zombie while others still hold files open.
        let threads = || std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count());
        (state != 'Z' || threads() > 1).then_some(Self { pid, start_ticks })
    }

    /// Whether this very process is there and no zombie.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
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
            reap(self.pid);
            std::thread::sleep(POLL);
        }
        reap(self.pid);
        true
    }
}

/// If it was our own child, take its exit status so that no zombie stays.
fn reap(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG);
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

/// Starts a program in the background with both outputs appended to `log`.
pub fn start(program: &Path, args: &[String], log: &Path) -> Result<ProcessId> {
    let output = open_log(log)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
    // A group of its own: Ctrl-C at the terminal reaches the launcher only, which then stops its parts in order.
    command.process_group(0);
    let child = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
    let pid = i32::try_from(child.id()).context("pids fit into 31 bits")?;
    match ProcessId::of(pid) {
        Some(id) => Ok(id),
        None => bail!("{} ended at once: its log {} says why", program.display(), log.display()),
    }
}

fn open_log(log: &Path) -> Result<File> {
    OpenOptions::new().create(true).append(true).open(log).with_context(|| log.display().to_string())
}

/// The last lines of a log, for a person.
pub fn tail(log: &Path, lines: usize) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
