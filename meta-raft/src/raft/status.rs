//! What operators see of one node.

use std::sync::atomic::Ordering;

use caribou_proto::ids::NodeId;
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::{Instant as _, ServerState};

use super::api::{FollowerStatus, RaftStatus, Role};
use super::node::RaftNode;
use super::types::{LogId, RaftMetrics};

fn index(id: Option<LogId>) -> u64 {
    id.map_or(0, |id| id.index())
}

pub(super) fn status(node: &RaftNode) -> RaftStatus {
    let inner = &node.inner;
    let metrics = inner.raft.metrics().borrow_watched().clone();
    let (installing_bytes, installing_total_bytes) = inner.progress.get();
    let proposed = inner.proposer.counters();
    // No guard of one watch may be held while another is looked at.
    let leader = inner.leader.borrow().clone();
    let applied_index = *inner.applied.borrow();
    RaftStatus {
        node_id: node.node_id(),
        cluster: node.cluster(),
        role: role(metrics.state),
        leader,
        last_log_index: metrics.last_log_index.unwrap_or(0),
        committed_index: index(metrics.local_committed),
        applied_index,
        purged_index: index(metrics.purged),
        snapshot_index: index(metrics.snapshot),
        state_hash: state_hash(node),
        members: node.members(),
        followers: followers(node, &metrics),
        installing_bytes,
        installing_total_bytes,
        log_fsyncs: inner.log.counters().fsyncs.load(Ordering::Relaxed),
        log_entries: inner.log.counters().entries.load(Ordering::Relaxed),
        log_bytes: inner.log.bytes(),
        commands: proposed.commands.load(Ordering::Relaxed),
        entries: proposed.entries.load(Ordering::Relaxed),
        peer_messages: inner.peers.traffic().messages(),
    }
}

fn state_hash(node: &RaftNode) -> u64 {
    node.view().state_hash().unwrap_or_else(|error| {
        tracing::warn!(%error, "the state's hash cannot be read");
        0
    })
}

fn role(state: ServerState) -> Role {
    match state {
        ServerState::Leader => Role::Leader,
        ServerState::Follower => Role::Follower,
        ServerState::Candidate => Role::Candidate,
        ServerState::Learner => Role::Learner,
        ServerState::Shutdown => Role::Stopped,
    }
}

fn followers(node: &RaftNode, metrics: &RaftMetrics) -> Vec<FollowerStatus> {
    let Some(replication) = &metrics.replication else { return Vec::new() };
    let last = metrics.last_log_index.unwrap_or(0);
    let others = replication.iter().filter(|(id, _)| **id != metrics.id);
    others
        .map(|(id, matched)| {
            let heard = metrics.heartbeat.as_ref().and_then(|h| *h.get(id)?);
            FollowerStatus {
                node_id: NodeId(*id),
                matched_index: index(*matched),
                lag_entries: last.saturating_sub(index(*matched)),
                last_contact_ms: heard.map(|at| at.into_inner().elapsed().as_millis() as u64),
                snapshotting: node.inner.peers.is_sending_snapshot(*id),
            }
        })
        .collect()
}
