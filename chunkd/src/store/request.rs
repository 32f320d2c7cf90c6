//! The words in which the service speaks to the store: requests, results, reports. Plain values, no behaviour.

use bytes::Bytes;
use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, Incarnation};

/// F1: which cluster data belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterIdentity {
    pub uuid: [u8; 16],
    pub generation: u16,
    pub nonce: u64,
}

/// A fragment of a write (W3).
#[derive(Clone, Debug)]
pub struct Write {
    pub chunk: ChunkId,
    /// Must be the version that is complete here.
    pub version: ChunkVersion,
    /// F3: lower ones than the highest that wrote, or that a Prepare fenced, are refused.
    pub grant: GrantId,
    /// W2: may create the replica.
    pub create: bool,
    /// Bytes from the start of the chunk; any alignment.
    pub offset: u32,
    /// 1 byte to 1 MiB.
    pub data: Bytes,
    /// CRC-32C of `data`; checked before anything is written.
    pub crc: u32,
    /// R1: no server stands behind this one in the chain. Otherwise the blocks count as un-acknowledged until
    /// [`super::ChunkStore::acknowledged`] is called with the ticket.
    pub tail: bool,
}

/// A fragment is in the page cache: it may be forwarded now (ADR 1.1).
#[derive(Debug)]
pub struct Written {
    /// Present unless `tail`.
    pub ticket: Option<ForwardTicket>,
}

/// R1: blocks written here that the servers behind have not acknowledged. Dropping it (broken stream) leaves the blocks
/// un-acknowledged until the chunk's recovery, which is right.
#[derive(Debug)]
#[must_use = "R1: hand it back with `acknowledged` once the rest of the chain has the fragment"]
pub struct ForwardTicket {
    pub(super) chunk: ChunkId,
    pub(super) epoch: u64,
    pub(super) first: u32,
    pub(super) last: u32,
}

/// Checked bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadData {
    /// Exactly the length asked for; zeros where the replica has a hole.
    pub data: Bytes,
    /// CRC-32C of `data`.
    pub crc: u32,
}

/// Whole blocks for another server's Fix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryData {
    /// `count` × 64 KiB.
    pub data: Bytes,
    /// CRC-32C of `data`.
    pub crc: u32,
    /// One byte a block: 1 where written, 0 where it is a hole.
    pub written: Bytes,
}

/// V1: the first half of a recovery.
#[derive(Clone, Copy, Debug)]
pub struct Prepare {
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    /// Make an empty incomplete replica if there is none.
    pub join: bool,
    /// Grants up to this one are refused from now on.
    pub old_grant: GrantId,
}

/// The state of a replica after a [`Prepare`]; field by field `chunk.v1.Prepared`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// A replica was there before this command.
    pub found: bool,
    /// The highest version it had completed; 0 if none. Equal to the version asked for when that one is already complete
    /// here: nothing was changed then (F2: confirm, do not repeat).
    pub had_version: ChunkVersion,
    /// V5.
    pub last_grant: GrantId,
    /// V2: no acknowledged write can have been lost by an unclean stop.
    pub clean: bool,
    /// M16: not clean, but all its writes were made in this boot: the page cache has everything that was acknowledged.
    pub same_boot: bool,
    /// `BLOCK_STATE_BYTES` each for 1024 blocks, ready for the wire; empty if there is no replica.
    pub blocks: Bytes,
    pub incarnation: Incarnation,
}

/// Bit of a block's state in [`Prepared::blocks`]: the block is written (else a hole).
pub const BLOCK_WRITTEN: u8 = 1;
/// Bit: the data match the checksum.
pub const BLOCK_MATCHES: u8 = 2;
/// Bit: not acknowledged by all, copies may differ (V1).
pub const BLOCK_MAY_DIFFER: u8 = 4;

/// What a replica is, without touching the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaInfo {
    pub version: ChunkVersion,
    /// Highest version completed; 0 if none.
    pub completed: ChunkVersion,
    pub complete: bool,
    pub last_grant: GrantId,
    pub dirty: bool,
}

/// One data folder, for heartbeats. The figures are as of the last [`super::ChunkStore::tick`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskStatus {
    pub uuid: [u8; 16],
    pub path: String,
    pub total_bytes: u64,
    pub free_bytes: u64,
    /// Why it failed; `None` while it is healthy.
    pub failed: Option<String>,
    pub chunks: u64,
    /// V5: the highest grant id that this disk has seen.
    pub highest_grant: GrantId,
}

/// What a purge of the quarantine did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    pub files: u64,
    /// Still there: younger than the retention, or found by a scan (never purged by itself).
    pub kept: u64,
}
