//! Committed entries → one batch of changes.

use super::db::Stall;
use super::view::InMemory;
use super::{StateError, StateStore};
use crate::fsm::Batch;
use crate::fsm::command::{Command, Entry};
use crate::fsm::reply::{Effect, Reply};
use crate::fsm::tables::{Changes, Tables};
use crate::raft::codec::command;
use crate::raft::codec::entry::AppliedState;
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

/// What a group of entries makes of the state, before it is written.
struct Computed {
    changes: Changes,
    applied: AppliedState,
    outcome: Outcome,
}

impl StateStore {
    /// Applies consecutive entries and writes what they changed in one batch. An error means that this node must stop.
    pub(crate) fn apply(&self, entries: &[(LogId, Work)]) -> Result<Outcome, StateError> {
        let db = self.db();
        let Computed { changes, applied, outcome } = compute(&*db, self.applied(), entries)?;
        db.commit(changes, &applied, Stall::Wait)?;
        self.current.write().applied = applied;
        Ok(outcome)
    }

    /// The same where nothing may wait for a disk, a compaction or a flush. `None`: it would have to, and nothing has been done.
    pub(crate) fn apply_in_memory(&self, entries: &[(LogId, Work)]) -> Result<Option<Outcome>, StateError> {
        let db = self.db();
        let tables = InMemory::new(&db);
        let computed = compute(&tables, self.applied(), entries);
        if tables.missed() {
            return Ok(None);
        }
        let Computed { changes, applied, outcome } = computed?;
        match db.commit(changes, &applied, Stall::Refuse) {
            Err(StateError::Store(e)) if e.kind() == rocksdb::ErrorKind::Incomplete => return Ok(None),
            committed => committed?,
        }
        self.current.write().applied = applied;
        Ok(Some(outcome))
    }
}

fn compute(tables: &dyn Tables, mut applied: AppliedState, entries: &[(LogId, Work)]) -> Result<Computed, StateError> {
    let mut batch = Batch::new(tables);
    let mut outcome = Outcome::default();
    for (log_id, work) in entries {
        if let Some(before) = applied.log_id.filter(|before| before.index() >= log_id.index()) {
            return Err(StateError::OutOfOrder { index: log_id.index(), applied: before.index() });
        }
        let mut replies = Vec::new();
        match work {
            Work::Blank => {}
            Work::Membership(m) => applied.membership = StoredMembership::new(Some(*log_id), m.clone()),
            Work::Commands(entry) => {
                let index = log_id.index();
                let done = batch.apply(entry).map_err(|source| StateError::Apply { index, source })?;
                applied.feature_level = applied.feature_level.max(entry.feature_level);
                replies = done.replies;
                outcome.effects.extend(done.effects);
            }
        }
        outcome.replies.push(replies);
        applied.log_id = Some(*log_id);
    }
    Ok(Computed { changes: batch.finish(), applied, outcome })
}
