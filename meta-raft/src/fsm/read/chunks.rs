//! What clients, waiters and the leader ask about chunks. Pages of whole tables are in `tables/`.

use caribou_proto::ids::{CHUNK_BYTES, ChunkId, ChunkVersion, Incarnation, InodeId, ServerId, SessionId};

use crate::fsm::error::Fatal;
use crate::fsm::tables::chunks::{self, Chunk};
use crate::fsm::tables::meta::{self, Counter};
use crate::fsm::tables::{Tables, classes, file_chunks, inline, inodes, servers};

/// Most places that one `locate` answers for.
pub const MAX_LOCATIONS: u32 = 1024;

/// What a reader may do with a place of a file. The numbers are on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ChunkState {
    /// No chunk, or one before its first write-end (W2): zeros.
    Hole = 1,
    Ready = 2,
    /// V1: an Intent without its Ready.
    InRecovery = 3,
    /// W5: waits for its writer's resend.
    Held = 4,
}

/// One place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub index: u32,
    /// 0 where there is no chunk.
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub state: ChunkState,
    /// Chain order; addresses are looked up by the service.
    pub holders: Vec<(ServerId, Incarnation)>,
    pub goal: u8,
    /// A grant is live.
    pub granted: bool,
    /// M12, for the session that asks: where the chunk was cut since its last write-end under a grant of it.
    pub clip: Option<u32>,
}

impl Location {
    fn hole(index: u32) -> Self {
        Self {
            index,
            chunk: ChunkId(0),
            version: ChunkVersion(0),
            state: ChunkState::Hole,
            holders: Vec::new(),
            goal: 0,
            granted: false,
            clip: None,
        }
    }

    fn of(tables: &dyn Tables, id: ChunkId, chunk: &Chunk, session: SessionId) -> Result<Self, Fatal> {
        // ADR 5: the session that has to resend may read; its own bytes lie over what it reads.
        let held = chunk.hold.is_some_and(|h| h.reads && h.session != session);
        let state = match chunk {
            Chunk { new: true, .. } => ChunkState::Hole,
            Chunk { intent: Some(_), .. } => ChunkState::InRecovery,
            _ if held => ChunkState::Held,
            _ => ChunkState::Ready,
        };
        // A state that is not Ready names nobody, so that nobody can be read by mistake.
        let holders = match state {
            ChunkState::Ready => chunk.replicas.iter().map(|r| (r.server, r.incarnation)).collect(),
            _ => Vec::new(),
        };
        let goal = classes::get(tables, chunk.class)?.goal;
        Ok(Self {
            index: chunk.index,
            chunk: id,
            version: chunk.version,
            state,
            holders,
            goal,
            granted: chunk.grant.is_some(),
            clip: chunk.clip_of(session),
        })
    }
}

/// Where `session` finds the places `[first, first + count)` of a file, at most [`MAX_LOCATIONS`]; holes are told too.
pub fn locate(
    tables: &dyn Tables,
    session: SessionId,
    inode: InodeId,
    first: u32,
    count: u32,
) -> Result<Vec<Location>, Fatal> {
    let end = first.saturating_add(count.min(MAX_LOCATIONS));
    let mut there = file_chunks::page(tables, inode, first, (end - first) as usize)?.into_iter().peekable();
    let mut places = Vec::with_capacity((end - first) as usize);
    for index in first..end {
        places.push(match there.next_if(|(i, _)| *i == index) {
            Some((_, id)) => Location::of(tables, id, &chunks::existing(tables, id)?, session)?,
            None => Location::hole(index),
        });
    }
    Ok(places)
}

/// I4: what the metadata has of the first chunk's bytes. There is nothing where that chunk has had its first write-end.
pub fn inline_data(tables: &dyn Tables, inode: InodeId) -> Result<Option<Vec<u8>>, Fatal> {
    inline::get(tables, inode)
}

/// Whether `session` could be given the grant of this place now, as far as grants, Intents and holds go (`wait_chunk`).
pub fn is_grantable(tables: &dyn Tables, session: SessionId, inode: InodeId, index: u32) -> Result<bool, Fatal> {
    let Some((_, chunk)) = chunks::of_file(tables, inode, index)? else { return Ok(true) };
    let free = chunk.grant.is_none_or(|g| g.session == session) && chunk.hold.is_none_or(|h| h.session == session);
    Ok(chunk.intent.is_none() && free)
}

/// Whether `session` could read this place now.
pub fn is_readable(tables: &dyn Tables, session: SessionId, inode: InodeId, index: u32) -> Result<bool, Fatal> {
    let place = locate(tables, session, inode, index, 1)?;
    Ok(place.iter().all(|l| matches!(l.state, ChunkState::Hole | ChunkState::Ready)))
}

/// M13: the chunk whose Intent has to end before the file may grow: a server that is not fenced yet may still have bytes beyond the committed
/// length. `None`: nothing is in the way. The service waits for it before it proposes a growth, and `apply` refuses one that came too early.
pub fn growth_waits_for(tables: &dyn Tables, inode: InodeId, length: u64) -> Result<Option<ChunkId>, Fatal> {
    let Some(row) = inodes::get(tables, inode)?.filter(|row| length > row.size) else { return Ok(None) };
    // The chunk of the old end, and those beyond it: they are few, a cut discards them.
    let first = row.size / CHUNK_BYTES;
    let within = usize::try_from(length.div_ceil(CHUNK_BYTES).saturating_sub(first)).unwrap_or(usize::MAX);
    let first = u32::try_from(first).unwrap_or(u32::MAX);
    for (index, id) in file_chunks::page(tables, inode, first, within)? {
        if u64::from(index) * CHUNK_BYTES >= length {
            break;
        }
        if chunks::existing(tables, id)?.intent.is_some() {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

/// The chunk of a place, for waiting until it changes.
pub fn chunk_at(tables: &dyn Tables, inode: InodeId, index: u32) -> Result<Option<ChunkId>, Fatal> {
    file_chunks::get(tables, inode, index)
}

/// `statfs`: what the servers that are up said at their last registration, in bytes of files with the default goal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub inodes: u64,
    pub chunks: u64,
}

pub fn space(tables: &dyn Tables) -> Result<Space, Fatal> {
    let goal = u64::from(classes::get(tables, classes::DEFAULT_CLASS)?.goal);
    let mut space = Space {
        inodes: meta::counter(tables, Counter::Inodes)?,
        chunks: meta::counter(tables, Counter::Chunks)?,
        ..Space::default()
    };
    for (_, server) in servers::all(tables)?.into_iter().filter(|(_, s)| s.up) {
        space.total_bytes += server.total_bytes / goal;
        space.free_bytes += server.free_bytes / goal;
    }
    Ok(space)
}
