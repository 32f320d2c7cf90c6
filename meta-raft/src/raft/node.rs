//! One metadata node's Raft: the door through which the rest of the node proposes, reads and watches.
//!
//! Runs on a small runtime of its own. A failed disk or apply ends it: [`RaftNode::fatal`] returns, and the process exits.

use std::sync::{Arc, Weak};

use caribou_proto::ids::NodeId;
use caribou_proto::raft::v1::raft_service_server::RaftServiceServer;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::ForwardToLeader;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::api::*;
use super::config::{RaftConfig, TRANSFER_TIMEOUT};
use super::identity::{ClusterIdentity, DirLock, Identity};
use super::init::Init;
use super::log_store::LogHandle;
use super::network::door;
use super::network::peers::Peers;
use super::network::server::Server;
use super::proposer::Proposer;
use super::reads::Reads;
use super::snapshot::receive::Progress;
use super::start;
use super::state::{StateStore, StateView};
use super::surroundings::{Blocking, Surroundings};
use super::types::{Raft, TypeConfig};
use crate::fsm::command::Command;
use crate::fsm::reply::Reply;
use crate::listen::Connection;

/// A follower further behind than this is not handed the leadership.
const MAX_TRANSFER_LAG_ENTRIES: u64 = 10_000;

/// A handle on this node's Raft; cheap to clone.
#[derive(Clone, Debug)]
pub struct RaftNode {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) identity: Arc<Identity>,
    pub(super) raft: Raft,
    pub(super) proposer: Proposer,
    pub(super) reads: Arc<Reads>,
    pub(super) leader: watch::Receiver<LeaderState>,
    pub(super) applied: watch::Receiver<u64>,
    pub(super) fatal: watch::Receiver<Option<FatalError>>,
    pub(super) peers: Arc<Peers>,
    pub(super) server: Server,
    pub(super) progress: Arc<Progress>,
    pub(super) log: LogHandle,
    pub(super) state: Arc<StateStore>,
    pub(super) runtime: Mutex<Option<Runtime>>,
    pub(super) blocking: Blocking,
    /// One `init` or hand-over at a time.
    pub(super) exclusive: tokio::sync::Mutex<()>,
    pub(super) _lock: DirLock,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Raft of node {}", self.identity.node_id())
    }
}

/// Once the last handle is gone nothing of the node runs any more: its folder can be opened again, and no thread holds a store while
/// the process ends (RocksDB aborts then). An event sink that holds a handle keeps it alive: such a node ends with [`RaftNode::shutdown`].
impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.get_mut().take() {
            start::end(runtime);
        }
    }
}

/// A [`RaftNode`] that does not keep the node alive.
#[derive(Clone, Debug)]
pub struct WeakRaftNode(Weak<Inner>);

impl WeakRaftNode {
    pub fn upgrade(&self) -> Option<RaftNode> {
        self.0.upgrade().map(|inner| RaftNode { inner })
    }
}

/// Where the leader is, as far as this node knows.
pub(super) fn hint(raft: &Raft) -> Option<LeaderHint> {
    let metrics = raft.metrics();
    let metrics = metrics.borrow_watched();
    let leader = metrics.current_leader.filter(|id| *id != metrics.id)?;
    let node = metrics.membership_config.get_node(&leader)?;
    Some(LeaderHint { node_id: NodeId(leader), address: node.address.clone() })
}

/// Where the library sends a request that this node cannot take: during a hand-over, to the next leader.
pub(super) fn forwarded(raft: &Raft, to: &ForwardToLeader<TypeConfig>) -> NotLeader {
    let own = *raft.node_id();
    let named = to.leader_id.filter(|id| *id != own).zip(to.leader_node.as_ref());
    let named = named.map(|(id, node)| LeaderHint { node_id: NodeId(id), address: node.address.clone() });
    NotLeader { hint: named.or_else(|| hint(raft)) }
}

impl RaftNode {
    /// Opens the data folder and starts. A node that has been in a cluster before first waits until every promise that it may have
    /// forgotten has run out (about 0.2 s). `events` is called from the apply loop and must not block.
    pub async fn start(config: RaftConfig, events: EventSink) -> Result<Self, StartError> {
        Self::start_in(config, Surroundings::default(), events).await
    }

    /// As [`Self::start`], with what a node takes from outside: for simulations.
    pub async fn start_in(
        config: RaftConfig,
        surroundings: Surroundings,
        events: EventSink,
    ) -> Result<Self, StartError> {
        start::start(config, surroundings, events).await.map(|inner| Self { inner: Arc::new(inner) })
    }

    /// Serves the other metadata nodes on these connections, on Raft's own runtime, until it ends. What is returned ends with that.
    pub(crate) fn serve(
        &self,
        connections: mpsc::Receiver<Connection>,
    ) -> impl Future<Output = Result<(), tonic::transport::Error>> + use<> {
        let serving = door::serve(self.inner.server.clone(), connections);
        let serving = self.inner.runtime.lock().as_ref().map(|runtime| runtime.spawn(serving));
        async move {
            match serving {
                Some(serving) => serving.await.unwrap_or(Ok(())),
                None => Ok(()),
            }
        }
    }

    pub fn downgrade(&self) -> WeakRaftNode {
        WeakRaftNode(Arc::downgrade(&self.inner))
    }

    pub fn node_id(&self) -> NodeId {
        self.inner.identity.node_id()
    }

    /// The cluster that this node has taken part in; `None` before `init`.
    pub fn cluster(&self) -> Option<ClusterIdentity> {
        self.inner.identity.member_of()
    }

    /// Makes a cluster of these nodes, this one among them; refused the second time. A goal of 0 means the default of 2.
    pub async fn init(&self, nodes: Vec<(NodeId, String)>, default_goal: u8) -> Result<ClusterIdentity, InitError> {
        let _exclusive = self.inner.exclusive.lock().await;
        let inner = &self.inner;
        let init = Init {
            raft: inner.raft.clone(),
            identity: Arc::clone(&inner.identity),
            peers: Arc::clone(&inner.peers),
            leader: inner.leader.clone(),
        };
        init.run(&nodes, default_goal).await
    }

    /// Replies in the order of the commands, once their entry has been committed and applied here.
    pub async fn propose(&self, commands: Vec<Command>) -> Result<Vec<Reply>, ProposeError> {
        self.inner.proposer.propose(commands, None).await
    }

    /// As [`Self::propose`], refused in any other term than `term`.
    pub async fn propose_in(&self, term: u64, commands: Vec<Command>) -> Result<Vec<Reply>, ProposeError> {
        self.inner.proposer.propose(commands, Some(term)).await
    }

    /// Queues the commands: calls one after the other are proposed in that order, in `term` only if there is one. What is returned gives the
    /// replies.
    pub async fn enqueue(
        &self,
        commands: Vec<Command>,
        term: Option<u64>,
    ) -> Result<impl Future<Output = Result<Vec<Reply>, ProposeError>> + Send + 'static, ProposeError> {
        let replies = self.inner.proposer.enqueue(commands, term).await?;
        Ok(async move { replies.await.unwrap_or(Err(ProposeError::Unavailable)) })
    }

    /// Whether this leader's lease holds now: nobody else can have been elected.
    pub fn lease_holds(&self) -> bool {
        let ready = self.inner.leader.borrow().ready;
        ready && self.inner.reads.lease_holds(&self.inner.raft)
    }

    /// Returns once a quorum has answered within the lease: what is proposed then is taken.
    pub async fn quorum(&self) {
        let mut metrics = self.inner.raft.metrics();
        while !self.lease_holds() {
            if metrics.changed().await.is_err() {
                // Raft has ended, and with it this node's part in the term.
                std::future::pending().await
            }
        }
    }

    /// What other metadata nodes ask of this one.
    pub(crate) fn raft_service(&self) -> RaftServiceServer<Server> {
        door::service(self.inner.server.clone())
    }

    /// A view that observes every write acknowledged before the call.
    pub async fn read(&self) -> Result<StateView, NotLeader> {
        self.inner.reads.confirm(&self.inner.raft).await?;
        Ok(self.view())
    }

    /// As [`RaftNode::read`], where that asks nobody: under the lease.
    pub(crate) fn read_at_once(&self) -> Option<StateView> {
        self.inner.reads.lease_holds(&self.inner.raft).then(|| self.view())
    }

    /// The state as this node has applied it, which may be old.
    pub fn view(&self) -> StateView {
        self.inner.state.view()
    }

    /// The index of the last applied entry.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.inner.applied.clone()
    }

    /// Who leads, and whether this node is the ready leader.
    pub fn leader(&self) -> watch::Receiver<LeaderState> {
        self.inner.leader.clone()
    }

    /// Where requests should go instead, if another node is known to lead.
    pub fn leader_hint(&self) -> Option<LeaderHint> {
        hint(&self.inner.raft)
    }

    /// The cluster's metadata nodes; empty before `init`.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.inner.raft.metrics();
        let metrics = metrics.borrow_watched();
        let voters: Vec<u64> = metrics.membership_config.voter_ids().collect();
        let nodes = metrics.membership_config.nodes();
        nodes
            .map(|(id, node)| Member {
                node_id: NodeId(*id),
                address: node.address.clone(),
                voter: voters.contains(id),
            })
            .collect()
    }

    /// Everything an operator asks.
    pub fn status(&self) -> RaftStatus {
        super::status::status(self)
    }

    /// Hands the leadership to `to`, or to the voter that is furthest; returns once it leads.
    pub async fn transfer_leader(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let node = self.clone();
        // Goes on if whoever asked has gone: one that failed leaves a leader that takes no writes until its end is seen to.
        tokio::spawn(async move { node.hand_over(to).await })
            .await
            .unwrap_or_else(|_| Err(NotLeader { hint: self.leader_hint() }.into()))
    }

    async fn hand_over(&self, to: Option<NodeId>) -> Result<NodeId, TransferError> {
        let _exclusive = self.inner.exclusive.lock().await;
        let inner = &self.inner;
        let state = inner.leader.borrow().clone();
        if !state.ready {
            return Err(NotLeader { hint: self.leader_hint() }.into());
        }
        if to == Some(self.node_id()) {
            return Ok(self.node_id());
        }
        let followers = self.status().followers;
        let voters: Vec<NodeId> = self.members().iter().filter(|m| m.voter).map(|m| m.node_id).collect();
        let candidates = followers.iter().filter(|f| voters.contains(&f.node_id));
        let target = match to {
            Some(to) => candidates.clone().find(|f| f.node_id == to).ok_or(TransferError::NotAVoter(to))?,
            None => candidates.max_by_key(|f| f.matched_index).ok_or(TransferError::NotAVoter(NodeId(0)))?,
        };
        if target.lag_entries > MAX_TRANSFER_LAG_ENTRIES {
            return Err(TransferError::Behind { node_id: target.node_id, lag_entries: target.lag_entries });
        }
        let target = target.node_id;
        // No read may rely on the lease once the others are free to elect the new leader (STACK, openraft 1).
        inner.reads.revoke(state.term);
        let started = Instant::now();
        if inner.raft.trigger().transfer_leader(target.0).await.is_err() {
            return Err(TransferError::TimedOut(target));
        }
        let mut leader = inner.leader.clone();
        let taken = leader.wait_for(|now| now.term > state.term && now.leader_id.is_some());
        let outcome = tokio::time::timeout(TRANSFER_TIMEOUT, taken).await.map(|r| r.map(|now| now.leader_id));
        match outcome {
            Ok(Ok(Some(new))) => {
                tracing::info!(
                    to = new.0,
                    ms = started.elapsed().as_millis() as u64,
                    "leadership has been handed over"
                );
                Ok(new)
            }
            _ => {
                // The library accepts no writes after a hand-over that failed: a new term ends that.
                let _ = inner.raft.trigger().elect(false).await;
                Err(TransferError::TimedOut(target))
            }
        }
    }

    /// Returns when the node must stop: a failed disk, a failed apply, or after `shutdown`.
    pub async fn fatal(&self) -> FatalError {
        let mut fatal = self.inner.fatal.clone();
        match fatal.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().expect("waited for"),
            Err(_) => FatalError("Raft has ended".to_owned()),
        }
    }

    /// Why the node must stop, if that is known already.
    pub fn failed(&self) -> Option<FatalError> {
        self.inner.fatal.borrow().clone()
    }

    /// Stops Raft and makes the state durable, so that the next start has little to apply again.
    pub async fn shutdown(&self) {
        self.stop().await;
        let state = Arc::clone(&self.inner.state);
        let flushing = self.inner.blocking.run(move || state.flush());
        match tokio::time::timeout(start::STOP_TIMEOUT, flushing).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the state could not be flushed; the log brings it back"),
            Ok(Err(error)) => tracing::warn!(%error, "the state was not flushed; the log brings it back"),
            Err(_) => tracing::warn!("the disk takes too long to flush the state; the log brings it back"),
        }
    }

    /// Stops Raft, and nothing else: what a crash leaves.
    pub async fn stop(&self) {
        if let Err(error) = self.inner.raft.shutdown().await {
            tracing::warn!(%error, "Raft did not stop cleanly");
        }
        let runtime = self.inner.runtime.lock().take();
        if let Some(runtime) = runtime {
            let waited = tokio::task::spawn_blocking(move || start::end(runtime)).await;
            if let Err(error) = waited {
                tracing::warn!(%error, "Raft's threads did not stop cleanly");
            }
        }
    }
}
