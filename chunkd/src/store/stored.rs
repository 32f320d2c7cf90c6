//! A replica's file as it lies on a disk, for who looks at it from outside: the chaos harness. Nothing is changed, and no server asked.

use std::io;
use std::path::Path;
use std::sync::Arc;

use caribou_proto::ids::{BLOCK_BYTES, BLOCKS_PER_CHUNK, ChunkId, ChunkVersion};

use super::crc;
use super::disk::{Disk, DiskFile, OpenMode};
use super::file::FileDisk;
use super::open_chunk::{OpenChunk, find_header};
use super::table::{Block, Table};

pub use super::format::table::DATA_AT;
pub use super::layout::chunk_path;

/// What the file says of itself.
#[derive(Clone, Debug)]
pub struct StoredReplica {
    /// 0: no copy of the header is sound.
    pub version: ChunkVersion,
    /// The highest version completed; 0: none.
    pub completed: ChunkVersion,
    /// Not if a copy of the header is damaged, which may be the newest.
    pub complete: bool,
    table: Table,
}

impl StoredReplica {
    /// The replica in a data folder; `None` if it has none. Its server may be at work, but nobody writes to the chunk.
    pub fn read(folder: &Path, chunk: ChunkId) -> io::Result<Option<Self>> {
        let opened = FileDisk::open(folder).and_then(|disk| Disk::open(&disk, &chunk_path(chunk), OpenMode::Existing));
        let file: Arc<dyn DiskFile> = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            opened => Arc::from(opened?),
        };
        let found = find_header(file.as_ref())?;
        let is_doubtful = found.damaged || found.too_new.is_some();
        let header = found.newest.filter(|stored| stored.owner.chunk == chunk).map(|stored| stored.header);
        Ok(Some(Self {
            version: header.map_or(ChunkVersion(0), |header| header.version),
            completed: header.map_or(ChunkVersion(0), |header| header.completed),
            complete: !is_doubtful && header.is_some_and(|header| header.complete),
            table: OpenChunk::load(file, chunk)?.table,
        }))
    }

    /// Blocks whose bytes contradict the table: a checksum that does not hold, or a hole that is not zero; and those of entries that are
    /// damaged themselves. `data`: what the file has from [`DATA_AT`] on; zeros follow.
    pub fn wrong_blocks(&self, data: &[u8]) -> Vec<u32> {
        (0..BLOCKS_PER_CHUNK).filter(|block| !self.matches(*block, part(data, *block))).collect()
    }

    fn matches(&self, block: u32, bytes: &[u8]) -> bool {
        match self.table.get(block) {
            Block::Hole => bytes.iter().all(|byte| *byte == 0),
            Block::Written(sum) => {
                let missing = BLOCK_BYTES - bytes.len() as u32;
                crc::concat(crc::crc(bytes), crc::of_zeros(missing), missing) == sum
            }
            Block::Damaged(_) => false,
        }
    }
}

/// What there is of a block.
fn part(data: &[u8], block: u32) -> &[u8] {
    let start = (block as usize * BLOCK_BYTES as usize).min(data.len());
    let end = (start + BLOCK_BYTES as usize).min(data.len());
    &data[start..end]
}
