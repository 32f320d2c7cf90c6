//! Caribou's chunk server: replicas of 64 MiB chunks on local disks, written down a chain, read under a lease.
//!
//! ```text
//! run.rs        the process: configuration → socket → folders → server; signals
//! config.rs     flags and file          limits.rs  every fixed limit        descriptors.rs  enough of them, or no start
//! listen.rs     gRPC: socket, HTTP/2 limits, connection cap
//! server.rs     ChunkServer: the parts put together, housekeeping, the orderly end
//! service/      fragments and reads of clients and of the chain's members (W, R, F1, F3)
//! chain.rs      write streams to the next members (W3)
//! attach.rs     finding the leader      control.rs  its stream (F2)      heartbeat.rs  what is told to it
//! recover.rs    its commands (V1, R4)   fetch.rs    copying blocks from another server     fixing.rs  Fixes under way
//! lease.rs      the read lease (F2)     stats.rs    counters
//! peers/        the transport: gRPC, or within the process              clock.rs  the clock
//! store/        the replicas on disk
//! ```
//!
//! Absent on purpose: the server never decides where replicas are, what a recovery copies, or that anything may be deleted.
//! The leader's committed commands do; the server fences, carries out and reports.

mod attach;
mod chain;
pub mod clock;
pub mod config;
mod control;
pub mod descriptors;
mod fetch;
mod fixing;
mod heartbeat;
mod lease;
mod limits;
mod listen;
pub mod peers;
mod recover;
mod run;
mod server;
mod service;
mod stats;
pub mod store;
#[cfg(test)]
mod tests;

pub use attach::Refusal;
pub use run::{Error, run};
pub use server::{ChunkServer, Parts, Settings};
