//! Every fixed time and limit of the leader's loops.

use std::time::Duration;

/// How long a chunk server may answer reads after a heartbeat that was answered (F2, ADR 7).
pub(crate) const LEASE_TTL: Duration = Duration::from_secs(1);
/// After so much silence a server's lease is over, whatever its clock does: TTL + 10 %.
pub(crate) const SILENCE: Duration = Duration::from_millis(1_100);
/// A stream without a heartbeat for this long is closed.
pub(crate) const STREAM_SILENCE: Duration = Duration::from_millis(1_500);
/// How often the loops look at the clock.
pub(crate) const TICK: Duration = Duration::from_millis(50);
/// Events that wait for the leader's task.
pub(crate) const EVENTS: usize = 4096;
/// Batches of effects that wait; beyond it the leader scans the state instead.
pub(crate) const EFFECT_BATCHES: usize = 4096;
/// Messages that wait on one control stream.
pub(crate) const STREAM_MESSAGES: usize = 4096;
/// Commands that one server has under way, all kinds together; the server's own limit is 4096.
pub(crate) const COMMANDS_PER_SERVER: usize = 2048;
/// An answer to a command may take this long; then its stream is closed. A Fix may have to copy 64 MiB over a slow network.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_secs(60);
/// The first message of a stream, and the commit of the registration.
pub(crate) const REGISTER_TIMEOUT: Duration = Duration::from_secs(5);
/// Rows that one scan step reads.
pub(crate) const PAGE: usize = 256;

/// Chunks that are recovered at once. Where an intact copy serves readers and nobody waits, no more than these are put under Intents: until its
/// recovery is over, a chunk is neither read nor written.
pub(crate) const RECOVERIES: usize = 32;
/// A recovery that waits for a silent holder makes room for others after this …
pub(crate) const PARK_AFTER: Duration = Duration::from_secs(2);
/// … and begins again after this, or when a server comes back.
pub(crate) const PARKED: Duration = Duration::from_secs(1);
/// Pause before a failed round begins again.
pub(crate) const RETRY: Duration = Duration::from_millis(200);
/// V6: what a replacement may hold up a Ready.
pub(crate) const JOIN_LIMIT: Duration = Duration::from_secs(2);
/// Dirty chunks of one server that are looked at in one tick.
pub(crate) const DIRTY_BATCH: usize = 256;

/// W8: a recall unanswered for this long ends the grant.
pub(crate) const RECALL: Duration = Duration::from_secs(2);

/// S3: a session that has not been heard of for this long ends.
pub(crate) const SESSION_TTL: Duration = Duration::from_secs(30);
/// S3: committed idle time grows in steps of this.
pub(crate) const IDLE_STEP: Duration = Duration::from_millis(7_500);
/// How often sessions are looked at.
pub(crate) const SESSION_SCAN: Duration = Duration::from_secs(1);
/// Sessions whose idle time one record changes.
pub(crate) const IDLE_BATCH: usize = 512;
/// Sessions whose expiry is under way at once.
pub(crate) const EXPIRIES: usize = 16;
/// S4: rows of ended sessions are kept this long.
pub(crate) const SESSION_RETENTION: Duration = Duration::from_secs(24 * 3600);
/// How often old sessions are forgotten, and how many at once.
pub(crate) const FORGET_INTERVAL: Duration = Duration::from_secs(60);
pub(crate) const FORGET_BATCH: u32 = 256;
/// Orphans that one record purges.
pub(crate) const PURGE_BATCH: usize = 256;

/// Chunks that are copied at once.
pub(crate) const REPAIRS: usize = 8;
/// A server that is down for less than this is expected to come back.
pub(crate) const REPAIR_DELAY: Duration = Duration::from_secs(3);
/// A chunk that could not be repaired is looked at again after this.
pub(crate) const REPAIR_RETRY: Duration = Duration::from_secs(1);
/// After each copy of it that fails, twice as long, up to this.
pub(crate) const REPAIR_PATIENCE: Duration = Duration::from_secs(30);
/// For so long a chunk below its goal waits for its writer to let go of it, before its grant is ended for a copy. A client that has nothing
/// more to write keeps a grant for 20 s, if it is not told otherwise.
pub(crate) const WRITER_PATIENCE: Duration = Duration::from_secs(30);
/// Chunks that wait for repair; beyond it they are found again by the next scan.
pub(crate) const REPAIR_QUEUE: usize = 1 << 16;
/// How often all chunks are looked at for missing copies when no effect said so.
pub(crate) const REPAIR_SCAN: Duration = Duration::from_secs(600);
/// R2: refusals after which new grants of the chunk are held back for one copy …
pub(crate) const REFUSALS: u32 = 2;
/// … and for at most this long.
pub(crate) const HOLD_BACK: Duration = Duration::from_secs(2);

/// Deletions that one server has under way.
pub(crate) const DELETIONS: usize = 1024;
/// Pages of garbage in which stale replicas are looked for in one tick (M3), divided among the servers that have no lease yet.
pub(crate) const GATE_PAGES: usize = 32;
/// Deletions that one record confirms.
pub(crate) const GARBAGE_BATCH: usize = 1024;
/// How often a server's garbage is looked at when no effect said so.
pub(crate) const GARBAGE_SCAN: Duration = Duration::from_secs(5);

/// How often a server's replicas are compared with what the state says, besides when it attaches.
pub(crate) const INVENTORY_INTERVAL: Duration = Duration::from_secs(600);
/// A server that has been told everything has reported all that is missing after this: it names a part of it in each heartbeat.
pub(crate) const INVENTORY_SETTLED: Duration = Duration::from_secs(30);
/// P1: for so long a recovery waits for a holder that is away, if the others have a block damaged: a machine may restart.
pub(crate) const LOSS_PATIENCE: Duration = Duration::from_secs(300);
/// R3: for so long what a server reported as lost is not counted as a copy.
pub(crate) const LOSS_REMEMBERED: Duration = Duration::from_secs(60);
/// R3: what one heartbeat names as lost at most; with fewer it has named all.
pub(crate) const LOST_PER_HEARTBEAT: usize = 1024;
/// R3: what one heartbeat names as damaged at most; with fewer it has named all (`chunk/v1/control.proto`).
pub(crate) const DAMAGED_PER_HEARTBEAT: usize = 1024;
/// R3: a chunk that stays damaged, or is damaged anew, is not recovered again before this; each time it doubles …
pub(crate) const MEND_PAUSE: Duration = Duration::from_secs(30);
/// … up to this. What was tried is forgotten if nothing was said of damage for so long.
pub(crate) const MEND_REMEMBERED: Duration = Duration::from_secs(3600);
/// R3: replicas are given up only while fewer chunks than this are in recovery: until it is over, a chunk is not read.
pub(crate) const LOSSES_AT_ONCE: usize = 2 * RECOVERIES;

/// R4: what one heartbeat may name of replicas that nobody counts on (`chunkd/src/limits.rs` has the same); each is looked up.
pub(crate) const STRAYS_PER_HEARTBEAT: usize = 64;
/// R4: so long after a server was told to make a replica it is asked about it, if nobody counts on it by then.
pub(crate) const JOIN_SETTLED: Duration = Duration::from_secs(30);
/// Such replicas that wait for it; beyond it they are found when everything is compared again.
pub(crate) const JOINS_REMEMBERED: usize = 1 << 16;

/// New chunks go to servers with at least this much room.
pub(crate) const MIN_FREE_BYTES: u64 = 128 << 20;
/// A server's free bytes are committed anew when they have changed by this part of its total.
pub(crate) const FREE_BYTES_STEP: u64 = 100;
/// … and not more often than this.
pub(crate) const FREE_BYTES_INTERVAL: Duration = Duration::from_secs(10);
/// How often the candidates for placement are looked at when no server came or went.
pub(crate) const PLACEMENT_INTERVAL: Duration = Duration::from_secs(1);
