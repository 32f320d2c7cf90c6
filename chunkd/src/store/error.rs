//! What a call on the store can answer instead of success. The service turns these into `chunk.v1.Status`.
//!
//! Split as the caller acts: *refused* (the request does not fit the replica: nothing was done), *later* (`NotYet`, `NotNow`, `Dirty`),
//! *this replica is bad* (`Corrupt`, `ReadFailed`), *this disk is gone* (`DiskFailed`, `Hung`).

use std::io;

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};

/// An answer other than success of a [`super::ChunkStore`] call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// W2: there is no replica here and the request may not create one. → `NO_REPLICA`
    #[error("no replica of chunk {chunk} on this server")]
    NoReplica { chunk: ChunkId },
    /// ADR 1.9: deleted in this incarnation; a create token cannot bring it back. → `NO_REPLICA`
    #[error("chunk {chunk} has been deleted from this server")]
    Deleted { chunk: ChunkId },
    /// R1, V1: the replica is not complete at exactly the version asked for. → `WRONG_VERSION`
    #[error("chunk {chunk} is at version {have} ({}), version {asked} was asked for", if *.complete { "complete" } else { "incomplete" })]
    WrongVersion { chunk: ChunkId, asked: ChunkVersion, have: ChunkVersion, complete: bool },
    /// F3: a higher grant has written, or a Prepare has fenced this one. → `OLD_GRANT`
    #[error("grant {asked} of chunk {chunk} is over, the lowest one still allowed is {lowest}")]
    OldGrant { chunk: ChunkId, asked: GrantId, lowest: GrantId },
    /// V3: un-synced writes may have been lost at an unclean stop; not served before its recovery. → `DIRTY`
    #[error("chunk {chunk} waits for its recovery after an unclean stop")]
    Dirty { chunk: ChunkId },
    /// R1: written here, not yet acknowledged by the servers behind; ask the tail. → `NOT_YET`
    #[error("block {block} of chunk {chunk} is not acknowledged by the whole chain yet")]
    NotYet { chunk: ChunkId, block: u32 },
    /// The server is short of what the system has to give, of file descriptors above all; disk and replica are as they were. → `NOT_YET`
    #[error("disk {disk} cannot be used just now: {reason}")]
    NotNow { disk: String, reason: String },
    /// The bytes at rest do not match their checksum. They are never returned. → `CORRUPT`
    #[error("block {block} of chunk {chunk} is damaged on disk {disk}")]
    Corrupt { chunk: ChunkId, block: u32, disk: String },
    /// The fragment does not match the CRC that it came with; nothing was written. → `CORRUPT`
    #[error("a fragment for chunk {chunk} arrived damaged")]
    DamagedFragment { chunk: ChunkId },
    /// A length, offset or range that the format does not allow. → `INVALID`
    #[error("invalid request: {0}")]
    Invalid(&'static str),
    /// The file system is full, or has only what new blocks leave for the server's own records. → `NO_SPACE`
    #[error("no space left on disk {disk}")]
    NoSpace { disk: String },
    /// A read failed; the disk goes on, the block is to be taken from elsewhere. → `IO_ERROR`
    #[error("reading chunk {chunk} on disk {disk} failed")]
    ReadFailed {
        chunk: ChunkId,
        disk: String,
        #[source]
        source: io::Error,
    },
    /// W6: the disk has failed (a write or an fsync) and is not used again before a restart. → `DISK_FAILED`
    #[error("disk {disk} has failed: {reason}")]
    DiskFailed { disk: String, reason: String },
    /// The disk did not answer before its deadline and counts as failed from now on. → `DISK_FAILED`
    #[error("disk {disk} did not finish '{operation}' in time")]
    Hung { disk: String, operation: &'static str },
    /// No healthy disk for a new replica. → `DISK_FAILED`
    #[error("no healthy disk is left on this server")]
    NoDisk,
    /// F2: a command of a lower (generation, term) than one obeyed before.
    #[error("generation {generation} term {term} is over, ({have_generation}, {have_term}) has been seen")]
    OldTerm { generation: u16, term: u64, have_generation: u16, have_term: u64 },
    /// F1: another cluster, an older generation, or the same generation with another nonce. → `FOREIGN_CLUSTER`
    #[error("these data folders belong to cluster {ours}, not to {theirs}")]
    ForeignCluster { ours: String, theirs: String },
}

/// Why a store could not be opened. Nothing has been changed on disk, except for `Disk`.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("no data folder is configured; name at least one")]
    NoFolder,
    #[error("the data folder {path} is in use by another process")]
    Locked { path: String },
    #[error("the data folder {path} is not empty and has no '{file}' file; name an empty folder", file = super::layout::IDENTITY)]
    NotOurs { path: String },
    #[error("the data folder {path} belongs to another chunk server than {other}; check the list of folders")]
    OtherServer { path: String, other: String },
    #[error("the data folder {path} belongs to another cluster than {other}; check the list of folders")]
    OtherCluster { path: String, other: String },
    #[error("the data folder {path} appears twice (disk {uuid}); name each folder once")]
    Twice { path: String, uuid: String },
    #[error("{path}: the file '{file}' is damaged ({reason}); restore it or use an empty folder")]
    Damaged { path: String, file: &'static str, reason: &'static str },
    #[error("{path}: the file '{file}' has format {found}, this program knows up to {known}; upgrade this server")]
    TooNew { path: String, file: &'static str, found: u16, known: u16 },
    #[error("the data folder {path} cannot be used ({operation})")]
    Disk {
        path: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
}
