//! The Raft library's type parameters. These types stay inside `raft/`: not in public APIs, not on disk, not on the wire (STACK, openraft 9).

use std::fmt;

use bytes::Bytes;
use openraft::vote::leader_id_std;

use super::snapshot::SnapshotData;
use super::state_machine::StateMachine;
use crate::fsm::reply::Reply;

/// One entry's payload: an encoded `log.v1.Envelope`, cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// Where a node is reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Node {
    pub(crate) address: String,
}

openraft::declare_raft_types!(
    /// Standard Raft: one leader per term (STACK, openraft 10).
    pub(crate) TypeConfig:
        D = Payload,
        R = Vec<Reply>,
        NodeId = u64,
        Node = Node,
        Term = u64,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

pub(crate) type Raft = openraft::Raft<TypeConfig, StateMachine>;
pub(crate) type CommittedLeaderId = leader_id_std::CommittedLeaderId<u64>;
pub(crate) type LogId = openraft::LogId<CommittedLeaderId>;
pub(crate) type Vote = openraft::Vote<leader_id_std::LeaderId<u64, u64>>;
pub(crate) type Membership = openraft::Membership<u64, Node>;
pub(crate) type StoredMembership = openraft::StoredMembership<CommittedLeaderId, u64, Node>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<CommittedLeaderId, u64, Node>;
pub(crate) type Snapshot = openraft::Snapshot<CommittedLeaderId, u64, Node, SnapshotData>;
pub(crate) type EntryPayload = openraft::EntryPayload<Payload, u64, Node>;
pub(crate) type Entry = openraft::Entry<CommittedLeaderId, EntryPayload>;
pub(crate) type RaftMetrics = openraft::RaftMetrics<TypeConfig>;

pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(CommittedLeaderId::new(term), index)
}

/// A vote with its own fields, so that callers need no constructor of the library.
pub(crate) fn vote(term: u64, node_id: u64, committed: bool) -> Vote {
    if committed { Vote::new_committed(term, node_id) } else { Vote::new(term, node_id) }
}
