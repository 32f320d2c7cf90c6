//! Committed entries → one batch of changes.

use bytes::Bytes;

use super::{StateError, StateStore};
use crate::fsm::Batch;
use crate::fsm::reply::{Effect, Reply};
use crate::raft::codec::command;
use crate::raft::types::{LogId, Membership, StoredMembership};

/// What one committed entry asks for.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A new leader's first entry: changes nothing but the applied index.
    Blank,
    Commands(Bytes),
    Membership(Membership),
}

/// What applying a group of entries gave.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Per entry.
    pub(crate) replies: Vec<Vec<Reply>>,
    /// Of all entries, in order.
    pub(crate) effects: Vec<Effect>,
}

impl StateStore {
    /// Applies consecutive entries and writes what they changed in one batch. An error means that this node must stop.
    pub(crate) fn apply(&self, entries: Vec<(LogId, Work)>) -> Result<Outcome, StateError> {
        let db = self.db();
        let mut applied = self.applied();
        let mut batch = Batch::new(&*db);
        let mut outcome = Outcome::default();
        for (log_id, work) in entries {
            if let Some(before) = applied.log_id.filter(|before| before.index() >= log_id.index()) {
                return Err(StateError::OutOfOrder { index: log_id.index(), applied: before.index() });
            }
            let mut replies = Vec::new();
            match work {
                Work::Blank => {}
                Work::Membership(m) => applied.membership = StoredMembership::new(Some(log_id), m),
                Work::Commands(bytes) => {
                    let index = log_id.index();
                    let entry = command::decode(bytes).map_err(|source| StateError::Command { index, source })?;
                    let done = batch.apply(&entry).map_err(|source| StateError::Apply { index, source })?;
                    applied.feature_level = applied.feature_level.max(entry.feature_level);
                    replies = done.replies;
                    outcome.effects.extend(done.effects);
                }
            }
            outcome.replies.push(replies);
            applied.log_id = Some(log_id);
        }
        db.commit(batch.finish(), &applied)?;
        self.current.write().applied = applied;
        Ok(outcome)
    }
}
