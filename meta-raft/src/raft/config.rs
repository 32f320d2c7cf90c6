//! What a Raft node is started with, and the limits that are not settings.

use std::path::PathBuf;
use std::time::Duration;

use caribou_proto::ids::NodeId;

/// Settings of one node.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    pub node_id: NodeId,
    /// The data folder; holds `identity`, `LOCK`, `log/`, `state/`, `snapshots/`.
    pub dir: PathBuf,
    pub heartbeat: Duration,
    pub election_timeout_min: Duration,
    pub election_timeout_max: Duration,
    /// A snapshot is made when this much log has come since the last one.
    pub snapshot_after_bytes: u64,
    /// Log kept behind the last snapshot for followers that were away.
    pub log_keep_bytes: u64,
    /// Memory for the state: cached blocks and changes that are not in a table file yet.
    pub block_cache_bytes: usize,
    /// The part of it that such changes may take.
    pub write_buffer_bytes: usize,
    /// Memory for the newest log entries, which replication and apply read again.
    pub log_tail_bytes: usize,
    /// Whether RocksDB's threads merge the files of the state, whenever they like. Else whoever flushes does it, so that nothing in the folder
    /// depends on how far a thread has come: for simulations, which are to be repeated.
    pub merges_beside: bool,
}

impl RaftConfig {
    /// The defaults (STACK: elections) for a node and its folder.
    pub fn new(node_id: NodeId, dir: impl Into<PathBuf>) -> Self {
        Self {
            node_id,
            dir: dir.into(),
            heartbeat: Duration::from_millis(25),
            election_timeout_min: Duration::from_millis(75),
            election_timeout_max: Duration::from_millis(150),
            snapshot_after_bytes: 256 << 20,
            log_keep_bytes: 256 << 20,
            block_cache_bytes: 768 << 20,
            write_buffer_bytes: 256 << 20,
            log_tail_bytes: 64 << 20,
            merges_beside: true,
        }
    }

    /// How long a follower keeps its promise not to elect another leader.
    pub(crate) fn lease(&self) -> Duration {
        self.election_timeout_max
    }

    /// The part of the lease that reads rely on: clocks may drift (STACK, openraft 1).
    pub(crate) fn read_lease(&self) -> Duration {
        self.lease() * 3 / 5
    }

    /// Size of the log's files: small enough that it is purged in steps.
    pub(crate) fn segment_bytes(&self) -> u64 {
        (self.log_keep_bytes / PURGE_STEPS).clamp(*SEGMENT_BYTES.start(), *SEGMENT_BYTES.end())
    }

    /// A restarted node has forgotten its promise: it stays silent until that has run out (STACK, openraft 1).
    pub(crate) fn restart_wait(&self) -> Duration {
        self.election_timeout_max * 5 / 4 + self.heartbeat
    }
}

/// The log is purged once this part of `log_keep_bytes` can go.
pub(crate) const PURGE_STEPS: u64 = 8;
/// Bytes of one file of the log: it can be dropped in these steps, and one is always ready and empty.
const SEGMENT_BYTES: std::ops::RangeInclusive<u64> = 64 << 10..=32 << 20;

/// Threads of Raft's own runtime, so that client load cannot starve its ticks (STACK, openraft 5). Its core is one task, and the log's writer
/// and long work have threads of their own: a second one here would mostly be woken to find nothing to do. `network/credit.rs` relies on
/// there being one.
pub(crate) const RAFT_THREADS: usize = 1;
/// Proposals waiting for the proposer; more wait in `propose`.
pub(crate) const PROPOSAL_QUEUE: usize = 1024;
/// Commands in one entry, unless one proposal alone has more.
pub(crate) const MAX_ENTRY_COMMANDS: usize = 1024;
/// Estimated bytes of one entry, unless one proposal alone has more.
pub(crate) const MAX_ENTRY_BYTES: usize = 1 << 20;
/// One proposal's estimated bytes; above it is refused.
pub(crate) const MAX_PROPOSAL_BYTES: usize = 16 << 20;
/// Entries proposed and not yet applied.
pub(crate) const MAX_ENTRIES_IN_FLIGHT: usize = 4;
/// Bytes of one AppendEntries message and of one read of the log (at least one entry).
pub(crate) const MAX_READ_BYTES: usize = 1 << 20;
/// Largest message between nodes: an entry with one oversized proposal fits.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// Bytes queued for the log's writer thread before `append` waits.
pub(crate) const MAX_LOG_QUEUE_BYTES: usize = 64 << 20;
/// Bytes that the writer thread puts into one batch and one fsync.
pub(crate) const MAX_LOG_GROUP_BYTES: usize = 8 << 20;
/// Entries that are applied in one batch.
pub(crate) const MAX_APPLY_ENTRIES: usize = 256;
/// Bytes of entries that are applied in one batch.
pub(crate) const MAX_APPLY_BYTES: usize = 4 << 20;
/// Groups of brief commands up to this size are applied without a change of threads, from memory alone: about a millisecond of work.
pub(crate) const MAX_INLINE_APPLY_BYTES: usize = 16 << 10;
/// How long a read waits for a quorum before it says that this node leads no more.
pub(crate) const READ_PATIENCE: Duration = Duration::from_secs(1);
/// Longest wait for a connection, and for the answer to a vote.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);
/// Replication with requests in flight and no answer for this long starts anew.
pub(crate) const REPLICATION_TIMEOUT: Duration = Duration::from_secs(5);
/// A snapshot stream without progress for this long is broken off; the next one resumes it.
pub(crate) const SNAPSHOT_IDLE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest installation of a received snapshot: rename, open, checkpoint.
pub(crate) const SNAPSHOT_INSTALL_TIMEOUT: Duration = Duration::from_secs(120);
/// Bytes in one message of a snapshot.
pub(crate) const SNAPSHOT_CHUNK_BYTES: usize = 1 << 20;
/// Files in one snapshot; an offer of more is refused.
pub(crate) const MAX_SNAPSHOT_FILES: usize = 1 << 20;
/// How long a hand-over may take before it counts as failed.
pub(crate) const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long `init` waits for one node's answer, and for the first leader.
pub(crate) const INIT_TIMEOUT: Duration = Duration::from_secs(5);
