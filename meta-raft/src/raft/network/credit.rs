//! Which answers of a follower the library may hear: the leader's lease is counted from when the answered message was made.
//!
//! The library tells messages apart by their last entry only. One that carries no entry, made after one with entries, shares that last entry:
//! an answer to the former is then taken for an answer to both, and the lease is counted from when the later was made, which the follower
//! may never have seen. If the answer was long on its way, or this process stood still, the lease would outlive the followers' promise.
//! So such an answer is left out when it is old: the one to the later message says the same, and its time is true.
//!
//! What is noted here as made has been seen by the library as made before any answer to it: that holds because Raft's runtime has one thread.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// What the lease may be counted too long. Reads leave 40 % of the promise unused (`raft::reads`), at least 60 ms with the default timeouts.
const TOLERATED: Duration = Duration::from_millis(20);

/// The messages of one stream that are not answered yet.
#[derive(Debug, Default)]
pub(super) struct Credit {
    unanswered: VecDeque<(Instant, bool)>,
}

impl Credit {
    /// The library has made the next message.
    pub(super) fn made(&mut self, has_entries: bool) {
        self.unanswered.push_back((Instant::now(), has_entries));
    }

    /// The next answer has come, a good one; whether the library may hear it.
    pub(super) fn counts(&mut self) -> bool {
        let answered = self.unanswered.pop_front();
        let is_shared = self.unanswered.front().is_some_and(|(_, has_entries)| !has_entries);
        !is_shared || answered.is_some_and(|(made, _)| made.elapsed() <= TOLERATED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_old_answer_does_not_count_for_a_message_without_entries() {
        let mut credit = Credit::default();
        credit.made(true);
        tokio::time::advance(2 * TOLERATED).await;
        credit.made(false);
        assert!(!credit.counts(), "it would be taken for an answer to what was made just now");
        assert!(credit.counts(), "nothing later shares its last entry");
    }

    #[tokio::test(start_paused = true)]
    async fn other_answers_count() {
        let mut credit = Credit::default();
        // A fresh answer: the lease is too long by a little at most.
        credit.made(true);
        credit.made(false);
        tokio::time::advance(TOLERATED).await;
        assert!(credit.counts());
        assert!(credit.counts());
        // What follows has entries of its own.
        credit.made(true);
        tokio::time::advance(2 * TOLERATED).await;
        credit.made(true);
        assert!(credit.counts());
        tokio::time::advance(2 * TOLERATED).await;
        assert!(credit.counts());
    }
}
