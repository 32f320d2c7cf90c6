//! The chunk store: replicas of chunks on one or more data folders of this server.
//!
//! Owns everything below `service/` and above the file system: the files' formats, versions and grants per chunk, checksums,
//! the dirty journal, the dirty set after an unclean stop, the quarantine, the disks' threads and deadlines.
//! It does not know the wire, the leader, leases, incarnations of other servers or the chain; the service does.
//!
//! ```text
//! request.rs  error.rs       the words spoken with the service
//! chunk_store.rs             ChunkStore: the async door; finds the disk, queues, waits with a deadline
//! disk.rs                    trait Disk: what is needed from a file system   file.rs (real)   memory.rs (crashes at will)
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
pub mod disk;
mod error;
mod request;

pub use chunk_store::{ChunkStore, OpenOptions};
pub use error::{Error, OpenError};
pub use request::*;

/// Names within a data folder.
pub(crate) mod layout {
    /// Who the folder belongs to; the first file written into a new folder.
    pub(crate) const IDENTITY: &str = "caribou-disk";
}
