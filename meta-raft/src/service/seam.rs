//! Raft as the leader's loops of one term see it.
//!
//! The loops end with their term and with nothing else: a record that Raft turns down while the term goes on is proposed again. (Loops that
//! ended earlier would not be started again before the next term, and every chunk server would be sent away.)

use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot};

use crate::fsm::command::Command;
use crate::fsm::reply::Reply;
use crate::fsm::tables::Tables;
use crate::leader;
use crate::raft::{LeaderState, ProposeError, RaftNode};

/// Between two proposals of a record that is turned down.
const AGAIN: Duration = Duration::from_millis(10);

type Queued = (Vec<Command>, oneshot::Sender<Result<Vec<Reply>, leader::NotLeader>>);

/// Whether this node has stopped leading `term`.
pub(super) fn is_over(now: &LeaderState, term: u64) -> bool {
    now.term != term || !now.ready
}

/// Raft as the leader's loops of one term see it.
pub(super) struct Seam {
    raft: RaftNode,
    term: u64,
    queue: mpsc::UnboundedSender<Queued>,
}

impl Seam {
    /// The queue keeps the order of calls; its length is bounded by what the loops have under way.
    pub(super) fn start(raft: RaftNode, term: u64) -> Self {
        let (queue, mut queued) = mpsc::unbounded_channel::<Queued>();
        let to = raft.clone();
        tokio::spawn(async move {
            while let Some((commands, reply)) = queued.recv().await {
                let replies = if is_over(&to.leader().borrow(), term) {
                    None
                } else {
                    Some(to.enqueue(commands.clone(), Some(term)).await)
                };
                let raft = to.clone();
                tokio::spawn(async move {
                    let outcome = match replies {
                        None => Err(leader::NotLeader),
                        Some(Err(error)) => propose_again(&raft, term, commands, error).await,
                        Some(Ok(replies)) => match replies.await {
                            Ok(replies) => Ok(replies),
                            Err(error) => propose_again(&raft, term, commands, error).await,
                        },
                    };
                    // Whoever has stopped waiting needs no answer.
                    let _ = reply.send(outcome);
                });
            }
        });
        Self { raft, term, queue }
    }
}

/// A record that was not carried out, as far as one knows here. That alone does not end a term: while a quorum is silent for longer than the
/// lease, Raft turns everything down, and leads on once it hears from one again. Within its term, what was turned down was not appended, so
/// nothing is carried out twice; in another term it is not proposed at all. Its place among the others is lost: S6's conditions refuse what
/// no longer fits.
async fn propose_again(
    raft: &RaftNode,
    term: u64,
    commands: Vec<Command>,
    mut error: ProposeError,
) -> Result<Vec<Reply>, leader::NotLeader> {
    let mut leader = raft.leader();
    loop {
        if let ProposeError::TooLarge { .. } = error {
            tracing::error!(%error, "the leader's loops made a record that cannot be proposed");
            return Err(leader::NotLeader);
        }
        tokio::select! {
            biased;
            _ = leader.wait_for(|now| is_over(now, term)) => return Err(leader::NotLeader),
            () = raft.quorum() => {}
        }
        match raft.propose_in(term, commands.clone()).await {
            Ok(replies) => return Ok(replies),
            Err(again) => error = again,
        }
        // Turned down although a quorum answers: the end of the term is about to show, or the state cannot be read.
        tokio::time::sleep(AGAIN).await;
    }
}

impl leader::Proposer for Seam {
    fn propose(&self, commands: Vec<Command>) -> BoxFuture<'static, Result<Vec<Reply>, leader::NotLeader>> {
        let (reply, replies) = oneshot::channel();
        let queued = self.queue.send((commands, reply)).is_ok();
        Box::pin(async move {
            if !queued {
                return Err(leader::NotLeader);
            }
            replies.await.unwrap_or(Err(leader::NotLeader))
        })
    }
}

impl leader::View for Seam {
    fn tables(&self) -> Box<dyn Tables + '_> {
        Box::new(self.raft.view())
    }

    fn applied_index(&self) -> u64 {
        *self.raft.applied().borrow()
    }
}

impl leader::LeaderLease for Seam {
    fn is_valid(&self) -> bool {
        // The guard of the first look must be gone before the second: two at once, with a change of leader waiting in between, stop the node.
        let term = self.raft.leader().borrow().term;
        term == self.term && self.raft.lease_holds()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::Proposer as _;
    use crate::raft::tests::cluster::{Cluster, eventually, open_session};

    /// Both followers are gone until Raft turns down what is proposed; then one of them is back, and the term goes on.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_silent_quorum_does_not_end_the_loops_of_a_term() {
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
        assert_eq!(leader.leader().borrow().term, term, "a leader without a quorum stays one");

        let seam = Seam::start(leader.clone(), term);
        let proposed = tokio::spawn(seam.propose(vec![open_session(2)]));
        cluster.start(followers[0]).await;
        let outcome = proposed.await.unwrap();
        let still = !is_over(&leader.leader().borrow(), term);
        assert!(still, "one follower alone cannot elect itself while the leader is heard");
        assert!(matches!(outcome.as_deref(), Ok([Reply::SessionOpened { .. }])), "{outcome:?}");
    }
}
