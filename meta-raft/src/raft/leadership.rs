//! Follows who leads, and completes `init`: a leader is ready once it has applied the blank entry of its own term and the cluster has
//! its first record.

use std::sync::Arc;

use caribou_proto::ids::NodeId;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::metrics::RaftServerMetrics;
use tokio::sync::watch;

use super::api::{FatalError, LeaderState};
use super::codec::command as codec;
use super::identity::Identity;
use super::state::StateStore;
use super::types::{Payload, Raft, TypeConfig};
use crate::fsm::FEATURE_LEVEL;
use crate::fsm::command::{Command, Entry, InitCluster};
use crate::fsm::tables::meta;

/// Everything the task needs.
pub(crate) struct Parts {
    pub(crate) raft: Raft,
    pub(crate) state: Arc<StateStore>,
    pub(crate) identity: Arc<Identity>,
    pub(crate) leader: watch::Sender<LeaderState>,
    pub(crate) fatal: watch::Sender<Option<FatalError>>,
    pub(crate) now_ns: Arc<dyn Fn() -> i64 + Send + Sync>,
}

fn leads(state: &RaftServerMetrics<TypeConfig>) -> bool {
    state.vote.committed && state.vote.leader_id.voted_for == state.id && state.current_leader == Some(state.id)
}

/// Runs until the library stops; then says why.
pub(crate) async fn run(parts: Parts) {
    let mut metrics = parts.raft.metrics();
    let mut votes = parts.raft.server_metrics();
    // The term whose leader, this node, has proposed the first record.
    let mut initialising: Option<u64> = None;
    let mut initialised = false;
    loop {
        // In this order: the library changes the votes before the metrics, so whatever changes both from here on wakes this task again.
        let (last_applied, stopped) = {
            let m = metrics.borrow_and_update();
            (m.last_applied, m.running_state.clone().err())
        };
        // Cloned, not borrowed: no guard of one watch may be held while another is looked at.
        let vote = votes.borrow_and_update().clone();
        let term = vote.vote.leader_id.term;
        // An entry of the own term has been applied; the blank one is the first of them.
        let applied_own = leads(&vote) && last_applied.is_some_and(|id| id.committed_leader_id().term == term);
        let next = LeaderState { term, leader_id: vote.current_leader.map(NodeId), ready: applied_own };
        if let Some(reason) = stopped {
            return stop(&parts, reason.to_string());
        }
        if applied_own && !initialised {
            match meta::cluster(&parts.state.view()) {
                Ok(cluster) => initialised = cluster.is_some(),
                Err(error) => return stop(&parts, error.to_string()),
            }
            if !initialised && initialising != Some(next.term) {
                initialising = Some(next.term);
                propose_first_record(&parts);
            }
        }
        let next = LeaderState { ready: next.ready && initialised, ..next };
        // The log's progress changes the metrics with every entry, and matters only to a leader that is not ready yet.
        let waits_for_progress = leads(&vote) && !next.ready;
        parts.leader.send_if_modified(|current| {
            let changed = *current != next;
            if changed {
                tracing::info!(
                    term = next.term,
                    leader = next.leader_id.map(|id| id.0),
                    ready = next.ready,
                    "leadership"
                );
                *current = next;
            }
            changed
        });
        let changed = if waits_for_progress { metrics.changed().await } else { votes.changed().await };
        if changed.is_err() {
            let stopped = metrics.borrow_watched().running_state.clone().err();
            return stop(&parts, stopped.map_or_else(|| "Raft has ended".to_owned(), |reason| reason.to_string()));
        }
    }
}

fn stop(parts: &Parts, reason: String) {
    parts.leader.send_modify(|state| state.ready = false);
    parts.fatal.send_modify(|fatal| {
        fatal.get_or_insert(FatalError(reason));
    });
}

/// The cluster's first record, made by whichever node leads first; `apply` refuses a second one.
fn propose_first_record(parts: &Parts) {
    let Some(cluster) = parts.identity.member_of() else { return };
    let first = Command::InitCluster(InitCluster {
        uuid: cluster.uuid,
        generation: cluster.generation,
        nonce: cluster.nonce,
        default_goal: parts.identity.default_goal(),
    });
    let time_ns = (parts.now_ns)().max(1);
    let entry = Entry { feature_level: FEATURE_LEVEL, time_ns, commands: vec![first] };
    let raft = parts.raft.clone();
    tokio::spawn(async move {
        if let Err(error) = raft.client_write(Payload(codec::encode(entry))).await {
            tracing::info!(%error, "the cluster's first record is left to the next leader");
        }
    });
}
