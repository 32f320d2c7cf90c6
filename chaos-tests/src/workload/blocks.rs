//! Writers of self-describing blocks through a mount, each with its ledger; and readers that must never see a block go back.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::worker::{PAUSE_AFTER_ERROR, Work, Worker, choices, open_again, open_or_make, told};
use crate::block::{self, BLOCK, Content};
use crate::check::finding::Finding;
use crate::ledger::FileLedger;

/// Blocks of one file: over a chunk's end, so that two chunks are in play.
const PLACES: u64 = 20_000;
/// Places that are written again and again.
const HOT_PLACES: u64 = 64;
/// Writes between two fsyncs.
const WRITES_PER_SYNC: usize = 24;
/// Ids of those who share a file, behind all others.
const FIRST_SHARING: u64 = 1_000_000;

/// Starts a writer of `written<id>` below `dir`, which makes the same choices each time.
pub fn writer(dir: &Path, id: u64) -> Result<Worker> {
    Worker::start(&Work::Write { dir: dir.to_owned(), id, seed: 0 })
}

/// One writer's outcome.
#[derive(Debug, Serialize, Deserialize)]
pub struct Written {
    pub id: u64,
    pub path: PathBuf,
    pub ledger: FileLedger,
    /// Errors of writes and fsyncs. After one, the handle is opened anew.
    pub errors: Vec<Finding>,
    pub syncs: u64,
}

/// What one writer writes: a file, or every `step`th block of one that others write too.
pub(super) struct Share {
    id: u64,
    name: String,
    first: u64,
    step: u64,
}

impl Share {
    /// A file of its own.
    pub(super) fn whole(id: u64) -> Self {
        Self { id, name: format!("written{id}"), first: 0, step: 1 }
    }

    /// A part of the one file that `of` writers write, each the blocks between those of the others.
    pub(super) fn part(number: u64, of: u64) -> Self {
        Self { id: FIRST_SHARING + number, name: "shared".to_owned(), first: number, step: of }
    }

    fn place(&self, random: &mut StdRng, most: u64) -> u64 {
        self.first + self.step * random.random_range(0..most / self.step)
    }
}

pub(super) fn write_until(stop: &AtomicBool, dir: &Path, share: &Share, seed: u64) -> Result<Written> {
    let (id, path) = (share.id, dir.join(&share.name));
    let mut file = open_or_make(&path).with_context(|| path.display().to_string())?;
    let mut random = choices(seed, id);
    let mut out = Written { id, path: path.clone(), ledger: FileLedger::default(), errors: Vec::new(), syncs: 0 };
    while !stop.load(Ordering::Relaxed) {
        let mut failures = Vec::new();
        for _ in 0..WRITES_PER_SYNC {
            let most = if random.random_bool(0.7) { HOT_PLACES } else { PLACES };
            let place = share.place(&mut random, most);
            if let Err(error) = out.ledger.write(id, &file, place) {
                failures.push(told(&path, &format!("write of block {place}"), &error));
                break;
            }
        }
        match out.ledger.sync(&file) {
            Ok(()) => {
                out.syncs += 1;
                println!("{}", out.syncs);
            }
            Err(error) => failures.push(told(&path, "fsync", &error)),
        }
        if !failures.is_empty() {
            out.errors.append(&mut failures);
            std::thread::sleep(PAUSE_AFTER_ERROR);
            if let Ok(again) = open_again(&path) {
                file = again;
            }
        }
    }
    Ok(out)
}

/// Un-synced blocks behind a synced one, in a file that stays open (so that closing does not flush it).
pub(super) fn control_until(stop: &AtomicBool, path: &Path, id: u64, blocks: u64) -> Result<FileLedger> {
    let file = open_or_make(path).with_context(|| path.display().to_string())?;
    let mut ledger = FileLedger::default();
    ledger.write(id, &file, 0)?;
    ledger.sync(&file)?;
    for place in 1..blocks {
        ledger.write(id, &file, place)?;
    }
    println!("1");
    std::io::stdout().flush()?;
    while !stop.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(ledger)
}

/// What a reader has seen.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct ReaderResult {
    pub reads: u64,
    /// Blocks that went back from new to old, or were mixed (P2), and read errors.
    pub violations: Vec<Finding>,
}

/// Reads what `writers` and those who share a file write.
pub(super) fn read_until(stop: &AtomicBool, dir: &Path, writers: u64, sharing: u64, seed: u64) -> ReaderResult {
    let parts = (0..sharing).map(|number| Share::part(number, sharing));
    let shares: Vec<Share> = (0..writers).map(Share::whole).chain(parts).collect();
    let mut random = StdRng::seed_from_u64(seed);
    let mut newest: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    let mut result = ReaderResult::default();
    while !stop.load(Ordering::Relaxed) {
        let share = &shares[random.random_range(0..shares.len())];
        let id = share.id;
        // Opened anew each time: close-to-open, and no page of this mount's kernel is older than the open.
        let Ok(file) = File::open(dir.join(&share.name)) else { continue };
        let place = share.place(&mut random, HOT_PLACES);
        let mut bytes = vec![0; BLOCK];
        match file.read_exact_at(&mut bytes, place * BLOCK as u64) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => continue,
            Err(error) => {
                result.found(format!("file {id} block {place}: read: {error}"));
                continue;
            }
        }
        result.reads += 1;
        let seen = newest.entry((id, place)).or_default();
        match block::read(id, place, &bytes) {
            Content::Write { sequence } if sequence >= *seen => *seen = sequence,
            Content::Write { sequence } => {
                result.found(format!("file {id} block {place} went back from write {seen} to {sequence} (P2)"));
            }
            Content::Hole if *seen == 0 => {}
            Content::Hole => result.found(format!("file {id} block {place} became a hole after write {seen} (P2)")),
            Content::Mixed => result.found(format!("file {id} block {place} is mixed (P2)")),
        }
    }
    result
}

impl ReaderResult {
    fn found(&mut self, text: String) {
        self.violations.push(Finding::now(text));
    }
}
