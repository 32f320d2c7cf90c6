//! Measures a mounted directory, and a cluster through the client library. One engine: `caribou bench`, `caribou-bench` (the comparison)
//! and `caribou-chaos` (`creates`, `scale`) use it.
//!
//! | file | what it owns |
//! |---|---|
//! | `measure.rs` | threads that begin together, operations that are timed one by one, a figure of them all |
//! | `figure.rs` | what came out of one workload: rate, latencies, unit |
//! | `metadata.rs` | empty files and folders: mkdir, rmdir, create, stat, list, open, rename, unlink |
//! | `small.rs` | small files written, written with fsync, and read |
//! | `big.rs` | one big file: written, read, and both at random places |
//! | `calls.rs` | calls through the client library, so many in flight |
//! | `commits.rs` | committed creates and unlinks through the client library, without a mount |
//! | `close.rs` | close(2) with its error |
//! | `folders.rs` | which thread works in which folder, and what its files are called |
//! | `content.rs` | bytes that say which file, place and time of writing they belong to |
//! | `caches.rs` | dropping this machine's caches |
//! | `bar.rs` | progress on a terminal |
//! | `progress.rs` | how far a workload is, and whether it shall stop |
//! | `table.rs` | figures for a person |
//!
//! Invariant: a figure exists only if every operation of its workload succeeded and everything that was read was what had been written.

pub mod bar;
pub mod big;
pub mod caches;
pub mod calls;
pub mod close;
pub mod commits;
pub mod content;
pub mod figure;
pub mod folders;
pub mod measure;
pub mod metadata;
pub mod progress;
pub mod small;
pub mod table;

pub use caches::Caches;
pub use figure::{Figure, Latency, Placement, Unit};
pub use measure::{Spec, Worker, measure};
pub use progress::Progress;
