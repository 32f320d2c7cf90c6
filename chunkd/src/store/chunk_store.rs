//! The async door of the store (being filled in; signatures are final).

use std::sync::Arc;
use std::time::Duration;

use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, ServerId};

use super::disk::Disk;
use super::request::*;
use super::{Error, OpenError};

/// What a store is opened with.
pub struct OpenOptions {
    /// The data folders. At least one; the order does not matter.
    pub disks: Vec<Arc<dyn Disk>>,
    /// Random UUIDs for a new server and new disks (an argument, so that a simulation can seed it).
    pub new_uuid: Box<dyn FnMut() -> [u8; 16] + Send>,
    /// A disk that takes longer for one operation counts as hung and failed.
    pub deadline: Duration,
}

/// The replicas of this server.
pub struct ChunkStore {}

#[allow(unused_variables)]
impl ChunkStore {
    /// Locks and checks all folders (a foreign one: nothing is changed anywhere), makes a new incarnation durable on all of
    /// them (F3), removes the mark of a clean stop, scans the headers, and marks what an unclean stop may have hurt as dirty (V3).
    pub async fn open(options: OpenOptions) -> Result<Arc<Self>, OpenError> {
        todo!()
    }

    /// Made at the first start, the same on all folders.
    pub fn server_uuid(&self) -> [u8; 16] {
        todo!()
    }
    /// `None` before the first registration.
    pub fn server_id(&self) -> Option<ServerId> {
        todo!()
    }
    /// `None` before the first registration.
    pub fn cluster(&self) -> Option<ClusterIdentity> {
        todo!()
    }
    /// F3: of this start; higher than that of every start before.
    pub fn incarnation(&self) -> Incarnation {
        todo!()
    }
    /// Any folder was not stopped cleanly before this start.
    pub fn unclean(&self) -> bool {
        todo!()
    }
    /// V3: not served before their recovery. For `Register.dirty_chunks`.
    pub fn dirty_chunks(&self) -> Vec<ChunkId> {
        todo!()
    }
    /// R3, a hint: replicas whose file is damaged beyond use (header unreadable, or on a failed disk). At most 10 000.
    pub fn lost_chunks(&self) -> Vec<ChunkId> {
        todo!()
    }
    pub fn disks(&self) -> Vec<DiskStatus> {
        todo!()
    }
    /// From memory; `None` if there is no replica.
    pub fn replica(&self, chunk: ChunkId) -> Option<ReplicaInfo> {
        todo!()
    }

    /// F1: at registration. Persists cluster and server id on all folders if they are new. Refuses another cluster, a lower
    /// generation, an equal generation with another nonce, and another server id (`ForeignCluster`).
    pub async fn adopt(&self, cluster: ClusterIdentity, server: ServerId) -> Result<(), Error> {
        todo!()
    }
    /// F2: call before obeying a command or a Registered. Persists (generation, term) on all healthy folders if it is higher
    /// than before; `OldTerm` if it is lower; no I/O if it is equal.
    pub async fn fence(&self, generation: u16, term: u64) -> Result<(), Error> {
        todo!()
    }
    /// F2: the highest (generation, term) obeyed.
    pub fn fenced(&self) -> (u16, u64) {
        todo!()
    }

    /// W3: puts a fragment into the page cache (and the chunk into the dirty journal before, V3). After it has resolved the
    /// fragment may be forwarded.
    pub async fn write(&self, write: Write) -> Result<Written, Error> {
        todo!()
    }
    /// R1: the servers behind have the fragment. Never blocks.
    pub fn acknowledged(&self, ticket: ForwardTicket) {
        todo!()
    }
    /// W6: everything written before is durable here. Callers for the same chunk share one fdatasync. `WrongVersion` if the
    /// replica is not (or no longer, when done) complete at `version`. A failure fails the disk for ever.
    pub async fn sync(&self, chunk: ChunkId, version: ChunkVersion) -> Result<(), Error> {
        todo!()
    }
    /// R1: exact version, complete, not dirty, every block acknowledged by the chain, checksum verified.
    pub async fn read(&self, chunk: ChunkId, version: ChunkVersion, offset: u32, length: u32) -> Result<ReadData, Error> {
        todo!()
    }
    /// Whole blocks for another server; incomplete and dirty replicas too. `version` is the replica's present or last completed one.
    /// At most 16 blocks.
    pub async fn read_recovery(&self, chunk: ChunkId, version: ChunkVersion, first: u32, count: u32) -> Result<RecoveryData, Error> {
        todo!()
    }

    /// V1: persists `version, incomplete`, fences the old grants and reports the blocks. Idempotent; never lowers a version
    /// (`WrongVersion`). Without a replica and without `join`: `found = false` and nothing is made.
    pub async fn prepare(&self, prepare: Prepare) -> Result<Prepared, Error> {
        todo!()
    }
    /// V1: one block of a replica incomplete at `version`: 64 KiB of data, or a hole.
    pub async fn install_block(&self, chunk: ChunkId, version: ChunkVersion, block: u32, data: Option<bytes::Bytes>) -> Result<(), Error> {
        todo!()
    }
    /// V1: bytes at or beyond `length` become a hole. The replica is incomplete at `version`.
    pub async fn cut(&self, chunk: ChunkId, version: ChunkVersion, length: u32) -> Result<(), Error> {
        todo!()
    }
    /// V2: damaged blocks are summed as they are. Returns how many. The replica is incomplete at `version`.
    pub async fn resum_damaged(&self, chunk: ChunkId, version: ChunkVersion) -> Result<u32, Error> {
        todo!()
    }
    /// V1: everything durable, then `version, complete` durable. Confirms if it is complete already (F2).
    pub async fn complete(&self, chunk: ChunkId, version: ChunkVersion) -> Result<(), Error> {
        todo!()
    }
    /// R4: into the quarantine, durable. A replica above `up_to` is kept (`WrongVersion`); none there is success.
    /// `now_unix_ms` dates the quarantine entry.
    pub async fn delete(&self, chunk: ChunkId, up_to: ChunkVersion, now_unix_ms: u64) -> Result<(), Error> {
        todo!()
    }
    /// R4: unlinks what has been in the quarantine by a Delete for longer than the retention.
    pub async fn purge_quarantine(&self, now_unix_ms: u64, retention: Duration) -> Purged {
        todo!()
    }
    /// Housekeeping, to be called about once a second with a monotonic clock: free space, journal entries idle for 30 s,
    /// the journal's watermark.
    pub async fn tick(&self, now_ms: u64) {
        todo!()
    }
    /// Clean stop: everything synced, the mark of a clean stop durable, all later calls refused. A failed disk gets no mark.
    pub async fn close(&self) {
        todo!()
    }
}
