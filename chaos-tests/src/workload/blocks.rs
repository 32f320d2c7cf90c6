//! Writers of self-describing blocks through a mount, each with its ledger; and readers that must never see a block go back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

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
/// How often a reader says how far it has come.
const TELL_EVERY: Duration = Duration::from_millis(100);

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

/// The places that a control of so many blocks leaves un-synced.
pub fn unsynced_places(blocks: u64) -> Range<u64> {
    1..blocks - 1
}

/// Un-synced blocks between two synced ones, which make the file as long as it is going to be: what is lost is not lost with its length. The
/// file stays open, so that closing does not flush it.
pub(super) fn control_until(stop: &AtomicBool, path: &Path, id: u64, blocks: u64) -> Result<FileLedger> {
    let file = open_or_make(path).with_context(|| path.display().to_string())?;
    let mut ledger = FileLedger::default();
    for place in [0, blocks - 1] {
        ledger.write(id, &file, place)?;
    }
    ledger.sync(&file)?;
    for place in unsynced_places(blocks) {
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
    /// Blocks that went back from new to old, vanished or were mixed (P2), and errors: nobody harms a reader's mount.
    pub violations: Vec<Finding>,
}

/// Reads what `writers` and those who share a file write.
pub(super) fn read_until(stop: &AtomicBool, dir: &Path, writers: u64, sharing: u64, seed: u64) -> ReaderResult {
    let parts = (0..sharing).map(|number| Share::part(number, sharing));
    let shares: Vec<Share> = (0..writers).map(Share::whole).chain(parts).collect();
    let mut random = StdRng::seed_from_u64(seed);
    let (mut reader, mut told_at) = (Reader::default(), Instant::now());
    let mut violations = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let share = &shares[random.random_range(0..shares.len())];
        let place = share.place(&mut random, HOT_PLACES);
        if let Err(text) = reader.read(share, dir, place) {
            violations.push(Finding::now(text));
            std::thread::sleep(PAUSE_AFTER_ERROR);
        }
        if told_at.elapsed() >= TELL_EVERY {
            println!("{}", reader.reads);
            told_at = Instant::now();
        }
    }
    ReaderResult { reads: reader.reads, violations }
}

/// What one reader knows.
#[derive(Debug, Default)]
struct Reader {
    reads: u64,
    /// The newest write that it has seen of each block, by the writer's id and the place.
    newest: BTreeMap<(u64, u64), u64>,
    /// Files that are there.
    there: BTreeSet<String>,
}

impl Reader {
    /// Reads one block; what is wrong with it.
    fn read(&mut self, share: &Share, dir: &Path, place: u64) -> Result<(), String> {
        let (id, name) = (share.id, &share.name);
        // Opened anew each time: close-to-open, and no page of this mount's kernel is older than the open.
        let file = match File::open(dir.join(name)) {
            Ok(file) => file,
            // Its writer has not made it yet.
            Err(error) if error.kind() == ErrorKind::NotFound && !self.there.contains(name) => return Ok(()),
            Err(error) => return Err(format!("file {id}: open: {error}")),
        };
        if !self.there.contains(name) {
            self.there.insert(name.clone());
        }
        let seen = self.newest.get(&(id, place)).copied().unwrap_or(0);
        let mut bytes = vec![0; BLOCK];
        match file.read_exact_at(&mut bytes, place * BLOCK as u64) {
            Ok(()) => {}
            // The file does not reach so far yet.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof && seen == 0 => return Ok(()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                return Err(format!(
                    "file {id} has become shorter: it ended before block {place} after write {seen} (P2)"
                ));
            }
            Err(error) => return Err(format!("file {id} block {place}: read: {error}")),
        }
        self.reads += 1;
        match block::read(id, place, &bytes) {
            Content::Write { sequence } if sequence >= seen => {
                self.newest.insert((id, place), sequence);
                Ok(())
            }
            Content::Write { sequence } => {
                Err(format!("file {id} block {place} went back from write {seen} to {sequence} (P2)"))
            }
            Content::Hole if seen == 0 => Ok(()),
            Content::Hole => Err(format!("file {id} block {place} became a hole after write {seen} (P2)")),
            Content::Mixed => Err(format!("file {id} block {place} is mixed (P2)")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_back_vanishes_or_is_mixed_is_found_by_a_reader() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut reader, share, place) = (Reader::default(), Share::whole(7), 3);
        assert_eq!(reader.read(&share, dir.path(), place), Ok(()), "nobody has made it yet");
        let path = dir.path().join(&share.name);
        let file = open_or_make(&path).expect("made");
        assert_eq!((reader.read(&share, dir.path(), place), reader.reads), (Ok(()), 0), "it is empty yet");
        let write =
            |sequence| file.write_all_at(&block::make(7, place, sequence), place * BLOCK as u64).expect("written");
        for sequence in [1, 1, 4] {
            write(sequence);
            assert_eq!(reader.read(&share, dir.path(), place), Ok(()));
        }
        write(2);
        let mut found = vec![reader.read(&share, dir.path(), place)];
        file.write_all_at(b"mixed up", place * BLOCK as u64 + 100).expect("written");
        found.push(reader.read(&share, dir.path(), place));
        file.set_len(place * BLOCK as u64).expect("cut");
        found.push(reader.read(&share, dir.path(), place));
        file.set_len((place + 1) * BLOCK as u64).expect("made longer");
        found.push(reader.read(&share, dir.path(), place));
        std::fs::remove_file(&path).expect("removed");
        found.push(reader.read(&share, dir.path(), place));
        for (found, text) in found.into_iter().zip(["went back", "mixed", "shorter", "a hole", "open"]) {
            assert!(found.as_ref().is_err_and(|found| found.contains(text)), "{text}: {found:?}");
        }
    }
}
