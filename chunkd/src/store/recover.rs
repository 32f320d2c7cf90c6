//! The local half of a recovery (V1, V2): prepare, install, cut, re-sum, complete. All of it runs in the chunk's lane.
//!
//! Invariant: from a Prepare on the replica is `incomplete` on disk until everything of the recovery is durable; a crash at any step
//! leaves it incomplete, and the leader begins again at Prepare.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use caribou_proto::ids::{
    BLOCK_BYTES, BLOCK_STATE_BYTES, BLOCKS_PER_CHUNK, CHUNK_BYTES, ChunkId, ChunkVersion, GrantId,
};

use super::Error;
use super::crc;
use super::format::header::Header;
use super::format::journal::Doubt;
use super::format::table::{DATA_AT, SECTORS, block_offset};
use super::open_chunk::OpenChunk;
use super::replica::{InFlight, Replica, ReplicaState};
use super::request::{BLOCK_MATCHES, BLOCK_MAY_DIFFER, BLOCK_WRITTEN, Prepare, Prepared};
use super::slots::SLOTS;
use super::table::{Block, sector_of};
use super::volume::Volume;

const ALL_SECTORS: std::ops::RangeInclusive<usize> = 0..=SECTORS - 1;

impl Volume {
    /// V1: persists `version, incomplete`, fences, reports. `absent`: the answer if there is no replica.
    pub(crate) fn prepare(
        &self,
        replica: &Arc<Replica>,
        prepare: &Prepare,
        absent: Prepared,
    ) -> Result<Prepared, Error> {
        self.check()?;
        self.make_room()?;
        let chunk = replica.chunk;
        let mut state = replica.state.lock();
        let Some(before) = state.header else {
            let result = self.join(replica, &mut state, prepare, !absent.clean);
            if result.is_err() {
                self.forget(replica, &mut state);
            }
            drop(state);
            result?;
            self.sync_replica(replica)?;
            self.tombstones.remove(chunk);
            return Ok(absent);
        };
        if prepare.version < before.version {
            let (have, complete) = (before.version, before.complete);
            return Err(Error::WrongVersion { chunk, asked: prepare.version, have, complete });
        }
        let done = before.complete && before.version == prepare.version;
        let fenced_grant = before.fenced_grant.max(prepare.old_grant);
        let header = Header { version: prepare.version, complete: false, fenced_grant, ..before };
        if !done && header != before {
            let owner = self.owner(chunk)?;
            let open = self.opened(replica, &mut state)?;
            open.write_header(owner, header).map_err(self.broken("writing a chunk's header"))?;
            // From here on nothing of the old version is served, even before it is durable.
            state.header = Some(header);
            replica.begin_write(self.now_ms());
            replica.publish(&state);
        }
        drop(state);
        if !done {
            self.sync_replica(replica)?;
        }
        let mut state = replica.state.lock();
        // P5: its writer would be refused again. It is fenced, so the recovery goes on without it where the others are enough (V6). Told once: where
        // they are not, the next round needs it, or nobody could read the chunk while the disk is full.
        if !done && std::mem::take(&mut state.refused_space) {
            return Err(self.no_space());
        }
        self.verify_if_doubtful(replica, &mut state)?;
        let header = state.header(chunk)?;
        // One that was never complete has lost nothing, unless it stands for one that vanished (M17).
        let never = header.completed == ChunkVersion(0);
        let clean = !state.dirty || (never && state.doubt != Doubt::Vanished);
        let same_boot = !clean && state.doubt == Doubt::ThisBoot;
        let open = self.opened(replica, &mut state)?;
        if clean {
            // Else the plan would take a rotten block for a source, and fail at it in every round.
            self.examine(chunk, open);
        }
        let blocks = block_states(open, &replica.in_flight.lock());
        let (had_version, last_grant) = (header.completed, header.last_grant);
        Ok(Prepared { found: true, had_version, last_grant, clean, same_boot, blocks, incarnation: self.incarnation })
    }

    /// What a Prepare answers where no replica is.
    pub(crate) fn absent(&self) -> Prepared {
        let (had_version, last_grant) = (ChunkVersion(0), GrantId(0));
        let (blocks, incarnation) = (Bytes::new(), self.incarnation);
        Prepared { found: false, had_version, last_grant, clean: true, same_boot: false, blocks, incarnation }
    }

    fn join(
        &self,
        replica: &Arc<Replica>,
        state: &mut ReplicaState,
        prepare: &Prepare,
        vanished: bool,
    ) -> Result<(), Error> {
        if prepare.version.0 == 0 {
            return Err(Error::Invalid("versions start at 1"));
        }
        let header = Header {
            version: prepare.version,
            completed: ChunkVersion(0),
            complete: false,
            last_grant: GrantId(0),
            fenced_grant: prepare.old_grant,
        };
        self.enlist(replica);
        replica.begin_write(self.now_ms());
        if !vanished {
            self.journal(replica.chunk, &header, prepare.old_grant)?;
            return self.create(replica, state, header);
        }
        // M17: the next leader has to know it too, and so does the next start.
        let noted = self.journal.vanished(replica.chunk, prepare.version, prepare.old_grant);
        noted.map_err(self.broken_journal())?;
        self.create(replica, state, header)?;
        (state.dirty, state.doubt, state.verified) = (true, Doubt::Vanished, true);
        replica.publish(state);
        Ok(())
    }

    /// V2: after an unclean stop, or if a copy of the table is damaged, every block is compared with its data once.
    pub(crate) fn verify_if_doubtful(&self, replica: &Arc<Replica>, state: &mut ReplicaState) -> Result<(), Error> {
        let dirty = state.dirty;
        let scarred = self.opened(replica, state)?.scarred;
        if state.verified || !(dirty || scarred) {
            return Ok(());
        }
        let open = self.opened(replica, state)?;
        super::verify::verify(open, replica.chunk).map_err(self.unreadable(replica.chunk))?;
        state.verified = true;
        Ok(())
    }

    /// A change of one recovery step: journal first (V3, M11), since a crash may lose or tear it.
    fn begin_step<'a>(
        &self,
        replica: &Arc<Replica>,
        state: &'a mut ReplicaState,
        version: ChunkVersion,
    ) -> Result<&'a mut OpenChunk, Error> {
        let header = state.recovers(replica.chunk, version)?;
        self.verify_if_doubtful(replica, state)?;
        replica.begin_write(self.now_ms());
        self.journal(replica.chunk, &header, header.last_grant)?;
        self.opened(replica, state)
    }

    /// V1: one block as its source has it.
    pub(crate) fn install_block(
        &self,
        replica: &Arc<Replica>,
        version: ChunkVersion,
        block: u32,
        data: Option<&[u8]>,
    ) -> Result<(), Error> {
        self.check()?;
        if block >= BLOCKS_PER_CHUNK || data.is_some_and(|data| data.len() != BLOCK_BYTES as usize) {
            return Err(Error::Invalid("a block of a chunk has 64 KiB"));
        }
        self.make_room()?;
        let mut state = replica.state.lock();
        let joins = state.header(replica.chunk)?.completed == ChunkVersion(0);
        let open = self.begin_step(replica, &mut state, version)?;
        if data.is_some() && open.table.get(block) == Block::Hole && !self.claim_copied(joins) {
            return Err(self.no_space());
        }
        let result = match data {
            Some(data) => {
                open.table.set(block, Block::Written(crc::crc(data)));
                open.file.write_at(data, block_offset(block))
            }
            None => {
                open.table.set(block, Block::Hole);
                open.file.punch(block_offset(block), u64::from(BLOCK_BYTES))
            }
        };
        let sector = sector_of(block);
        let result = result.and_then(|()| open.write_table(replica.chunk, sector..=sector));
        self.stepped(replica, &mut state, result, "installing a block")
    }

    /// Room for a block that comes from another holder. A replica that was never complete (V6, R2) keeps out of the reserve as a write does: it can be
    /// made elsewhere, and brings up to 64 MiB. One that is made equal may use it. It gets no more than what was written elsewhere, most often what
    /// was on its way when a stream broke; nobody reads the chunk before, and holders that lend each other blocks cannot do without each other.
    fn claim_copied(&self, joins: bool) -> bool {
        let bytes = u64::from(BLOCK_BYTES);
        if joins {
            return self.room.take(bytes);
        }
        self.room.take_of_reserve(bytes);
        true
    }

    /// V1: bytes at or beyond `length` become a hole.
    pub(crate) fn cut(&self, replica: &Arc<Replica>, version: ChunkVersion, length: u32) -> Result<(), Error> {
        self.check()?;
        if u64::from(length) > CHUNK_BYTES {
            return Err(Error::Invalid("a cut lies within its chunk"));
        }
        self.make_room()?;
        let mut state = replica.state.lock();
        let open = self.begin_step(replica, &mut state, version)?;
        if u64::from(length) == CHUNK_BYTES {
            return Ok(());
        }
        let (block, kept) = (length / BLOCK_BYTES, length % BLOCK_BYTES);
        if kept > 0 && open.table.get(block) != Block::Hole {
            let mut tail = vec![0; (BLOCK_BYTES - kept) as usize];
            let read = open.file.read_at(&mut tail, DATA_AT + u64::from(length));
            let is_readable = self.is_readable(replica.chunk, block, read)?;
            if let (false, Block::Written(sum)) = (is_readable, open.table.get(block)) {
                // P1: the plan took it for whole. The next one knows better, and may have to wait for a holder that has it.
                open.table.set(block, Block::Damaged(sum));
                let (chunk, disk) = (replica.chunk, self.disk.path());
                tracing::warn!(chunk = chunk.0, block, disk, "a block cannot be read; its chunk is recovered anew");
                return Err(Error::Corrupt { chunk, block, disk: disk.into() });
            }
            let (old, new) = (crc::crc(&tail), crc::of_zeros(BLOCK_BYTES - kept));
            // By linearity: damage in the part that stays remains detectable.
            let state = match open.table.get(block) {
                Block::Damaged(sum) if !is_readable => Block::Damaged(sum),
                Block::Written(sum) => Block::Written(crc::replace(sum, old, new, 0)),
                Block::Damaged(sum) => Block::Damaged(crc::replace(sum, old, new, 0)),
                Block::Hole => Block::Hole,
            };
            open.table.set(block, state);
        }
        for gone in block + u32::from(kept > 0)..BLOCKS_PER_CHUNK {
            open.table.set(gone, Block::Hole);
        }
        let result = open.file.punch(DATA_AT + u64::from(length), CHUNK_BYTES - u64::from(length));
        let result = result.and_then(|()| open.write_table(replica.chunk, sector_of(block)..=SECTORS - 1));
        self.stepped(replica, &mut state, result, "cutting a chunk")
    }

    /// P5: a block that is known to be damaged and cannot be read stays so, and the recovery goes on without it.
    fn is_readable(&self, chunk: ChunkId, block: u32, read: std::io::Result<usize>) -> Result<bool, Error> {
        match read.map_err(self.unreadable_block(chunk, block)) {
            Ok(_) => Ok(true),
            Err(Error::ReadFailed { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// V2: no copy holds: damaged blocks are summed as they are.
    pub(crate) fn resum_damaged(&self, replica: &Arc<Replica>, version: ChunkVersion) -> Result<u32, Error> {
        self.check()?;
        self.make_room()?;
        let mut state = replica.state.lock();
        let chunk = replica.chunk;
        let open = self.begin_step(replica, &mut state, version)?;
        super::verify::verify(open, chunk).map_err(self.unreadable(chunk))?;
        let mut count = 0;
        let mut data = vec![0; BLOCK_BYTES as usize];
        let damaged = |block: &u32| matches!(open.table.get(*block), Block::Damaged(_));
        let damaged: Vec<u32> = (0..BLOCKS_PER_CHUNK).filter(damaged).collect();
        for block in damaged {
            data.fill(0);
            let read = open.file.read_at(&mut data, block_offset(block));
            if !self.is_readable(chunk, block, read)? {
                continue;
            }
            open.table.set(block, Block::Written(crc::crc(&data)));
            count += 1;
            let disk = self.disk.path();
            tracing::warn!(
                chunk = chunk.0,
                block,
                disk,
                "no copy of this block matches its checksum; it is kept as it is"
            );
        }
        let result = open.write_table(chunk, ALL_SECTORS);
        state.verified = true;
        self.stepped(replica, &mut state, result, "summing a chunk anew").map(|()| count)
    }

    /// A step that failed half-way leaves blocks to be looked at again.
    fn stepped(
        &self,
        replica: &Replica,
        state: &mut ReplicaState,
        result: std::io::Result<()>,
        operation: &'static str,
    ) -> Result<(), Error> {
        result.map_err(|error| {
            state.dirty = true;
            state.verified = false;
            replica.publish(state);
            self.broken(operation)(error)
        })
    }

    /// V1: all durable first, then `complete`, durable, then serve.
    pub(crate) fn complete(&self, replica: &Arc<Replica>, version: ChunkVersion) -> Result<(), Error> {
        self.check()?;
        self.make_room()?;
        let chunk = replica.chunk;
        let rounds = {
            let mut state = replica.state.lock();
            let header = state.header(chunk)?;
            if header.complete && header.version == version {
                return Ok(()); // F2
            }
            let open = self.begin_step(replica, &mut state, version)?;
            // Every damaged copy of a sector is overwritten, one place per sync.
            if open.scarred { SLOTS } else { 1 }
        };
        for _ in 0..rounds {
            self.settle_table(replica, version)?;
            self.sync_replica(replica)?;
        }
        let header = {
            let mut state = replica.state.lock();
            let header = state.recovers(chunk, version)?;
            let header = Header { completed: version, complete: true, ..header };
            let owner = self.owner(chunk)?;
            let open = self.opened(replica, &mut state)?;
            open.write_header(owner, header).map_err(self.broken("writing a chunk's header"))?;
            replica.begin_write(self.now_ms());
            header
        };
        self.sync_replica(replica)?;
        let mut state = replica.state.lock();
        state.header = Some(header);
        state.dirty = false;
        state.doubt = Doubt::ThisBoot;
        state.verified = false;
        let open = self.opened(replica, &mut state)?;
        open.scarred = false;
        // R3: what was suspected is believed only after it has been read again, now that all of it is durable. A block that no copy had whole is
        // still damaged, and told as such.
        self.examine(chunk, open);
        self.suspects.regained(chunk);
        replica.in_flight.lock().clear(self.next_epoch());
        replica.publish(&state);
        self.journal.close(chunk).map_err(self.broken_journal())
    }

    /// The whole table as it is in memory, holes punched, and the incomplete header once more.
    fn settle_table(&self, replica: &Arc<Replica>, version: ChunkVersion) -> Result<(), Error> {
        let mut state = replica.state.lock();
        let header = state.recovers(replica.chunk, version)?;
        self.verify_if_doubtful(replica, &mut state)?;
        if !state.verified {
            return Ok(()); // Never in doubt: every entry is in the file already, and holes are holes.
        }
        let owner = self.owner(replica.chunk)?;
        replica.begin_write(self.now_ms());
        let open = self.opened(replica, &mut state)?;
        let mut result = Ok(());
        for (first, count) in open.table.holes() {
            // A lost entry may have left bytes behind.
            result =
                result.and_then(|()| open.file.punch(block_offset(first), u64::from(count) * u64::from(BLOCK_BYTES)));
        }
        let result = result
            .and_then(|()| open.write_table(replica.chunk, ALL_SECTORS))
            .and_then(|()| open.write_header(owner, header));
        self.stepped(replica, &mut state, result, "completing a chunk")
    }
}

/// As `chunk.v1.Prepared.blocks`.
fn block_states(open: &OpenChunk, in_flight: &InFlight) -> Bytes {
    let mut states = BytesMut::with_capacity(BLOCKS_PER_CHUNK as usize * BLOCK_STATE_BYTES);
    for block in 0..BLOCKS_PER_CHUNK {
        let (flags, sum) = match open.table.get(block) {
            Block::Hole => (BLOCK_MATCHES, 0),
            Block::Written(sum) => (BLOCK_WRITTEN | BLOCK_MATCHES, sum),
            Block::Damaged(sum) => (BLOCK_WRITTEN, sum),
        };
        states.put_u8(flags | if in_flight.contains(block) { BLOCK_MAY_DIFFER } else { 0 });
        states.put_u32_le(sum);
    }
    states.freeze()
}
