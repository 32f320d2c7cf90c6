//! The checksum table of an open chunk, in memory: one entry per block.

use caribou_proto::ids::{BLOCKS_PER_CHUNK, ChunkId};

use super::format::table::{ENTRIES, SECTORS, TableSector};
use super::slots::Stamp;

/// What is known of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Block {
    /// Not written: zeros on a complete replica (V4), and zeros on disk.
    Hole,
    /// The CRC of its 64 KiB.
    Written(u32),
    /// Written, but the data or the entry are damaged; the CRC is the last one known. Never served.
    Damaged(u32),
}

/// All entries. 4 KiB and a bit.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    crcs: Vec<u32>,
    written: [u64; SECTORS],
    damaged: [u64; SECTORS],
}

/// The table sector that holds a block's entry.
pub(crate) fn sector_of(block: u32) -> usize {
    block as usize / ENTRIES
}

fn bit_of(block: u32) -> u64 {
    1 << (block as usize % ENTRIES)
}

impl Table {
    pub(crate) fn new() -> Self {
        Self { crcs: vec![0; BLOCKS_PER_CHUNK as usize], written: [0; SECTORS], damaged: [0; SECTORS] }
    }

    pub(crate) fn get(&self, block: u32) -> Block {
        let (sector, bit, crc) = (sector_of(block), bit_of(block), self.crcs[block as usize]);
        if self.damaged[sector] & bit != 0 {
            Block::Damaged(crc)
        } else if self.written[sector] & bit != 0 {
            Block::Written(crc)
        } else {
            Block::Hole
        }
    }

    pub(crate) fn set(&mut self, block: u32, state: Block) {
        let (sector, bit) = (sector_of(block), bit_of(block));
        let (written, damaged, crc) = match state {
            Block::Hole => (false, false, 0),
            Block::Written(crc) => (true, false, crc),
            Block::Damaged(crc) => (true, true, crc),
        };
        self.crcs[block as usize] = crc;
        self.written[sector] = if written { self.written[sector] | bit } else { self.written[sector] & !bit };
        self.damaged[sector] = if damaged { self.damaged[sector] | bit } else { self.damaged[sector] & !bit };
    }

    /// Takes over a sector as found on disk.
    pub(crate) fn load(&mut self, sector: &TableSector) {
        let first = sector.index * ENTRIES;
        self.crcs[first..first + ENTRIES].copy_from_slice(&sector.crcs);
        self.written[sector.index] = sector.written;
        self.damaged[sector.index] = 0;
    }

    /// Nothing is certain about a sector's blocks.
    pub(crate) fn distrust(&mut self, sector: usize) {
        self.written[sector] = u64::MAX;
        self.damaged[sector] = u64::MAX;
    }

    /// What a sector is to say on disk. Damage shows there by the checksum alone.
    pub(crate) fn store(&self, chunk: ChunkId, index: usize, stamp: Stamp) -> TableSector {
        let first = index * ENTRIES;
        let crcs = std::array::from_fn(|entry| self.crcs[first + entry]);
        TableSector { chunk, index, stamp, written: self.written[index], crcs }
    }

    /// Runs of holes, as first block and count.
    pub(crate) fn holes(&self) -> Vec<(u32, u32)> {
        let mut runs: Vec<(u32, u32)> = Vec::new();
        for block in (0..BLOCKS_PER_CHUNK).filter(|block| self.get(*block) == Block::Hole) {
            match runs.last_mut() {
                Some((first, count)) if *first + *count == block => *count += 1,
                _ => runs.push((block, 1)),
            }
        }
        runs
    }
}
