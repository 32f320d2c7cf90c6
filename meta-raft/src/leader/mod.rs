//! The loops that only a ready leader runs: recovery, recalls, sessions, claims, repair, garbage, and the control of chunk servers.
//!
//! [`Leader::start`] runs one task per term that owns all their state (STYLE 10). Events come in (applied effects, control streams, answers,
//! replies to proposals, ticks), records and commands go out. Nothing here is truth: a new leader finds everything again by scanning the
//! state (STYLE 9). Each loop is a plain struct with sync methods on a [`context::Cx`]: the time, one view of the state, the links to the
//! servers, and the list of records to propose; so it is tested without Raft, network or clock.
//!
//! `deps` what the loops need of the node · `handle` what the node needs of the loops · `task` the event loop · `links` control streams ·
//! `control` the gRPC service of chunk servers · `liveness` servers that come and go · `recovery` + `plan` Intents (V1) · `recall` (W8) ·
//! `sessions` (S3, S4) · `claims` (S7) · `repair` (R2) · `lost`, `damaged` (R3) · `garbage`, `inventory`, `strays` (R4) · `placement` · `limits`.
//!
//! Who wires it: on becoming ready call [`Leader::start`], send it every batch of applied effects, give `control` the handle through its
//! [`control::Host`], and drop the handle when the term is over.

pub(crate) mod claims;
mod context;
pub mod control;
mod damaged;
pub mod deps;
mod garbage;
mod handle;
mod inventory;
pub(crate) mod limits;
mod links;
mod liveness;
mod lost;
mod placement;
mod plan;
mod recall;
mod recovery;
mod repair;
mod sessions;
mod shared;
mod strays;
mod task;
#[cfg(test)]
mod testing;

pub use claims::CreateTicket;
pub use deps::{Deps, LeaderLease, NotLeader, Proposer, View};
pub use handle::{Leader, LeaderHandle, RenewError, Renewal, ServerStatus, SessionStatus};
