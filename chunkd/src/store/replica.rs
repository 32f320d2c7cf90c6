//! One replica in memory: small for each, larger only while its file is open.
//!
//! Locks, in the order in which they may be taken: `gate` (one fdatasync at a time), `state` (held across disk I/O, by the disk's threads
//! only), then the journal's, then `info` and `in_flight` (never across I/O; any task may take them).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::Error;
use super::format::header::Header;
use super::format::journal::Doubt;
use super::open_chunk::OpenChunk;
use super::request::{ForwardTicket, ReplicaInfo};

/// What became of a sync that has not failed its disk: done, or why not now.
pub(crate) type Synced = Result<(), String>;

pub(crate) struct Replica {
    pub(crate) chunk: ChunkId,
    pub(crate) gate: Mutex<()>,
    pub(crate) state: Mutex<ReplicaState>,
    info: Mutex<Option<ReplicaInfo>>,
    pub(crate) in_flight: Mutex<InFlight>,
    /// Writes begun, and how many of them the last fdatasync covered. Equal: nothing is un-synced.
    dirtied: AtomicU64,
    synced: AtomicU64,
    pub(crate) last_write_ms: AtomicU64,
    pub(crate) last_used: AtomicU64,
    /// Callers of a sync that is queued and has not begun.
    pub(crate) sync_waiters: Mutex<Option<Vec<oneshot::Sender<Synced>>>>,
}

pub(crate) struct ReplicaState {
    /// `None`: not created yet, or deleted.
    pub(crate) header: Option<Header>,
    /// V3: un-synced writes may be lost, or a write failed half-way.
    pub(crate) dirty: bool,
    /// And what, if it is dirty (M16).
    pub(crate) doubt: Doubt,
    /// Since it is dirty, every block has been compared with its data.
    pub(crate) verified: bool,
    /// The file's name is durable.
    pub(crate) named: bool,
    /// V6: a write was refused for want of space, and the leader has not been told.
    pub(crate) refused_space: bool,
    pub(crate) open: Option<OpenChunk>,
}

/// R1: blocks written here that the servers behind have not acknowledged. M18: it counts writes, so that the ack of one does not
/// stand for a later one to the same block.
pub(crate) struct InFlight {
    /// Tickets of another epoch are void.
    epoch: u64,
    counts: BTreeMap<u32, u32>,
}

impl Replica {
    pub(crate) fn new(chunk: ChunkId, header: Option<Header>, dirty: bool, epoch: u64) -> Self {
        // After a kill, the name of a dirty chunk may be in the page cache only.
        let named = header.is_some() && !dirty;
        let replica = Self {
            chunk,
            gate: Mutex::new(()),
            state: Mutex::new(ReplicaState {
                header,
                dirty,
                doubt: Doubt::ThisBoot,
                verified: false,
                named,
                refused_space: false,
                open: None,
            }),
            info: Mutex::new(None),
            in_flight: Mutex::new(InFlight { epoch, counts: BTreeMap::new() }),
            dirtied: AtomicU64::new(0),
            synced: AtomicU64::new(0),
            last_write_ms: AtomicU64::new(0),
            last_used: AtomicU64::new(0),
            sync_waiters: Mutex::new(None),
        };
        replica.publish(&replica.state.lock());
        replica
    }

    pub(crate) fn info(&self) -> Option<ReplicaInfo> {
        *self.info.lock()
    }

    /// Shows a changed state to those who do not take its lock.
    pub(crate) fn publish(&self, state: &ReplicaState) {
        *self.info.lock() = state.header.map(|header| ReplicaInfo {
            version: header.version,
            completed: header.completed,
            complete: header.complete,
            last_grant: header.last_grant,
            dirty: state.dirty,
        });
    }

    /// A write begins; the caller holds the state's lock. V3: before the journal is asked.
    pub(crate) fn begin_write(&self, now_ms: u64) {
        self.dirtied.fetch_add(1, Ordering::SeqCst);
        self.last_write_ms.store(now_ms, Ordering::SeqCst);
    }

    pub(crate) fn has_unsynced(&self) -> bool {
        self.dirtied.load(Ordering::SeqCst) != self.synced.load(Ordering::SeqCst)
    }

    /// The writes that an fdatasync beginning now covers; the caller holds the state's lock.
    pub(crate) fn begin_sync(&self) -> u64 {
        self.dirtied.load(Ordering::SeqCst)
    }

    pub(crate) fn end_sync(&self, covered: u64) {
        self.synced.store(covered, Ordering::SeqCst);
    }
}

impl ReplicaState {
    /// The header, or why there is none.
    pub(crate) fn header(&self, chunk: ChunkId) -> Result<Header, Error> {
        self.header.ok_or(Error::NoReplica { chunk })
    }

    /// V1, V3: complete at exactly this version, and not dirty.
    pub(crate) fn serves(&self, chunk: ChunkId, version: ChunkVersion) -> Result<Header, Error> {
        let header = self.header(chunk)?;
        if !header.complete || header.version != version {
            let (have, complete) = (header.version, header.complete);
            return Err(Error::WrongVersion { chunk, asked: version, have, complete });
        }
        // M8: in doubt it serves nobody, the tail's readers included, until a Fix has completed it.
        if self.dirty {
            return Err(Error::Dirty { chunk });
        }
        Ok(header)
    }

    /// V1: being recovered to exactly this version.
    pub(crate) fn recovers(&self, chunk: ChunkId, version: ChunkVersion) -> Result<Header, Error> {
        let header = self.header(chunk)?;
        if header.complete || header.version != version {
            let (have, complete) = (header.version, header.complete);
            return Err(Error::WrongVersion { chunk, asked: version, have, complete });
        }
        Ok(header)
    }
}

/// F3: the lowest grant that may write.
pub(crate) fn lowest_grant(header: &Header) -> GrantId {
    header.last_grant.max(GrantId(header.fenced_grant.0.saturating_add(1)))
}

impl InFlight {
    pub(crate) fn begin(&mut self, chunk: ChunkId, first: u32, last: u32) -> ForwardTicket {
        for block in first..=last {
            *self.counts.entry(block).or_insert(0) += 1;
        }
        ForwardTicket { chunk, epoch: self.epoch, first, last }
    }

    pub(crate) fn end(&mut self, ticket: &ForwardTicket) {
        if ticket.epoch != self.epoch {
            return;
        }
        for block in ticket.first..=ticket.last {
            if let Some(count) = self.counts.get_mut(&block) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&block);
                }
            }
        }
    }

    /// V1: the holders have been made equal.
    pub(crate) fn clear(&mut self, epoch: u64) {
        self.epoch = epoch;
        self.counts.clear();
    }

    pub(crate) fn first_within(&self, first: u32, last: u32) -> Option<u32> {
        self.counts.range(first..=last).next().map(|(block, _)| *block)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    pub(crate) fn contains(&self, block: u32) -> bool {
        self.counts.contains_key(&block)
    }
}
