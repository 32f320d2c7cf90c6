//! What the rest of the node sees of Raft: errors split as the caller acts, the leader's state, events, status.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use caribou_proto::ids::NodeId;

use super::identity::ClusterIdentity;
use crate::fsm::reply::Effect;

/// Something happened to the state, told in order and before the replies of the entries leave. After a restart entries are applied
/// again from the last durable point, and their effects come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StateEvent {
    /// Entries up to `index` have been applied and can be seen in a view.
    Applied { index: u64, effects: Vec<Effect> },
    /// A snapshot has replaced the state: forget everything derived from it.
    Installed { index: u64 },
}

/// Takes events; called from the apply loop, so it must not block.
pub type EventSink = Arc<dyn Fn(StateEvent) + Send + Sync>;

/// Who leads, as this node knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderState {
    pub term: u64,
    pub leader_id: Option<NodeId>,
    /// This node leads, has applied the blank entry of its own term, and the cluster is initialised.
    pub ready: bool,
}

/// Where to go instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaderHint {
    pub node_id: NodeId,
    pub address: String,
}

/// This node does not lead; nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node does not lead{}", .hint.as_ref().map(|h| format!("; node {} at {} does", h.node_id, h.address)).unwrap_or_default())]
pub struct NotLeader {
    pub hint: Option<LeaderHint>,
}

/// Why a proposal has no replies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Nothing was proposed.
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The outcome is unknown: the entry may still be committed, by this leader or the next. The retry rules (S2) find out.
    #[error("leadership was lost before the entry was applied here: its outcome is unknown")]
    Unavailable,
    /// Nothing was proposed: the caller has to cut it into smaller records.
    #[error("a proposal of about {bytes} bytes is above the limit of {limit}")]
    TooLarge { bytes: usize, limit: usize },
}

/// The node cannot start; one sentence: what, where, what to do. Nothing on disk has been changed.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("{path} is in use by another process: stop it first")]
    Locked { path: PathBuf },
    #[error("{path} belongs to node {found}, this is node {expected}: correct node_id, or choose another data folder")]
    OtherNode { path: PathBuf, found: NodeId, expected: NodeId },
    #[error(
        "{path} is no identity file of a metadata node ({reason}): choose another data folder, or restore this one"
    )]
    BadIdentity { path: PathBuf, reason: String },
    #[error("{path} holds data but no identity file: choose an empty data folder, or restore this one")]
    NoIdentity { path: PathBuf },
    #[error(
        "{path} holds no Raft log, but this node takes part in a cluster: mount or restore it (a node without its log could vote twice)"
    )]
    NoLog { path: PathBuf },
    #[error(
        "{path} holds the state of cluster {found}, its identity file says {expected}: the folder has been mixed up with another, restore it"
    )]
    OtherCluster { path: PathBuf, found: String, expected: String },
    #[error("{path} cannot be read or written: {source}")]
    Io { path: PathBuf, source: std::io::Error },
    #[error("the store in {path} cannot be opened: {reason}")]
    Store { path: PathBuf, reason: String },
    #[error("Raft cannot start: {0}")]
    Raft(String),
}

/// Why `init` was refused or broke off.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InitError {
    #[error("this node already belongs to cluster {0}: a cluster is initialised once")]
    AlreadyInitialised(ClusterIdentity),
    #[error("{0}")]
    BadRequest(String),
    #[error("node {node_id} at {address} does not answer ({reason}): start it, then repeat init")]
    Unreachable { node_id: NodeId, address: String, reason: String },
    #[error("node {node_id} at {address} cannot join: {reason}")]
    Refused { node_id: NodeId, address: String, reason: String },
    #[error("init broke off: {0}; repeat it once the nodes can reach each other")]
    Failed(String),
}

/// Why leadership has not moved.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    #[error("node {0} is no voter of this cluster")]
    NotAVoter(NodeId),
    #[error("node {node_id} lags {lag_entries} entries behind: wait until it has caught up")]
    Behind { node_id: NodeId, lag_entries: u64 },
    #[error("node {0} has not taken over in time; this node stands for election again")]
    TimedOut(NodeId),
}

/// The node must stop and be restarted by its supervisor (STACK, openraft 8).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this metadata node must stop: {0}")]
pub struct FatalError(pub String);

/// A node's part in its term.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    Candidate,
    Learner,
    Stopped,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Leader => "leader",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Learner => "learner",
            Self::Stopped => "stopped",
        })
    }
}

/// A member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    pub node_id: NodeId,
    pub address: String,
    pub voter: bool,
}

/// What the leader knows of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowerStatus {
    pub node_id: NodeId,
    pub matched_index: u64,
    pub lag_entries: u64,
    /// `None`: not since this node leads.
    pub last_contact_ms: Option<u64>,
    /// A snapshot is being sent to it.
    pub snapshotting: bool,
}

/// Everything an operator asks of one node. Indices are 0 where there is none.
#[derive(Clone, Debug)]
pub struct RaftStatus {
    pub node_id: NodeId,
    pub cluster: Option<ClusterIdentity>,
    pub role: Role,
    pub leader: LeaderState,
    pub last_log_index: u64,
    pub committed_index: u64,
    pub applied_index: u64,
    pub purged_index: u64,
    pub snapshot_index: u64,
    pub state_hash: u64,
    pub members: Vec<Member>,
    /// Set while this node leads.
    pub followers: Vec<FollowerStatus>,
    /// Received and total bytes of a snapshot under way; totals of 0: none.
    pub installing_bytes: u64,
    pub installing_total_bytes: u64,
    pub log_fsyncs: u64,
    pub log_entries: u64,
    pub log_bytes: u64,
    /// Commands and entries that this node has proposed.
    pub commands: u64,
    pub entries: u64,
    /// Messages that it has sent to other nodes.
    pub peer_messages: u64,
}
