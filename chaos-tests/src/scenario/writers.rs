//! Writers of self-describing blocks through a mount, each with its ledger; and readers that must never see a block go back.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::block::{self, BLOCK, Content};
use crate::ledger::FileLedger;

/// Blocks of one file: over a chunk's end, so that two chunks are in play.
const PLACES: u64 = 20_000;
/// Places that are written again and again.
const HOT_PLACES: u64 = 64;
/// Writes between two fsyncs.
const WRITES_PER_SYNC: usize = 24;

/// One writer's outcome.
#[derive(Debug)]
pub(super) struct Written {
    pub id: u64,
    pub path: PathBuf,
    pub ledger: FileLedger,
    /// Errors of writes and fsyncs. After one, the handle is opened anew.
    pub errors: Vec<String>,
    pub syncs: u64,
}

/// A thread that writes until it is stopped.
pub(super) struct Writer {
    stop: Arc<AtomicBool>,
    syncs: Arc<AtomicU64>,
    thread: JoinHandle<Result<Written>>,
}

impl Writer {
    pub(super) fn start(dir: &Path, id: u64) -> Self {
        let (stop, syncs) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (path, thread_stop, thread_syncs) = (dir.join(format!("written{id}")), stop.clone(), syncs.clone());
        let thread = std::thread::spawn(move || write_until(&thread_stop, &thread_syncs, id, path));
        Self { stop, syncs, thread }
    }

    /// Successful fsyncs so far.
    pub(super) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    pub(super) fn tell_to_stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub(super) fn finish(self) -> Result<Written> {
        self.tell_to_stop();
        self.thread.join().map_err(|_| anyhow::anyhow!("a writer panicked"))?
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path)
}

fn write_until(stop: &AtomicBool, syncs: &AtomicU64, id: u64, path: PathBuf) -> Result<Written> {
    let mut file = open(&path).with_context(|| path.display().to_string())?;
    let mut random = StdRng::seed_from_u64(id);
    let mut out = Written { id, path: path.clone(), ledger: FileLedger::default(), errors: Vec::new(), syncs: 0 };
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..WRITES_PER_SYNC {
            let place = if random.random_bool(0.7) { random.random_range(0..HOT_PLACES) } else { random.random_range(0..PLACES) };
            if let Err(error) = out.ledger.write(id, &file, place) {
                out.errors.push(format!("{} block {place}: write: {error}", path.display()));
            }
        }
        match out.ledger.sync(&file) {
            Ok(()) => {
                out.syncs += 1;
                syncs.store(out.syncs, Ordering::Relaxed);
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

/// A thread that reads other mounts' files and remembers the newest write it saw of each block.
pub(super) struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<ReaderResult>,
}

#[derive(Debug, Default)]
pub(super) struct ReaderResult {
    pub reads: u64,
    /// Blocks that went back from new to old, or were mixed (P2), and read errors.
    pub violations: Vec<String>,
}

impl Reader {
    pub(super) fn start(dir: PathBuf, ids: Vec<u64>, seed: u64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let thread_stop = stop.clone();
        Self { stop, thread: std::thread::spawn(move || read_until(&thread_stop, &dir, &ids, seed)) }
    }

    pub(super) fn finish(self) -> Result<ReaderResult> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("a reader panicked"))
    }
}

fn read_until(stop: &AtomicBool, dir: &Path, ids: &[u64], seed: u64) -> ReaderResult {
    let mut random = StdRng::seed_from_u64(seed);
    let mut newest: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut result = ReaderResult::default();
    while !stop.load(Ordering::Relaxed) {
        let id = ids[random.random_range(0..ids.len())];
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
                result.violations.push(format!("file {id} block {place} went back from write {seen} to {sequence} (P2)"));
            }
            Content::Hole if *seen == 0 => {}
            Content::Hole => result.violations.push(format!("file {id} block {place} became a hole after write {seen} (P2)")),
            Content::Mixed => result.violations.push(format!("file {id} block {place} is mixed (P2)")),
        }
    }
    result
}

/// Lets writers and readers drop what this machine's kernel has cached of the mounts.
pub(super) fn drop_caches() -> Result<()> {
    std::fs::write("/proc/sys/vm/drop_caches", "3").context("/proc/sys/vm/drop_caches: needs root")
}
