//! Disks that are slow or hang: the file system is frozen (`FIFREEZE`), so that whoever writes has to wait; thawed, and frozen again. It
//! works on any machine, which bandwidth limits of control groups do not. What shows that it took effect: threads of the server that stand
//! in the middle of a write (state D) at the end of a standstill.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::power;

/// How long a disk stands still and how long it works in between, in milliseconds.
#[derive(Debug, Clone)]
pub(super) struct Rhythm {
    still_ms: Range<u64>,
    works_ms: Range<u64>,
}

impl Rhythm {
    pub(super) const SLOW: Self = Self { still_ms: 50..400, works_ms: 10..100 };
    /// Once, until it is lifted.
    pub(super) const HUNG: Self = Self { still_ms: 3_600_000..3_600_001, works_ms: 1..2 };
}

/// A disk that stands still now and then, until it is dropped.
#[derive(Debug)]
pub(super) struct Still {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Still {
    /// Stands still when this returns. `pid`: the server that writes to it.
    pub(super) fn begin(volume: PathBuf, pid: i32, rhythm: Rhythm, seed: u64) -> Result<Self> {
        power::freeze(&volume)?;
        let (stop, told) = mpsc::channel();
        let work = move || beat(&volume, pid, &rhythm, StdRng::seed_from_u64(seed), &told);
        let thread = std::thread::Builder::new().name("still".to_owned()).spawn(work)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// It works for good. Returns in how many standstills the server had to wait.
    pub(super) fn end(mut self) -> Result<u64> {
        self.stop = None;
        let thread = self.thread.take().context("it is ended once")?;
        thread.join().map_err(|_| anyhow::anyhow!("the thread that freezes a disk panicked"))?
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        self.stop = None;
        // It thaws the disk; what it could say besides, nobody asks for any more.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn beat(volume: &Path, pid: i32, rhythm: &Rhythm, mut rng: StdRng, told: &Receiver<()>) -> Result<u64> {
    let mut felt = 0;
    loop {
        let is_over = is_told_within(told, rng.random_range(rhythm.still_ms.clone()));
        felt += u64::from(has_to_wait(pid));
        power::thaw(volume)?;
        if is_over || is_told_within(told, rng.random_range(rhythm.works_ms.clone())) {
            return Ok(felt);
        }
        power::freeze(volume)?;
    }
}

/// Whether it was told to stop before so many milliseconds were over.
fn is_told_within(told: &Receiver<()>, milliseconds: u64) -> bool {
    told.recv_timeout(Duration::from_millis(milliseconds)) != Err(RecvTimeoutError::Timeout)
}

/// Whether any thread of a process waits where nothing but the disk can wake it.
fn has_to_wait(pid: i32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let mut stats = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("stat")).ok());
    stats.any(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('D')))
}
