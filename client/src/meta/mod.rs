//! The session with the metadata leader, from the client's side (rules S1–S7).
//!
//! | file | what it owns |
//! |---|---|
//! | `api.rs` | [`MetaClient`], the handle that callers share |
//! | `call.rs` | one call on its way: reply channel, soft timeout, giving up (S5) |
//! | `query.rs` | [`QueryOp`]: the calls that are not logged |
//! | `event.rs`, `status.rs` | what the session tells others: pushes of the leader, its own state |
//! | `task.rs` | the one task: joins commands, the stream, the search and the clock |
//! | `session.rs` | the state and its transitions, no I/O: messages, outcomes, expiry (S1, S4) |
//! | `liveness.rs` | renewals, silence, the own deadline (S3) |
//! | `requests.rs`, `queries.rs`, `claims.rs` | its three tables: logged calls (S1, S2, S5), queries, open files (S7) |
//! | `releases.rs` | claims that are let go, left for the task to find |
//! | `finder.rs`, `nodes.rs` | the search for the leader; the addresses that it knows |
//! | `transport.rs`, `grpc.rs` | a stream to one node, as a trait; over tonic |
//!
//! The clock is tokio's, so a test or a simulation that pauses it moves everything here; transport and randomness are
//! arguments ([`Environment`]).

mod api;
mod call;
mod claims;
mod event;
mod finder;
mod grpc;
mod liveness;
mod nodes;
mod queries;
mod query;
mod releases;
mod requests;
mod session;
mod status;
mod task;
#[cfg(test)]
mod tests;
mod transport;

pub use api::{Environment, MetaClient};
pub use event::MetaEvent;
pub use grpc::GrpcTransport;
pub use query::QueryOp;
pub use status::MetaStatus;
pub use transport::{LINK_QUEUE, Link, Transport, TransportError};
