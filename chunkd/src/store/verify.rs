//! Comparing every block of a replica with its checksum, when the table alone cannot be trusted (V2).

use std::io;

use caribou_proto::ids::{BLOCK_BYTES, BLOCKS_PER_CHUNK, ChunkId};

use super::crc;
use super::format::table::{ENTRIES, TableSector, block_offset};
use super::open_chunk::{OpenChunk, find_table};
use super::table::{Block, sector_of};

/// Settles each block: of the copies of its entry that can be the last synced one or newer, the one that matches the data wins. A block
/// that cannot be read counts as damaged.
pub(crate) fn verify(open: &mut OpenChunk, chunk: ChunkId) -> io::Result<()> {
    let sectors = find_table(open.file.as_ref(), chunk)?;
    let mut data = vec![0; BLOCK_BYTES as usize];
    for block in 0..BLOCKS_PER_CHUNK {
        let found = &sectors[sector_of(block)];
        let known =
            || std::iter::once(open.table.get(block)).chain(found.candidates.iter().map(move |s| entry(s, block)));
        // A hole by all that is known, whatever lies there: `settle` comes to the same for any bytes.
        if !found.damaged() && known().all(|entry| entry == Block::Hole) {
            continue;
        }
        let known: Vec<Block> = known().collect();
        data.fill(0);
        let readable = open.file.read_at(&mut data, block_offset(block)).is_ok();
        // A copy that is unreadable may have said that the block is written.
        open.table.set(block, settle(&known, found.damaged(), readable.then_some(data.as_slice())));
    }
    Ok(())
}

/// Marks the blocks of a replica that is not in doubt whose bytes have rotted. Its table is right, so no other entry may explain them.
pub(crate) fn find_rot(open: &mut OpenChunk) {
    let mut data = vec![0; BLOCK_BYTES as usize];
    for block in 0..BLOCKS_PER_CHUNK {
        let Block::Written(sum) = open.table.get(block) else { continue };
        data.fill(0);
        let readable = open.file.read_at(&mut data, block_offset(block)).is_ok();
        if !readable || crc::crc(&data) != sum {
            open.table.set(block, Block::Damaged(sum));
        }
    }
}

fn entry(sector: &TableSector, block: u32) -> Block {
    let index = block as usize % ENTRIES;
    if sector.written & (1 << index) != 0 { Block::Written(sector.crcs[index]) } else { Block::Hole }
}

fn settle(known: &[Block], doubtful: bool, data: Option<&[u8]>) -> Block {
    let written = known.iter().find_map(|entry| match entry {
        Block::Written(sum) => Some(*sum),
        Block::Hole | Block::Damaged(_) => None,
    });
    let hole = known.contains(&Block::Hole);
    let Some(data) = data else {
        return if written.is_none() && hole && !doubtful { Block::Hole } else { Block::Damaged(written.unwrap_or(0)) };
    };
    let sum = crc::crc(data);
    if known.contains(&Block::Written(sum)) {
        return Block::Written(sum);
    }
    let zeros = || data.iter().all(|byte| *byte == 0);
    match written {
        // The entry, not synced, came to the disk before its data: the block is what it was, a hole.
        Some(_) if hole && zeros() => Block::Hole,
        Some(sum) => Block::Damaged(sum),
        None if doubtful && !zeros() => Block::Damaged(0),
        // V2: absent; bytes without an entry are punched when the replica is completed.
        None => Block::Hole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_matches_the_data_wins() {
        let data = [5u8; 64];
        let sum = crc::crc(&data);
        let zeros = [0u8; 64];
        let (right, wrong) = (Block::Written(sum), Block::Written(sum ^ 1));
        assert_eq!(settle(&[wrong, right], false, Some(&data)), right);
        assert_eq!(settle(&[Block::Hole, right], false, Some(&data)), right);
        assert_eq!(settle(&[wrong, Block::Hole], false, Some(&zeros)), Block::Hole);
        assert_eq!(settle(&[wrong, Block::Hole], false, Some(&data)), Block::Damaged(sum ^ 1));
        assert_eq!(settle(&[Block::Hole], false, Some(&data)), Block::Hole);
        assert_eq!(settle(&[Block::Hole], true, Some(&data)), Block::Damaged(0));
        assert_eq!(settle(&[right], false, None), Block::Damaged(sum));
        for any in [Some(data.as_slice()), Some(zeros.as_slice()), None] {
            assert_eq!(settle(&[Block::Hole, Block::Hole], false, any), Block::Hole, "so it need not be read");
        }
    }
}
