//! Writing a fragment (W2, W3): checks, room, journal, data, checksum. Sync is elsewhere (`Volume::sync_replica`).

use std::sync::Arc;

use caribou_proto::ids::{BLOCK_BYTES, CHUNK_BYTES, MAX_FRAGMENT_BYTES};

use super::Error;
use super::crc;
use super::format::header::Header;
use super::format::table::DATA_AT;
use super::replica::{Replica, ReplicaState, lowest_grant};
use super::request::{Write, Written};
use super::table::{Block, sector_of};
use super::volume::Volume;

/// The part of a fragment that lies in one block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    block: u32,
    /// Within the block.
    start: u32,
    length: u32,
    crc: u32,
}

impl Piece {
    fn after(&self) -> u32 {
        BLOCK_BYTES - self.start - self.length
    }
    fn offset(&self) -> u64 {
        DATA_AT + u64::from(self.block) * u64::from(BLOCK_BYTES) + u64::from(self.start)
    }
}

/// Cuts a fragment at block boundaries and checks it against the CRC that it came with: one pass for both.
fn pieces(write: &Write) -> Result<Vec<Piece>, Error> {
    let length = write.data.len();
    if length == 0 || length > MAX_FRAGMENT_BYTES as usize {
        return Err(Error::Invalid("a fragment has 1 byte to 1 MiB"));
    }
    if u64::from(write.offset) + length as u64 > CHUNK_BYTES {
        return Err(Error::Invalid("a fragment ends within its chunk"));
    }
    let (mut pieces, mut done, mut whole) = (Vec::new(), 0usize, 0);
    while done < length {
        let at = write.offset + done as u32;
        let start = at % BLOCK_BYTES;
        let part = (BLOCK_BYTES - start).min((length - done) as u32);
        let sum = crc::crc(&write.data[done..done + part as usize]);
        whole = crc::concat(whole, sum, part);
        pieces.push(Piece { block: at / BLOCK_BYTES, start, length: part, crc: sum });
        done += part as usize;
    }
    if whole != write.crc {
        return Err(Error::DamagedFragment { chunk: write.chunk });
    }
    Ok(pieces)
}

impl Volume {
    /// Runs in the chunk's lane.
    pub(crate) fn write(&self, replica: &Arc<Replica>, write: &Write) -> Result<Written, Error> {
        self.check()?;
        let pieces = pieces(write)?;
        self.make_room()?;
        let mut state = replica.state.lock();
        let mut header = self.admit(replica, &mut state, write)?;
        let blocks = self.summed(replica, &mut state, &pieces)?;
        self.claim(replica, &mut state, &blocks)?;

        replica.begin_write(self.now_ms());
        self.journal(write.chunk, &header, write.grant)?;
        // R1: before any byte of it can be read.
        let (first, last) = (pieces[0].block, pieces[pieces.len() - 1].block);
        let ticket = (!write.tail).then(|| replica.in_flight.lock().begin(write.chunk, first, last));
        let new_grant = write.grant > header.last_grant;
        header.last_grant = header.last_grant.max(write.grant);
        let result = self.put(replica, &mut state, write, new_grant.then_some(header), &blocks);
        if let Err(error) = result {
            // Half of it may be there: the data decide at the recovery (V2). The journal keeps the chunk meanwhile.
            state.dirty = true;
            state.verified = false;
            replica.publish(&state);
            return Err(error);
        }
        // R3: whatever was there before.
        let whole = pieces.iter().filter(|piece| piece.length == BLOCK_BYTES);
        self.suspects.written(write.chunk, whole.map(|piece| piece.block));
        if new_grant {
            state.header = Some(header);
            replica.publish(&state);
        }
        Ok(Written { ticket })
    }

    /// W2, F3, V1, V3: may this fragment be written here?
    fn admit(&self, replica: &Arc<Replica>, state: &mut ReplicaState, write: &Write) -> Result<Header, Error> {
        let chunk = write.chunk;
        if state.header.is_none() {
            let result = self.create_by_write(replica, state, write);
            if result.is_err() {
                self.forget(replica, state);
            }
            result?;
        }
        let header = state.serves(chunk, write.version)?;
        let lowest = lowest_grant(&header);
        if write.grant < lowest {
            return Err(Error::OldGrant { chunk, asked: write.grant, lowest });
        }
        Ok(header)
    }

    fn create_by_write(&self, replica: &Arc<Replica>, state: &mut ReplicaState, write: &Write) -> Result<(), Error> {
        let (chunk, version, last_grant) = (write.chunk, write.version, write.grant);
        if !write.create {
            return Err(if self.tombstones.contains(chunk) {
                Error::Deleted { chunk }
            } else {
                Error::NoReplica { chunk }
            });
        }
        // ADR 1.9. M10: a replica on a disk that failed stays in the index, so its id does not come here a second time.
        if self.tombstones.forbids(chunk, write.grant) {
            return Err(Error::Deleted { chunk });
        }
        if version.0 == 0 {
            return Err(Error::Invalid("versions start at 1"));
        }
        let header =
            Header { version, completed: version, complete: true, last_grant, fenced_grant: Default::default() };
        self.enlist(replica);
        replica.begin_write(self.now_ms());
        self.journal(chunk, &header, last_grant)?;
        self.create(replica, state, header)
    }

    /// W3: the checksums after the write, from the old fragment. Nothing is changed yet.
    fn summed(
        &self,
        replica: &Arc<Replica>,
        state: &mut ReplicaState,
        pieces: &[Piece],
    ) -> Result<Vec<(u32, u32)>, Error> {
        let chunk = replica.chunk;
        let open = self.opened(replica, state)?;
        let mut old = Vec::new();
        let mut sums = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let sum = match open.table.get(piece.block) {
                _ if piece.length == BLOCK_BYTES => piece.crc,
                Block::Hole => {
                    crc::replace(crc::of_zeros(BLOCK_BYTES), crc::of_zeros(piece.length), piece.crc, piece.after())
                }
                Block::Written(sum) => {
                    old.clear();
                    old.resize(piece.length as usize, 0);
                    open.file.read_at(&mut old, piece.offset()).map_err(self.unreadable_block(chunk, piece.block))?;
                    crc::replace(sum, crc::crc(&old), piece.crc, piece.after())
                }
                Block::Damaged(_) => return Err(self.corrupt(chunk, piece.block)),
            };
            sums.push((piece.block, sum));
        }
        Ok(sums)
    }

    /// Room for blocks that are not written yet. The others have theirs, and go on whatever the disk has left. Nothing is changed yet.
    fn claim(&self, replica: &Arc<Replica>, state: &mut ReplicaState, blocks: &[(u32, u32)]) -> Result<(), Error> {
        let open = self.opened(replica, state)?;
        let new = blocks.iter().filter(|(block, _)| open.table.get(*block) == Block::Hole).count() as u64;
        if self.room.take(new * u64::from(BLOCK_BYTES)) {
            return Ok(());
        }
        state.refused_space = true;
        Err(self.no_space())
    }

    /// Header, data, table, in this order, all of them in the page cache before the ack (M16).
    /// A crash between them shows as a checksum that does not hold on a dirty chunk.
    fn put(
        &self,
        replica: &Arc<Replica>,
        state: &mut ReplicaState,
        write: &Write,
        header: Option<Header>,
        blocks: &[(u32, u32)],
    ) -> Result<(), Error> {
        let owner = self.owner(write.chunk)?;
        let open = self.opened(replica, state)?;
        if let Some(header) = header {
            // V5
            open.write_header(owner, header).map_err(self.broken("writing a chunk's header"))?;
        }
        let at = DATA_AT + u64::from(write.offset);
        open.file.write_at(&write.data, at).map_err(self.broken("writing a chunk's data"))?;
        for (block, sum) in blocks {
            open.table.set(*block, Block::Written(*sum));
        }
        let (first, last) = (blocks[0].0, blocks[blocks.len() - 1].0);
        let sectors = sector_of(first)..=sector_of(last);
        open.write_table(write.chunk, sectors).map_err(self.broken("writing a chunk's table"))
    }
}
