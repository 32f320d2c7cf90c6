//! Bytes of chunks on their way to and from chunk servers (rules W3, W4, R1).
//!
//! | file | what it owns |
//! |---|---|
//! | `link.rs` | [`Transport`]: a stream to one server, as a trait; channels in tests and simulations |
//! | `grpc.rs` | the same over tonic |
//! | `mux.rs` | many calls on one stream: numbers, answers, what happens when it breaks or falls silent |
//! | `servers.rs` | the pool: which stream a chunk's bytes take |
//! | `read.rs` | one read of a chunk whose place is known: replica choice, checksum, hedging, verdict (R1) |
//!
//! Not here: which chunk a byte belongs to, grants, versions, waiting for the leader. All of that is `file/`.

mod grpc;
mod link;
mod mux;
mod read;
mod servers;

pub use grpc::GrpcTransport;
pub use link::{LINK_QUEUE, Link, LinkError, Transport};
pub(crate) use mux::{Mux, answer};
pub(crate) use read::{Place, Verdict, read};
pub(crate) use servers::{Servers, WriteStream};
