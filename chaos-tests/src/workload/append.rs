//! A log that grows at its end: records of equal size, in order, synced now and then. Whatever happens, the file is a beginning of what was
//! appended, and at least as long as what was synced.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::worker::{PAUSE_AFTER_ERROR, choices, told};
use crate::check::finding::Finding;

const RECORD: usize = 64;
/// Records between two syncs.
const RECORDS_PER_SYNC: std::ops::RangeInclusive<u64> = 1..=15;

/// What was appended.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Appended {
    pub id: u64,
    pub path: PathBuf,
    /// Records that a successful fsync covers.
    pub synced: u64,
    /// Records that were sent, whatever came of them.
    pub sent: u64,
    pub errors: Vec<Finding>,
    /// What was wrong with the file when it was opened anew.
    pub violations: Vec<Finding>,
}

fn record(id: u64, number: u64) -> Vec<u8> {
    let mut line = format!("log {id} record {number} ").into_bytes();
    line.resize(RECORD - 1, b'.');
    line.push(b'\n');
    line
}

pub(super) fn append_until(stop: &AtomicBool, id: u64, path: PathBuf, seed: u64) -> Result<Appended> {
    let made = OpenOptions::new().create(true).append(true).open(&path);
    let mut file = made.with_context(|| path.display().to_string())?;
    let mut log = Appended { id, path: path.clone(), ..Appended::default() };
    let (mut random, mut next) = (choices(seed, id), 0);
    while !stop.load(Ordering::Relaxed) {
        let count = random.random_range(RECORDS_PER_SYNC);
        match log.append_some(&mut file, next, count) {
            Ok(()) => {
                next += count;
                println!("{next}");
            }
            Err(error) => {
                log.errors.push(told(&path, "append", &error));
                std::thread::sleep(PAUSE_AFTER_ERROR);
                // What of it is there decides where to go on.
                if let Some((again, records)) = log.resume() {
                    (file, next) = (again, records);
                }
            }
        }
    }
    Ok(log)
}

impl Appended {
    fn append_some(&mut self, file: &mut File, first: u64, count: u64) -> std::io::Result<()> {
        for number in first..first + count {
            self.sent = self.sent.max(number + 1);
            file.write_all(&record(self.id, number))?;
        }
        file.sync_all()?;
        self.synced = first + count;
        Ok(())
    }

    /// Opens the file anew, if the mount lets it: it must be a whole number of records, as `verify` says.
    fn resume(&mut self) -> Option<(File, u64)> {
        let file = OpenOptions::new().read(true).append(true).open(&self.path).ok()?;
        let length = file.metadata().ok()?.len();
        let found = self.verify(&self.path.clone());
        self.violations.extend(found.into_iter().map(Finding::now));
        Some((file, length / RECORD as u64))
    }

    /// The same as if one record more than were ever sent had been synced: its file must not pass (a control).
    pub fn with_a_lost_record(&self) -> Self {
        let more = self.sent + 1;
        Self { synced: more, sent: more, ..self.clone() }
    }

    /// Compares the file with what was appended.
    pub fn verify(&self, path: &Path) -> Vec<String> {
        let mut bytes = Vec::new();
        if let Err(error) = File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            return vec![format!("{}: {error}", path.display())];
        }
        let mut wrong = Vec::new();
        let records = (bytes.len() / RECORD) as u64;
        if bytes.len() % RECORD != 0 || records < self.synced || records > self.sent {
            wrong.push(format!(
                "{}: {} bytes, which is not between the {} records that were synced and the {} that were sent",
                path.display(),
                bytes.len(),
                self.synced,
                self.sent
            ));
        }
        let mut found = bytes.chunks_exact(RECORD).zip(0..);
        if let Some((line, number)) = found.find(|(line, number)| *line != record(self.id, *number)) {
            let line = String::from_utf8_lossy(line);
            wrong.push(format!("{}: record {number} is {line:?}", path.display()));
        }
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_synced_and_is_missing_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("appended7");
        let mut log = Appended { id: 7, path: path.clone(), ..Appended::default() };
        let mut file = OpenOptions::new().create(true).append(true).open(&path).expect("made");
        log.append_some(&mut file, 0, 8).expect("appended");
        assert_eq!(log.verify(&path), Vec::<String>::new());
        assert_eq!(log.with_a_lost_record().verify(&path).len(), 1);
        file.set_len(7 * RECORD as u64).expect("cut");
        assert_eq!(log.verify(&path).len(), 1);
        file.write_all(&record(7, 8)).expect("appended");
        assert!(log.verify(&path)[0].contains("record 7 is \"log 7 record 8"), "{:?}", log.verify(&path));
    }
}
