//! What was written and what was acknowledged, kept outside the mount: the truth that a file is compared with after a fault.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::block::{self, BLOCK, Content};
use crate::check::finding::{Finding, Moment};

/// One file of blocks.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FileLedger {
    /// By place: the newest write sent, and the newest one that a successful fsync covers.
    places: BTreeMap<u64, Place>,
    next: u64,
    /// Places that the next fsync is for. What an fsync has failed for may be lost, whatever a later one says.
    #[serde(skip)]
    pending: BTreeSet<u64>,
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
struct Place {
    sent: u64,
    synced: u64,
    /// When the fsync of that write came back.
    synced_at: Moment,
}

impl FileLedger {
    /// Writes the next version of a place. After an error the outcome is unknown: it counts as sent.
    pub fn write(&mut self, id: u64, file: &File, place: u64) -> io::Result<()> {
        self.next += 1;
        let sequence = self.next;
        self.places.entry(place).or_default().sent = sequence;
        self.pending.remove(&place);
        file.write_all_at(&block::make(id, place, sequence), place * BLOCK as u64)?;
        self.pending.insert(place);
        Ok(())
    }

    /// fsync; what was sent before is then acknowledged.
    pub fn sync(&mut self, file: &File) -> io::Result<()> {
        let pending = std::mem::take(&mut self.pending);
        file.sync_all()?;
        let synced_at = Moment::now();
        for place in pending {
            self.places.entry(place).and_modify(|p| *p = Place { synced: p.sent, synced_at, ..*p });
        }
        Ok(())
    }

    /// Blocks that a successful fsync covers.
    pub fn synced_blocks(&self) -> usize {
        self.places.values().filter(|p| p.synced > 0).count()
    }

    /// The ledger as if one write more had been fsynced: its file must not pass (a control).
    pub fn with_a_lost_write(&self) -> Self {
        let mut ledger = self.clone();
        if let Some(place) = ledger.places.values_mut().find(|place| place.synced > 0) {
            place.sent += 1;
            place.synced = place.sent;
        }
        ledger
    }

    /// Compares the file with what must be there: each place at least as new as its last fsync, no newer than what was sent, whole.
    pub fn verify(&self, id: u64, path: &Path) -> Vec<Finding> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(_) if self.synced_blocks() == 0 => return Vec::new(),
            Err(error) => {
                let text = format!("{}: {error}, though an fsync was acknowledged", path.display());
                return vec![Finding::now(text)];
            }
        };
        let mut wrong = Vec::new();
        for (place, expected) in &self.places {
            let mut bytes = vec![0; BLOCK];
            let content = match read_at_most(&file, &mut bytes, place * BLOCK as u64) {
                Ok(0) => Content::Hole,
                Ok(_) => block::read(id, *place, &bytes),
                Err(error) => {
                    wrong.push(Finding::now(format!("{} block {place}: {error}", path.display())));
                    continue;
                }
            };
            let right = match content {
                Content::Hole => expected.synced == 0,
                Content::Write { sequence } => (expected.synced..=expected.sent).contains(&sequence),
                Content::Mixed => false,
            };
            if !right {
                wrong.push(expected.contradicted(content, format!("{} block {place}", path.display())));
            }
        }
        wrong
    }

    /// Places whose last write was never acknowledged and is not there: lost un-synced writes (the control of a power cut).
    pub fn lost_unsynced(&self, id: u64, path: &Path) -> BTreeSet<u64> {
        let file = File::open(path);
        let is_there = |place: u64, sequence: u64| {
            let Ok(file) = &file else { return false };
            let mut bytes = vec![0; BLOCK];
            let read = read_at_most(file, &mut bytes, place * BLOCK as u64);
            read.is_ok_and(|n| n > 0 && block::read(id, place, &bytes) == Content::Write { sequence })
        };
        let unsynced = self.places.iter().filter(|(_, expected)| expected.sent > expected.synced);
        unsynced.filter(|(place, expected)| !is_there(**place, expected.sent)).map(|(place, _)| *place).collect()
    }
}

impl Place {
    /// It went wrong between the fsync and now, or with the write after it.
    fn contradicted(&self, content: Content, what: String) -> Finding {
        let found = match content {
            Content::Hole => "nothing is there".to_owned(),
            Content::Write { sequence } => format!("write {sequence} is there"),
            Content::Mixed => "what is there is no whole write of this block".to_owned(),
        };
        if self.synced == 0 {
            return Finding::from(format!("{what}: {found}; nothing was fsynced, write {} was sent last", self.sent));
        }
        let text = format!("{what}: {found}, but write {} was fsynced, and {} sent last", self.synced, self.sent);
        Finding::between(self.synced_at, Moment::now(), text)
    }
}

/// Fills as much of the buffer as the file has; the rest stays zero.
fn read_at_most(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_synced_block_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let file = File::create(&path).unwrap();
        let mut ledger = FileLedger::default();
        ledger.write(5, &file, 0).unwrap();
        ledger.write(5, &file, 3).unwrap();
        let before = Moment::now();
        ledger.sync(&file).unwrap();
        let after = Moment::now();
        ledger.write(5, &file, 0).unwrap();
        assert!(ledger.verify(5, &path).is_empty());
        assert!(ledger.lost_unsynced(5, &path).is_empty());
        // Back to the synced write: allowed, and counted as a lost un-synced one.
        file.write_all_at(&block::make(5, 0, 1), 0).unwrap();
        assert!(ledger.verify(5, &path).is_empty());
        assert_eq!(ledger.lost_unsynced(5, &path), BTreeSet::from([0]));
        file.set_len(0).unwrap();
        let wrong = ledger.verify(5, &path);
        assert_eq!(wrong.len(), 2);
        assert!(
            wrong[0].text.ends_with("block 0: nothing is there, but write 1 was fsynced, and 3 sent last"),
            "{wrong:?}"
        );
        let (synced_at, found_at) = wrong[0].when.unwrap();
        assert!(before <= synced_at && synced_at <= after && after <= found_at);
    }
}
