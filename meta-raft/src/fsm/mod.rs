//! The state machine: pure, deterministic, total.
//!
//! `apply` turns committed entries into changes of ordered tables, replies and effects; `read` answers questions on a consistent view.
//! Nothing here knows a clock, randomness, I/O, hash order or configuration (STYLE 5, 6): time and every choice ride in the command.
//!
//! Map: `command` what is asked · `ops/` one file per operation · `read/` one per question · `tables/` one per table · `reply`, `error` what
//! comes back · `access`, `xattr_rules` who may · `digest` the state hash · `invariants*` what is true of every state.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]

mod access;
pub mod command;
pub(crate) mod digest;
pub mod error;
pub mod invariants;
pub mod invariants_chunks;
pub mod ops;
pub mod read;
pub mod reply;
pub mod tables;
mod xattr_rules;

use error::Fatal;
use reply::{Effect, Reply};
use tables::{Changes, Tables, Txn};

/// The newest feature level that this build understands.
pub const FEATURE_LEVEL: u32 = 1;

/// What one entry did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// One per command, in order.
    pub replies: Vec<Reply>,
    pub effects: Vec<Effect>,
}

/// A batch of committed entries at work on top of a back end.
pub struct Batch<'a> {
    txn: Txn<'a>,
}

impl<'a> Batch<'a> {
    pub fn new(base: &'a dyn Tables) -> Self {
        Self { txn: Txn::new(base) }
    }

    /// Applies one entry. POSIX failures are replies; `Fatal` means that this node must stop.
    pub fn apply(&mut self, entry: &command::Entry) -> Result<Applied, Fatal> {
        ops::apply_entry(&mut self.txn, entry)
    }

    /// What the back end has to take, in one atomic write.
    pub fn finish(self) -> Changes {
        self.txn.finish()
    }
}
