//! Writers of self-describing blocks through a mount, each with its ledger; and readers that must never see a block go back.
//!
//! Each works in a process of its own (`caribou-chaos worker …`): a process with files open on a mount must not start others while the
//! cluster is away, since closing the inherited descriptors waits for it. A worker ends when its standard input does, and then
//! prints what it has seen as one line of JSON.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::block::{self, BLOCK, Content};
use crate::ledger::FileLedger;

/// Blocks of one file: over a chunk's end, so that two chunks are in play.
const PLACES: u64 = 20_000;
/// Places that are written again and again.
const HOT_PLACES: u64 = 64;
/// Writes between two fsyncs.
const WRITES_PER_SYNC: usize = 24;

/// What a worker process does.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Work {
    /// Write and fsync blocks of one file
    Write { dir: PathBuf, id: u64 },
    /// Write blocks of one file, fsync the first alone, and leave the file open
    Control { path: PathBuf, id: u64, blocks: u64 },
    /// Read blocks of the writers' files
    Read { dir: PathBuf, writers: u64, seed: u64 },
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
            Self::Write { dir, id } => {
                serde_json::to_string(&write_until(&stop, id, dir.join(format!("written{id}")))?)?
            }
            Self::Control { path, id, blocks } => serde_json::to_string(&control_until(&stop, &path, id, blocks)?)?,
            Self::Read { dir, writers, seed } => serde_json::to_string(&read_until(&stop, &dir, writers, seed))?,
        };
        println!("{line}");
        Ok(())
    }

    fn words(&self) -> Vec<String> {
        let words = match self {
            Self::Write { dir, id } => vec!["write".to_owned(), dir.display().to_string(), id.to_string()],
            Self::Control { path, id, blocks } => {
                vec!["control".to_owned(), path.display().to_string(), id.to_string(), blocks.to_string()]
            }
            Self::Read { dir, writers, seed } => {
                vec!["read".to_owned(), dir.display().to_string(), writers.to_string(), seed.to_string()]
            }
        };
        ["worker".to_owned()].into_iter().chain(words).collect()
    }
}

/// A worker process. Killed when it is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    child: Child,
    /// Figures that it has printed (one number a line).
    progress: Arc<AtomicU64>,
    output: Option<JoinHandle<String>>,
}

impl Worker {
    pub(super) fn start(work: &Work) -> Result<Self> {
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
    pub(super) fn progress(&self) -> u64 {
        self.progress.load(Ordering::Relaxed)
    }

    /// The same figure, for other threads.
    pub(super) fn progress_handle(&self) -> Progress {
        Progress(self.progress.clone())
    }

    pub(super) fn tell_to_stop(&mut self) {
        drop(self.child.stdin.take());
    }

    /// Waits for its end; what it has seen.
    pub(super) fn finish<T: DeserializeOwned>(mut self) -> Result<T> {
        self.tell_to_stop();
        let output = self.output.take().context("a worker is finished once")?;
        let line = output.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
        let status = self.child.wait()?;
        serde_json::from_str(&line).with_context(|| format!("a worker ended with {status} and said \"{line}\""))
    }
}

/// How far a worker has come.
#[derive(Debug)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Fails when it has ended, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Starts a writer of `written<id>` below `dir`.
pub(super) fn writer(dir: &Path, id: u64) -> Result<Worker> {
    Worker::start(&Work::Write { dir: dir.to_owned(), id })
}

/// One writer's outcome.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Written {
    pub id: u64,
    pub path: PathBuf,
    pub ledger: FileLedger,
    /// Errors of writes and fsyncs. After one, the handle is opened anew.
    pub errors: Vec<String>,
    pub syncs: u64,
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

fn write_until(stop: &AtomicBool, id: u64, path: PathBuf) -> Result<Written> {
    let mut file = open(&path).with_context(|| path.display().to_string())?;
    let mut random = StdRng::seed_from_u64(id);
    let mut out = Written { id, path: path.clone(), ledger: FileLedger::default(), errors: Vec::new(), syncs: 0 };
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..WRITES_PER_SYNC {
            let place = if random.random_bool(0.7) {
                random.random_range(0..HOT_PLACES)
            } else {
                random.random_range(0..PLACES)
            };
            if let Err(error) = out.ledger.write(id, &file, place) {
                out.errors.push(format!("{} block {place}: write: {error}", path.display()));
            }
        }
        match out.ledger.sync(&file) {
            Ok(()) => {
                out.syncs += 1;
                println!("{}", out.syncs);
            }
            Err(error) => {
                out.errors.push(format!("{}: fsync: {error}", path.display()));
                if let Ok(again) = open(&path) {
                    file = again;
                }
            }
        }
    }
    Ok(out)
}

/// Un-synced blocks behind a synced one, in a file that stays open (so that closing does not flush it).
fn control_until(stop: &AtomicBool, path: &Path, id: u64, blocks: u64) -> Result<FileLedger> {
    let file = open(path).with_context(|| path.display().to_string())?;
    let mut ledger = FileLedger::default();
    ledger.write(id, &file, 0)?;
    ledger.sync(&file)?;
    for place in 1..blocks {
        ledger.write(id, &file, place)?;
    }
    println!("1");
    std::io::stdout().flush()?;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Ok(ledger)
}

/// What a reader has seen.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct ReaderResult {
    pub reads: u64,
    /// Blocks that went back from new to old, or were mixed (P2), and read errors.
    pub violations: Vec<String>,
}

fn read_until(stop: &AtomicBool, dir: &Path, writers: u64, seed: u64) -> ReaderResult {
    let mut random = StdRng::seed_from_u64(seed);
    let mut newest: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut result = ReaderResult::default();
    while !stop.load(Ordering::Relaxed) {
        let id = random.random_range(0..writers);
        // Opened anew each time: close-to-open, and no page of this mount's kernel is older than the open.
        let Ok(file) = File::open(dir.join(format!("written{id}"))) else { continue };
        let place = random.random_range(0..HOT_PLACES);
        let mut bytes = vec![0; BLOCK];
        match file.read_exact_at(&mut bytes, place * BLOCK as u64) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
            Err(error) => {
                result.violations.push(format!("file {id} block {place}: read: {error}"));
                continue;
            }
        }
        result.reads += 1;
        let seen = newest.entry((id, place)).or_default();
        match block::read(id, place, &bytes) {
            Content::Write { sequence } if sequence >= *seen => *seen = sequence,
            Content::Write { sequence } => {
                result
                    .violations
                    .push(format!("file {id} block {place} went back from write {seen} to {sequence} (P2)"));
            }
            Content::Hole if *seen == 0 => {}
            Content::Hole => {
                result.violations.push(format!("file {id} block {place} became a hole after write {seen} (P2)"))
            }
            Content::Mixed => result.violations.push(format!("file {id} block {place} is mixed (P2)")),
        }
    }
    result
}

/// Lets writers and readers drop what this machine's kernel has cached of the mounts.
pub(super) fn drop_caches() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches: needs root")
}
