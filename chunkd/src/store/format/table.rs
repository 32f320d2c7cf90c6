//! The checksum table of a chunk's file: 16 sectors of 64 entries, each sector in three slots (see `slots.rs`), and where data begin.
//!
//! An entry is the CRC-32C of the block's full 64 KiB (what was never written in it counts as zeros) and a *written* flag.

use caribou_proto::ids::{BLOCK_BYTES, BLOCKS_PER_CHUNK, CHUNK_BYTES, ChunkId};

use super::super::slots::{SLOTS, Stamp};
use super::{Decoded, SECTOR, put, seal, u16_at, u32_at, u64_at, unsealed};

pub(crate) const ENTRIES: usize = 64;
pub(crate) const SECTORS: usize = BLOCKS_PER_CHUNK as usize / ENTRIES;
const MAGIC: &[u8; 4] = b"CBT1";
const TABLES_AT: u64 = 16 << 10;
const SLOT_BYTES: u64 = (SECTORS * SECTOR) as u64;
/// All slots of the table, in one read.
pub(crate) const TABLES: std::ops::Range<u64> = TABLES_AT..TABLES_AT + SLOTS as u64 * SLOT_BYTES;
/// Where block 0 begins.
pub const DATA_AT: u64 = BLOCK_BYTES as u64;
/// Length of a chunk's file, sparse, from its creation on: so no write changes the length, and nothing that a crash leaves
/// behind the end of a file comes back when it grows.
pub(crate) const FILE_BYTES: u64 = DATA_AT + CHUNK_BYTES;
const CRCS_AT: usize = 48;

/// 64 entries as found in a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableSector {
    pub(crate) chunk: ChunkId,
    pub(crate) index: usize,
    pub(crate) stamp: Stamp,
    /// Bit i: entry i is written.
    pub(crate) written: u64,
    /// 0 where not written.
    pub(crate) crcs: [u32; ENTRIES],
}

pub(crate) fn offset(slot: usize, index: usize) -> u64 {
    assert!(slot < SLOTS && index < SECTORS);
    TABLES_AT + slot as u64 * SLOT_BYTES + (index * SECTOR) as u64
}

/// Where a block begins in the file.
pub(crate) fn block_offset(block: u32) -> u64 {
    assert!(block < BLOCKS_PER_CHUNK);
    DATA_AT + u64::from(block) * u64::from(BLOCK_BYTES)
}

pub(crate) fn encode(table: &TableSector) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    put(&mut sector, 0, &table.chunk.0.to_le_bytes());
    put(&mut sector, 8, &table.stamp.sequence.to_le_bytes());
    put(&mut sector, 16, &table.stamp.synced.to_le_bytes());
    put(&mut sector, 24, &(table.index as u16).to_le_bytes());
    put(&mut sector, 28, MAGIC);
    put(&mut sector, 32, &table.written.to_le_bytes());
    for (entry, crc) in table.crcs.iter().enumerate() {
        put(&mut sector, CRCS_AT + entry * 4, &crc.to_le_bytes());
    }
    seal(&mut sector);
    sector
}

/// A sector of another chunk or another place in the table is damage.
pub(crate) fn decode(sector: &[u8; SECTOR], chunk: ChunkId, index: usize) -> Decoded<TableSector> {
    if let Some(wrong) = unsealed(sector) {
        return wrong;
    }
    let stamp = Stamp { sequence: u64_at(sector, 8), synced: u64_at(sector, 16) };
    let in_place = u64_at(sector, 0) == chunk.0 && u16_at(sector, 24) as usize == index;
    if &sector[28..32] != MAGIC || !in_place || !stamp.is_valid() {
        return Decoded::Damaged;
    }
    let crcs = std::array::from_fn(|entry| u32_at(sector, CRCS_AT + entry * 4));
    Decoded::Valid(TableSector { chunk, index, stamp, written: u64_at(sector, 32), crcs })
}
