//! What a disk's server has found wrong with its replicas (R3): some are lost as a whole, of others single blocks are damaged.
//!
//! Hints for the leader, in memory only: after a restart damage is found again when it is read. Invariant: a damaged block leaves the list only
//! once it has been written anew as a whole, or when the replica has been read again and it matches; what the table of an open file says is
//! no proof, since its marks go when the file is closed.

use std::collections::{BTreeMap, BTreeSet};

use caribou_proto::ids::{BLOCKS_PER_CHUNK, ChunkId};
use parking_lot::Mutex;

use super::open_chunk::OpenChunk;
use super::table::Block;
use super::verify;
use super::volume::Volume;

/// Replicas of each kind that are remembered, per disk.
const SUSPECTS: usize = 10_000;
const WORDS: usize = BLOCKS_PER_CHUNK as usize / 64;

/// Some blocks of one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Blocks([u64; WORDS]);

impl Blocks {
    fn insert(&mut self, block: u32) {
        self.0[block as usize / 64] |= 1 << (block % 64);
    }

    fn remove(&mut self, block: u32) {
        self.0[block as usize / 64] &= !(1 << (block % 64));
    }

    fn count(&self) -> u32 {
        self.0.iter().map(|word| word.count_ones()).sum()
    }
}

/// The suspected replicas of one disk. Never blocks.
#[derive(Default)]
pub(crate) struct Suspects(Mutex<Known>);

#[derive(Default)]
struct Known {
    lost: BTreeSet<ChunkId>,
    /// Never without a block.
    damaged: BTreeMap<ChunkId, Blocks>,
}

impl Suspects {
    /// `lost`: what the scan at the start has found.
    pub(crate) fn new(lost: BTreeSet<ChunkId>) -> Self {
        Self(Mutex::new(Known { lost, damaged: BTreeMap::new() }))
    }

    /// The file as a whole is of no use.
    pub(crate) fn lost(&self, chunk: ChunkId) {
        let mut known = self.0.lock();
        if known.lost.len() < SUSPECTS {
            known.lost.insert(chunk);
        }
    }

    pub(crate) fn is_lost(&self, chunk: ChunkId) -> bool {
        self.0.lock().lost.contains(&chunk)
    }

    /// There is a file that can be used again: a recovery has completed it.
    pub(crate) fn regained(&self, chunk: ChunkId) {
        self.0.lock().lost.remove(&chunk);
    }

    /// A block does not match its checksum, or cannot be read.
    pub(crate) fn damaged(&self, chunk: ChunkId, block: u32) {
        let mut known = self.0.lock();
        if known.damaged.len() < SUSPECTS || known.damaged.contains_key(&chunk) {
            known.damaged.entry(chunk).or_default().insert(block);
        }
    }

    /// These blocks have been written anew as a whole.
    pub(crate) fn written(&self, chunk: ChunkId, blocks: impl Iterator<Item = u32>) {
        let mut known = self.0.lock();
        let Some(damaged) = known.damaged.get_mut(&chunk) else { return };
        blocks.for_each(|block| damaged.remove(block));
        if damaged.count() == 0 {
            known.damaged.remove(&chunk);
        }
    }

    /// All blocks have been looked at: these are damaged, the others are not.
    fn examined(&self, chunk: ChunkId, damaged: Blocks) {
        let mut known = self.0.lock();
        if damaged.count() == 0 {
            known.damaged.remove(&chunk);
        } else if known.damaged.len() < SUSPECTS || known.damaged.contains_key(&chunk) {
            known.damaged.insert(chunk, damaged);
        }
    }

    /// The replica has been deleted.
    pub(crate) fn forget(&self, chunk: ChunkId) {
        let mut known = self.0.lock();
        known.lost.remove(&chunk);
        known.damaged.remove(&chunk);
    }

    fn contains(&self, chunk: ChunkId) -> bool {
        let known = self.0.lock();
        known.lost.contains(&chunk) || known.damaged.contains_key(&chunk)
    }

    pub(crate) fn all_lost(&self) -> Vec<ChunkId> {
        self.0.lock().lost.iter().copied().collect()
    }

    /// With the number of blocks. What is lost as a whole is not among them.
    pub(crate) fn all_damaged(&self) -> Vec<(ChunkId, u32)> {
        let known = self.0.lock();
        let damaged = known.damaged.iter().filter(|(chunk, _)| !known.lost.contains(*chunk));
        damaged.map(|(chunk, blocks)| (*chunk, blocks.count())).collect()
    }
}

impl Volume {
    /// R3: reads a suspected replica as a whole; afterwards exactly its damaged blocks are known, in the table and to the leader. One that nobody
    /// suspects is not read: what its table says counts. The caller holds the state's lock.
    pub(crate) fn examine(&self, chunk: ChunkId, open: &mut OpenChunk) {
        if self.suspects.contains(chunk) {
            verify::find_rot(open);
        }
        let mut damaged = Blocks::default();
        let is_damaged = |block: &u32| matches!(open.table.get(*block), Block::Damaged(_));
        (0..BLOCKS_PER_CHUNK).filter(is_damaged).for_each(|block| damaged.insert(block));
        self.suspects.examined(chunk, damaged);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_damaged_as_long_as_one_of_its_blocks_is() {
        let (suspects, chunk) = (Suspects::new(BTreeSet::from([ChunkId(9)])), ChunkId(5));
        for block in [0, 63, 64, BLOCKS_PER_CHUNK - 1, 64] {
            suspects.damaged(chunk, block);
        }
        assert_eq!(suspects.all_damaged(), [(chunk, 4)]);
        suspects.written(chunk, [63, 64, 65].into_iter());
        assert_eq!(suspects.all_damaged(), [(chunk, 2)]);
        suspects.written(chunk, [0, BLOCKS_PER_CHUNK - 1].into_iter());
        assert!(suspects.all_damaged().is_empty() && !suspects.contains(chunk));
        assert_eq!(suspects.all_lost(), [ChunkId(9)]);
    }

    #[test]
    fn what_is_lost_is_not_told_as_damaged_too() {
        let (suspects, chunk) = (Suspects::default(), ChunkId(5));
        suspects.damaged(chunk, 7);
        suspects.lost(chunk);
        assert!(suspects.all_damaged().is_empty());
        suspects.regained(chunk);
        assert_eq!((suspects.all_lost(), suspects.all_damaged()), (vec![], vec![(chunk, 1)]), "its block still is");
        suspects.forget(chunk);
        assert!(!suspects.contains(chunk));
    }
}
