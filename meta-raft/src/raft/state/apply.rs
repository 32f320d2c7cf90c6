//! Committed entries → one batch of changes.

use super::{StateError, StateStore};
use crate::fsm::Batch;
use crate::fsm::command::{Command, Entry};
use crate::fsm::reply::{Effect, Reply};
use crate::raft::codec::command;
use crate::raft::types::{EntryPayload, LogId, Membership, StoredMembership};

/// What one committed entry asks for.
#[derive(Clone, Debug)]
pub(crate) enum Work {
    /// A new leader's first entry: changes nothing but the applied index.
    Blank,
    Commands(Entry),
    Membership(Membership),
}

impl Work {
    /// What the log's entry `index` says.
    pub(crate) fn decode(index: u64, payload: EntryPayload) -> Result<Self, StateError> {
        Ok(match payload {
            EntryPayload::Blank => Self::Blank,
            EntryPayload::Membership(m) => Self::Membership(m),
            EntryPayload::Normal(p) => {
                Self::Commands(command::decode(p.0).map_err(|source| StateError::Command { index, source })?)
            }
        })
    }

    /// Whether its size bounds the time that it takes.
    pub(crate) fn is_brief(&self) -> bool {
        match self {
            Self::Blank | Self::Membership(_) => true,
            Self::Commands(entry) => entry.commands.iter().all(Command::is_brief),
        }
    }
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
                Work::Commands(entry) => {
                    let index = log_id.index();
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
