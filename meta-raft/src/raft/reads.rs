//! Linearizable reads: by the leader's lease while it holds, else by asking a quorum (ReadIndex), never an error while this node leads.
//!
//! The lease used is 60 % of what followers promise (clocks drift). It is looked up in the library's metrics, so that many queries
//! share one quorum round; outside of Raft's core nobody tells us that a hand-over has begun, so `revoke` comes before one (STACK, openraft 1).
//! No wait for `applied` is needed under the lease: this leader's writes are answered after they have been applied here, and it is ready
//! only once it has applied everything before its own term.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caribou_planted::{self as planted, Bug};
use openraft::async_runtime::watch::WatchReceiver as _;
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::{Instant as _, LinearizerOption};
use tokio::sync::watch;

use super::api::{LeaderState, NotLeader};
use super::config::READ_PATIENCE;
use super::node::{forwarded, hint};
use super::types::Raft;

/// Decides whether a view taken now observes every acknowledged write.
#[derive(Debug)]
pub(crate) struct Reads {
    lease: Duration,
    leader: watch::Receiver<LeaderState>,
    /// The term in which a hand-over has begun.
    revoked_term: AtomicU64,
    /// One quorum round at a time; the others find its result.
    round: tokio::sync::Mutex<()>,
}

impl Reads {
    pub(crate) fn new(lease: Duration, leader: watch::Receiver<LeaderState>) -> Self {
        Self { lease, leader, revoked_term: AtomicU64::new(0), round: tokio::sync::Mutex::new(()) }
    }

    /// From here on the lease of `term` counts no more.
    pub(crate) fn revoke(&self, term: u64) {
        self.revoked_term.fetch_max(term, Ordering::SeqCst);
    }

    /// Whether a quorum has answered so lately that nobody else can have been elected.
    pub(crate) fn lease_holds(&self, raft: &Raft) -> bool {
        // Cloned, not borrowed: no guard of one watch may be held while another is looked at.
        let ready = self.leader.borrow().clone();
        let metrics = raft.metrics();
        let metrics = metrics.borrow_watched();
        let leads = metrics.vote.committed && metrics.vote.leader_id.voted_for == metrics.id;
        let term = metrics.vote.leader_id.term;
        let is_fresh =
            metrics.last_quorum_acked.is_some_and(|at| at.into_inner() + self.lease > openraft::TokioInstant::now());
        // The library notes only what others answer. Looked at last: it gathers all voters, and every question comes by.
        let is_alone = || metrics.membership_config.voter_ids().eq([metrics.id]);
        // Ready in this very term: between two terms of ours another leader may have committed what is not applied here.
        leads
            && ready.ready
            && ready.term == term
            && term > self.revoked_term.load(Ordering::SeqCst)
            && (is_fresh || planted::is(Bug::ReadsWithoutLease) || is_alone())
    }

    /// Returns once this node is known to lead and to have applied everything acknowledged before the call.
    pub(crate) async fn confirm(&self, raft: &Raft) -> Result<(), NotLeader> {
        if !self.leader.borrow().ready {
            return Err(NotLeader { hint: hint(raft) });
        }
        if self.lease_holds(raft) {
            return Ok(());
        }
        let round = async {
            let _turn = self.round.lock().await;
            if self.lease_holds(raft) {
                return Ok(());
            }
            let option = LinearizerOption::new(Some(self.lease), true).with_wait_timeout(READ_PATIENCE);
            match raft.ensure_linearizable(option).await {
                Ok(_) => Ok(()),
                Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(to))) => Err(forwarded(raft, &to)),
                Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)) | RaftError::Fatal(_)) => {
                    Err(NotLeader { hint: hint(raft) })
                }
            }
        };
        // Honest waiting has an end here: a leader that is cut off sends its clients to look for another.
        tokio::time::timeout(READ_PATIENCE, round).await.unwrap_or(Err(NotLeader { hint: None }))
    }
}
