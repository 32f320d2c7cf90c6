//! Work through a mount, in processes of their own (`caribou-chaos worker …`): a process with files open on a mount must not start
//! others while the cluster is away, since closing the inherited descriptors waits for it. A worker ends when its standard input does, and
//! then prints what it has seen as one line of JSON.

use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustix::io::Errno;
use serde::de::DeserializeOwned;

use super::{append, blocks, copies, registers, storm};
use crate::check::finding::Finding;
use crate::wait;

/// After an error, before the file is opened anew.
pub(super) const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(100);

/// Between two looks at whether a worker has ended.
const LOOK: Duration = Duration::from_millis(10);
/// How long a killed worker is waited for.
const DEATH_PATIENCE: Duration = Duration::from_secs(5);
/// The type of a FUSE file system (`FUSE_SUPER_MAGIC`).
const FUSE: rustix::fs::FsWord = 0x6573_5546;
/// What an error begins with that came while the mount was away.
pub const AWAY: &str = "away: ";
/// What the C library says of a mount whose process has died.
pub const DEAD: [&str; 2] = ["Transport endpoint is not connected", "Software caused connection abort"];

/// What a worker process does. A seed decides its choices, together with its id or number.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Work {
    /// Write and fsync blocks of one file
    Write { dir: PathBuf, id: u64, seed: u64 },
    /// The same with a file that others write too, each its own blocks: writer `number` of `of`
    Share { dir: PathBuf, number: u64, of: u64, seed: u64 },
    /// Write blocks of one file, fsync the first and the last alone, and leave the file open
    Control { path: PathBuf, id: u64, blocks: u64 },
    /// Read blocks of the writers' files, and of the one that `sharing` of them write together
    Read { dir: PathBuf, writers: u64, sharing: u64, seed: u64 },
    /// Write and read the few blocks that `of` of them fight over, this one being `number`
    Register { dir: PathBuf, number: u64, of: u64, seed: u64 },
    /// Append records to one file
    Append { dir: PathBuf, id: u64, seed: u64 },
    /// Make, sync, rename and remove small files in a folder
    Storm { dir: PathBuf, id: u64, seed: u64 },
    /// Copy trees, which are made in a folder `sources` on the local disk, compare them through another mount, and remove them
    Copy { dir: PathBuf, other: PathBuf, sources: PathBuf, id: u64, seed: u64 },
}

impl Work {
    /// The worker process: works until its standard input ends.
    pub fn run(self) -> Result<()> {
        let stop = Arc::new(AtomicBool::new(false));
        let told = stop.clone();
        std::thread::spawn(move || {
            // Whatever ends standard input ends the work.
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            told.store(true, Ordering::Relaxed);
        });
        let line = match self {
            Self::Write { dir, id, seed } => {
                serde_json::to_string(&blocks::write_until(&stop, &dir, &blocks::Share::whole(id), seed)?)?
            }
            Self::Share { dir, number, of, seed } => {
                serde_json::to_string(&blocks::write_until(&stop, &dir, &blocks::Share::part(number, of), seed)?)?
            }
            Self::Control { path, id, blocks } => {
                serde_json::to_string(&blocks::control_until(&stop, &path, id, blocks)?)?
            }
            Self::Read { dir, writers, sharing, seed } => {
                serde_json::to_string(&blocks::read_until(&stop, &dir, writers, sharing, seed))?
            }
            Self::Register { dir, number, of, seed } => {
                serde_json::to_string(&registers::fight_until(&stop, &dir, number, of, seed))?
            }
            Self::Append { dir, id, seed } => {
                serde_json::to_string(&append::append_until(&stop, id, dir.join(format!("appended{id}")), seed)?)?
            }
            Self::Storm { dir, id, seed } => {
                serde_json::to_string(&storm::storm_until(&stop, id, dir.join(format!("storm{id}")), seed)?)?
            }
            Self::Copy { dir, other, sources, id, seed } => {
                let folder = dir.join(format!("copied{id}"));
                serde_json::to_string(&copies::copy_until(&stop, folder, &other, &sources, seed)?)?
            }
        };
        println!("{line}");
        Ok(())
    }

    fn words(&self) -> Vec<String> {
        let (verb, paths, numbers) = match self {
            Self::Write { dir, id, seed } => ("write", vec![dir], vec![id, seed]),
            Self::Share { dir, number, of, seed } => ("share", vec![dir], vec![number, of, seed]),
            Self::Control { path, id, blocks } => ("control", vec![path], vec![id, blocks]),
            Self::Read { dir, writers, sharing, seed } => ("read", vec![dir], vec![writers, sharing, seed]),
            Self::Register { dir, number, of, seed } => ("register", vec![dir], vec![number, of, seed]),
            Self::Append { dir, id, seed } => ("append", vec![dir], vec![id, seed]),
            Self::Storm { dir, id, seed } => ("storm", vec![dir], vec![id, seed]),
            Self::Copy { dir, other, sources, id, seed } => ("copy", vec![dir, other, sources], vec![id, seed]),
        };
        let paths = paths.into_iter().map(|path| path.display().to_string());
        let numbers = numbers.into_iter().map(u64::to_string);
        ["worker".to_owned(), verb.to_owned()].into_iter().chain(paths).chain(numbers).collect()
    }
}

/// A worker process. Killed when it is dropped.
#[derive(Debug)]
pub struct Worker {
    child: Child,
    /// Figures that it has printed (one number a line).
    progress: Arc<AtomicU64>,
    output: Option<JoinHandle<String>>,
}

impl Worker {
    pub fn start(work: &Work) -> Result<Self> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command.args(work.words()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("a worker process")?;
        let progress = Arc::new(AtomicU64::new(0));
        let (lines, seen) = (BufReader::new(child.stdout.take().context("a pipe")?).lines(), progress.clone());
        let output = std::thread::spawn(move || {
            let mut last = String::new();
            for line in lines.map_while(Result::ok) {
                match line.parse() {
                    Ok(number) => seen.store(number, Ordering::Relaxed),
                    Err(_) => last = line,
                }
            }
            last
        });
        Ok(Self { child, progress, output: Some(output) })
    }

    /// The last figure that it has printed.
    pub fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// The same figure, for other threads.
    pub fn progress_handle(&self) -> Progress {
        Progress(self.progress.clone())
    }

    pub fn tell_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end; what it has seen.
    pub fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        self.tell_to_stop();
        let output = self.output.take().context("a worker is finished once")?;
        let line = output.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        let status = self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("a worker ended with {status} and said \"{line}\""))
    }

    /// The same. None: it is still at work then.
    pub fn finish_until<T: DeserializeOwned>(mut self, end: Instant) -> Result<Option<T>> {
        self.tell_to_stop();
        let patience = end.saturating_duration_since(Instant::now());
        let has_ended = || self.output.as_ref().is_none_or(JoinHandle::is_finished);
        if wait::until_blocking(patience, LOOK, has_ended) { self.finish().map(Some) } else { Ok(None) }
    }
}

/// How far a worker has come.
#[derive(Debug)]
pub struct Progress(Arc<AtomicU64>);

impl Progress {
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails when it has ended, which is what we want. One that waits for its mount within the kernel goes only with the mount.
        let _ = self.child.kill();
        wait::until_blocking(DEATH_PATIENCE, LOOK, || !matches!(self.child.try_wait(), Ok(None)));
    }
}

/// What a worker draws its choices from: others with each seed, and others than its fellows with the same.
pub(super) fn choices(seed: u64, id: u64) -> StdRng {
    StdRng::seed_from_u64(seed.wrapping_mul(1_000_003) ^ id)
}

/// Whether a folder is one of a mount. While the mount is away, it shows what is below.
pub(super) fn is_mounted(folder: &Path) -> bool {
    rustix::fs::statfs(folder).is_ok_and(|found| found.f_type == FUSE)
}

/// An error that came just now, of a call that is named. While a mount is away, nothing that it says is of the mount.
pub(crate) fn told(path: &Path, call: &str, error: &std::io::Error) -> Finding {
    let away = if is_mounted(path.parent().unwrap_or(path)) { "" } else { AWAY };
    Finding::now(format!("{away}{}: {error} ({call})", path.display()))
}

/// Whether an error shows that the mount's process has died: only then does the kernel close its door.
pub(super) fn is_of_death(error: &std::io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOTCONN | Errno::CONNABORTED))
}

/// Opens a file for reading and writing.
pub(super) fn open_or_make(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

/// The same after an error. It makes no file: if the mount is away, it would be made in the folder below.
pub(super) fn open_again(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Lets writers and readers drop what this machine's kernel has cached of the mounts.
pub fn drop_caches() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches: needs root")
}
