//! Follows who leads, and completes `init`: a leader is ready once it has applied the blank entry of its own term and the cluster has
//! its first record.

use std::sync::Arc;

use caribou_proto::ids::NodeId;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::impls::ProgressResponder;
use openraft::metrics::RaftServerMetrics;
use openraft::raft::ClientWriteResult;
use tokio::sync::watch;

use super::api::{FatalError, LeaderState};
use super::codec::command as codec;
use super::identity::Identity;
use super::state::StateStore;
use super::types::{CommittedLeaderId, Payload, Raft, TypeConfig};
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
    // The term whose leader, this node, proposes the first record.
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
                begin_cluster(&parts, next.term);
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
fn begin_cluster(parts: &Parts, term: u64) {
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
        if !propose_in_term(&raft, term, &Payload(codec::encode(entry))).await {
            tracing::info!(term, "the cluster's first record is left to the next leader");
        }
    });
}

/// Proposes a record until it has been applied or `term` is over; whether it has been applied. While a quorum is silent for longer than the
/// lease, Raft turns everything down, and leads on once it hears from one again. What was turned down was not appended.
async fn propose_in_term(raft: &Raft, term: u64, record: &Payload) -> bool {
    let mut metrics = raft.metrics();
    loop {
        // Looked at before: an answer that comes while the record is being turned down counts too.
        let acked = metrics.borrow_watched().last_quorum_acked;
        match propose_once(raft, term, record.clone()).await {
            Some(Ok(_)) => return true,
            Some(Err(ClientWriteError::ForwardToLeader(to))) if to.reason == ForwardReason::LeaseExpired => {}
            _ => return false,
        }
        // Not the next change: each proposal makes one.
        let heard = metrics.wait_until(move |m| m.last_quorum_acked != acked || m.vote.leader_id.term != term).await;
        if heard.is_err() {
            return false;
        }
    }
}

/// `None`: Raft has ended.
async fn propose_once(raft: &Raft, term: u64, record: Payload) -> Option<ClientWriteResult<TypeConfig>> {
    let (responder, _, result) = ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::new();
    let write = raft.write(record).responder(responder);
    write.with_leader(CommittedLeaderId::new(term)).await.ok()?;
    result.await.ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::raft::ProposeError;
    use crate::raft::tests::cluster::{Cluster, eventually, open_session};

    /// Both followers are gone until Raft turns down what is proposed; then one of them is back, and the term goes on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_record_that_is_turned_down_is_proposed_again_while_the_term_lasts() {
        let mut cluster = Cluster::three(|_| {}).await;
        let id = cluster.leader().await;
        let leader = cluster.node(id).clone();
        let term = leader.leader().borrow().term;
        let followers: Vec<u64> = (1..=3).filter(|other| *other != id).collect();
        for follower in &followers {
            cluster.crash(*follower).await;
        }
        eventually("a proposal that is turned down", async || {
            let proposed = leader.propose(vec![open_session(1)]);
            let outcome = tokio::time::timeout(Duration::from_secs(3), proposed).await;
            matches!(outcome, Ok(Err(ProposeError::NotLeader(_)))).then_some(())
        })
        .await;

        let raft = leader.inner.raft.clone();
        let entry = Entry { feature_level: FEATURE_LEVEL, time_ns: 1, commands: vec![open_session(2)] };
        let record = Payload(codec::encode(entry));
        let (again, late) = (raft.clone(), record.clone());
        let proposed = tokio::spawn(async move { propose_in_term(&again, term, &late).await });
        cluster.start(followers[0]).await;
        assert!(proposed.await.unwrap(), "it is taken once a follower is back");
        assert_eq!(
            leader.leader().borrow().term,
            term,
            "one follower alone cannot elect itself while the leader is heard"
        );
        assert!(!propose_in_term(&raft, term - 1, &record).await, "in another term it is not proposed");
    }
}
