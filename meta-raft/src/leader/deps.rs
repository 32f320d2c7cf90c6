//! What the leader's loops need of the node, as small traits: the Raft adapter gives them, tests give their own.

use std::sync::Arc;

use futures::future::BoxFuture;

use crate::fsm::command::Command;
use crate::fsm::reply::Reply;
use crate::fsm::tables::Tables;

/// This node leads no more in this term, or the outcome of a proposal cannot be known here: the loops end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not lead this term any more")]
pub struct NotLeader;

/// Proposes records of this term.
pub trait Proposer: Send + Sync + 'static {
    /// Queues the commands, in this order and in the order of calls, and gives their replies once they are applied here.
    fn propose(&self, commands: Vec<Command>) -> BoxFuture<'static, Result<Vec<Reply>, NotLeader>>;
}

/// Reads the state that this leader has applied.
pub trait View: Send + Sync + 'static {
    /// One consistent view; it contains everything whose reply or effect has been given out.
    fn tables(&self) -> Box<dyn Tables + '_>;
    /// The index up to which entries have been applied.
    fn applied_index(&self) -> u64;
}

/// Whether this leader's own lease holds: nobody else can have been elected (ADR 7).
pub trait LeaderLease: Send + Sync + 'static {
    fn is_valid(&self) -> bool;
}

/// Everything together.
#[derive(Clone)]
pub struct Deps {
    pub proposer: Arc<dyn Proposer>,
    pub view: Arc<dyn View>,
    pub lease: Arc<dyn LeaderLease>,
}
