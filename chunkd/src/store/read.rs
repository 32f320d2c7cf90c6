//! Reading: for clients (R1) and for another server's recovery. Nothing leaves that does not match its checksum.

use std::sync::Arc;

use bytes::Bytes;
use caribou_planted::{self as planted, Bug};
use caribou_proto::ids::{BLOCK_BYTES, BLOCKS_PER_CHUNK, CHUNK_BYTES, ChunkId, ChunkVersion, MAX_FRAGMENT_BYTES};

use super::Error;
use super::crc;
use super::disk::DiskFile;
use super::format::table::block_offset;
use super::replica::Replica;
use super::request::{ReadData, RecoveryData};
use super::table::{Block, Table};
use super::volume::Volume;

/// Blocks per recovery read.
pub(crate) const RECOVERY_BLOCKS: u32 = MAX_FRAGMENT_BYTES / BLOCK_BYTES;

/// Whole blocks to be read, as the table knew them at one moment.
struct Plan {
    file: Arc<dyn DiskFile>,
    first: u32,
    blocks: Vec<Block>,
}

impl Plan {
    fn new(file: Arc<dyn DiskFile>, table: &Table, first: u32, last: u32) -> Self {
        Self { file, first, blocks: (first..=last).map(|block| table.get(block)).collect() }
    }

    /// The blocks' bytes, holes as zeros, or the first block that does not match.
    fn read(&self, volume: &Volume, chunk: ChunkId) -> Result<Result<Vec<u8>, u32>, Error> {
        let mut data = vec![0; self.blocks.len() * BLOCK_BYTES as usize];
        if self.blocks.iter().any(|block| *block != Block::Hole)
            && self.file.read_at(&mut data, block_offset(self.first)).is_err()
        {
            self.read_each(volume, chunk, &mut data)?;
        }
        for (index, bytes) in data.chunks_exact_mut(BLOCK_BYTES as usize).enumerate() {
            match self.blocks[index] {
                Block::Hole => bytes.fill(0),
                Block::Written(sum) if crc::crc(bytes) == sum || planted::is(Bug::ChecksumIgnored) => {}
                Block::Written(_) | Block::Damaged(_) => return Ok(Err(self.first + index as u32)),
            }
        }
        Ok(Ok(data))
    }

    /// Block by block: which one cannot be read is damaged, the others are not (R3).
    fn read_each(&self, volume: &Volume, chunk: ChunkId, data: &mut [u8]) -> Result<(), Error> {
        for ((block, state), bytes) in (self.first..).zip(&self.blocks).zip(data.chunks_exact_mut(BLOCK_BYTES as usize))
        {
            if *state != Block::Hole {
                self.file.read_at(bytes, block_offset(block)).map_err(volume.unreadable_block(chunk, block))?;
            }
        }
        Ok(())
    }
}

impl Volume {
    /// R1, V4.
    pub(crate) fn read(
        &self,
        replica: &Arc<Replica>,
        version: ChunkVersion,
        offset: u32,
        length: u32,
    ) -> Result<ReadData, Error> {
        self.check()?;
        let chunk = replica.chunk;
        if length == 0 || length > MAX_FRAGMENT_BYTES || u64::from(offset) + u64::from(length) > CHUNK_BYTES {
            return Err(Error::Invalid("a read has 1 byte to 1 MiB and ends within its chunk"));
        }
        let (first, last) = (offset / BLOCK_BYTES, (offset + length - 1) / BLOCK_BYTES);
        self.make_room()?;
        // First beside a writer; if a block changes meanwhile, its checksum does not match and it is read again with the writer held off.
        let plan = self.plan(replica, version, first, last)?.0;
        let data = match plan.read(self, chunk)? {
            Ok(data) => data,
            Err(_) => {
                let (plan, _state) = self.plan(replica, version, first, last)?;
                plan.read(self, chunk)?.map_err(|block| self.corrupt(chunk, block))?
            }
        };
        let start = (offset - first * BLOCK_BYTES) as usize;
        let data = Bytes::from(data).slice(start..start + length as usize);
        Ok(ReadData { crc: crc::crc(&data), data })
    }

    fn plan<'a>(
        &self,
        replica: &'a Arc<Replica>,
        version: ChunkVersion,
        first: u32,
        last: u32,
    ) -> Result<(Plan, parking_lot::MutexGuard<'a, super::replica::ReplicaState>), Error> {
        let mut state = replica.state.lock();
        state.serves(replica.chunk, version)?;
        // R1
        if let Some(block) = replica.in_flight.lock().first_within(first, last) {
            return Err(Error::NotYet { chunk: replica.chunk, block });
        }
        let open = self.opened(replica, &mut state)?;
        let plan = Plan::new(open.file.clone(), &open.table, first, last);
        Ok((plan, state))
    }

    /// V1: whole blocks for another holder, of a replica that may be incomplete.
    pub(crate) fn read_recovery(
        &self,
        replica: &Arc<Replica>,
        version: ChunkVersion,
        first: u32,
        count: u32,
    ) -> Result<RecoveryData, Error> {
        self.check()?;
        let chunk = replica.chunk;
        if count == 0 || count > RECOVERY_BLOCKS || first.saturating_add(count) > BLOCKS_PER_CHUNK {
            return Err(Error::Invalid("a recovery read has 1 to 16 blocks and ends within its chunk"));
        }
        self.make_room()?;
        let mut state = replica.state.lock();
        let header = state.header(chunk)?;
        if version != header.version && version != header.completed {
            let (have, complete) = (header.version, header.complete);
            return Err(Error::WrongVersion { chunk, asked: version, have, complete });
        }
        self.verify_if_doubtful(replica, &mut state)?;
        let open = self.opened(replica, &mut state)?;
        let plan = Plan::new(open.file.clone(), &open.table, first, first + count - 1);
        let data = plan.read(self, chunk)?.map_err(|block| self.corrupt(chunk, block))?;
        let written = plan.blocks.iter().map(|block| u8::from(*block != Block::Hole)).collect::<Vec<_>>();
        Ok(RecoveryData { crc: crc::crc(&data), data: data.into(), written: written.into() })
    }
}
