//! The chunk store: replicas of chunks on one or more data folders of this server.
//!
//! Owns everything below `service/` and above the file system: the files' formats, versions and grants per chunk, checksums,
//! the dirty journal, the dirty set after an unclean stop, the quarantine, the disks' threads and deadlines.
//! It does not know the wire, the leader, leases, incarnations of other servers or the chain; the service does.
//!
//! ```text
//! request.rs  error.rs     the words spoken with the service
//! chunk_store.rs           ChunkStore: the async door; queues, waits with a deadline      homes.rs  which disk     lost.rs, strays.rs  R3 R4      pool.rs  a disk's threads
//! start.rs  scan.rs        opening: whose folders, incarnation (F3), index, dirty set      folder.rs  identity, fence, clean mark
//! volume.rs                one data folder at work: index, open files, fdatasync (W6), failure      room.rs  free space, reserve      suspects.rs  R3: lost or damaged
//!   write.rs  read.rs      W2 W3 F3 · R1          recover.rs  verify.rs    V1 V2        retire.rs  R4       upkeep.rs  ticks, stop
//! replica.rs               one replica in memory, R1's list of blocks in flight          tombstones.rs  ADR 1.9      vanished.rs  M17
//! stored.rs                one on a disk, looked at from outside
//! open_chunk.rs  table.rs  slots.rs    a chunk's open file: header and table and where their copies go (V4)
//! journal.rs               the dirty journal (V3)          crc.rs  linearity (W3)
//! format/  layout.rs       bytes and names on disk (docs/on-disk-format.md)
//! disk.rs                  trait Disk: what is needed from a file system     file.rs  a real one     memory.rs  one that crashes at will
//! ```
//!
//! # For the service
//! - Every async call may be dropped; the work goes on and its effect is as if the answer had been lost.
//! - Calls for one chunk that change it (write, prepare, install, cut, complete, delete) run in the order in which their
//!   futures are first polled. Reads and syncs run beside them.
//! - The incarnation (F3), the lease (F2) and the cluster of a request are checked by the service; the store checks
//!   version, grant, create token, tombstone, state, dirtiness and checksums, and refuses without any effect.
//! - `sync` covers every write whose future had resolved before the call.

mod chunk_store;
mod crc;
pub mod disk;
mod error;
pub mod file;
mod folder;
mod format;
mod homes;
mod journal;
mod layout;
mod lost;
pub mod memory;
mod open_chunk;
mod pool;
mod read;
mod recover;
mod replica;
mod request;
mod retire;
mod room;
mod scan;
mod slots;
mod start;
pub mod stored;
mod strays;
mod suspects;
mod table;
mod tombstones;
mod upkeep;
mod vanished;
mod verify;
mod volume;
mod write;

pub use chunk_store::{ChunkStore, OpenOptions};
pub use error::{Error, OpenError};
pub use request::*;
pub(crate) use volume::OPEN_CHUNKS;
