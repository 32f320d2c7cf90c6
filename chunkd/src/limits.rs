//! Every fixed limit of the server in one table: queues, windows, parallel work. What an operator may change is in `config`.

use caribou_proto::ids::MAX_FRAGMENT_BYTES;
use std::time::Duration;

/// HTTP/2 window of one stream: what a sender may have under way unread.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 16 << 20;
/// HTTP/2 window of one connection.
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 64 << 20;
/// Largest HTTP/2 frame that we receive; 1 MiB is worth twice the throughput of the default.
pub(crate) const FRAME_BYTES: u32 = 1 << 20;
/// Largest message of the data service: a fragment and what surrounds it.
pub(crate) const MESSAGE_BYTES: usize = MAX_FRAGMENT_BYTES as usize + (64 << 10);
/// Largest message of the control stream. A registration lists the dirty chunks, 10 bytes each at most.
pub(crate) const CONTROL_MESSAGE_BYTES: usize = 16 << 20;
/// How often an HTTP/2 connection is probed …
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
/// … and how long the probe may stay unanswered.
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(4);
/// Headers of one request.
pub(crate) const HEADER_LIST_BYTES: u32 = 16 << 10;
/// Streams of one connection. A client needs one for writes and a few for reads.
pub(crate) const STREAMS_PER_CONNECTION: u32 = 64;
/// Streams that a peer opened and reset before we took notice of them.
pub(crate) const PENDING_RESETS: usize = 32;

/// Members of a chain: storage classes go up to nine copies.
pub(crate) const CHAIN_MEMBERS: usize = 9;
/// Bytes of fragments of one write stream that wait for their acks to be read.
pub(crate) const STREAM_WRITE_BYTES: u32 = 32 << 20;
/// What the smallest fragment counts, so that the bytes bound the number as well (1,024 a stream).
pub(crate) const FRAGMENT_COST_BYTES: u32 = 32 << 10;
/// Acks of one stream that nobody has read yet; never reached, because of the two limits above.
pub(crate) const STREAM_ACKS: usize = (STREAM_WRITE_BYTES / FRAGMENT_COST_BYTES) as usize;
/// Fragments queued to the next member, on top of what HTTP/2 holds.
pub(crate) const LINK_QUEUE: usize = 64;
/// A link without work for this long is closed.
pub(crate) const LINK_IDLE: Duration = Duration::from_secs(60);
/// How often a link looks for fragments whose ack is overdue.
pub(crate) const LINK_TICK: Duration = Duration::from_millis(500);
/// Chunks whose grant is remembered as broken one by one; beyond it, all grants up to the highest of them are (W4).
pub(crate) const BROKEN_GRANTS: usize = 1 << 16;

/// Reads that one stream has under way, replies that wait for the reader included: at most this many MiB.
pub(crate) const STREAM_READS: usize = 16;

/// Commands of the leader that are waiting or at work. More are answered "busy".
pub(crate) const COMMANDS: usize = 4096;
/// Prepare and Delete commands that are at work at once.
pub(crate) const SHORT_COMMANDS: usize = 64;
/// Messages to the leader that wait to be sent.
pub(crate) const CONTROL_QUEUE: usize = 256;
/// Addresses of metadata nodes that are remembered.
pub(crate) const META_NODES: usize = 64;
/// Pause between two rounds of looking for the leader: the first …
pub(crate) const ATTACH_BACKOFF_MIN: Duration = Duration::from_millis(10);
/// … and the longest.
pub(crate) const ATTACH_BACKOFF_MAX: Duration = Duration::from_millis(100);
/// How long a metadata node may take to answer a registration (it commits a record).
pub(crate) const REGISTER_TIMEOUT: Duration = Duration::from_secs(3);
/// Replicas that a heartbeat reports as lost at most, and as damaged (R3: hints). Part of the wire's meaning: with fewer damaged ones it has named all.
pub(crate) const LOST_PER_HEARTBEAT: usize = 1024;
/// Replicas that a heartbeat names at most of those that nobody counts on (R4: hints). The leader looks each of them up, and there is no hurry.
pub(crate) const STRAYS_PER_HEARTBEAT: usize = 64;
/// When there are more, others are named after this time: several heartbeats.
pub(crate) const LOST_TURN: Duration = Duration::from_secs(2);

/// How often the store's housekeeping runs.
pub(crate) const STORE_TICK: Duration = Duration::from_secs(1);
/// How often the counters are logged.
pub(crate) const FIGURES_INTERVAL: Duration = Duration::from_secs(60);
/// How long requests under way may take to finish when the server stops …
pub(crate) const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// … and then connections to close.
pub(crate) const GOODBYE_TIMEOUT: Duration = Duration::from_secs(1);
/// File descriptors beside those of chunks and of accepted connections: folders, journals, streams to other servers and the leader.
pub(crate) const OTHER_DESCRIPTORS: u64 = 256;
/// Pause after an accept failed, for instance for lack of file descriptors.
pub(crate) const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
