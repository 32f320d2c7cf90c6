//! A chunk's row at work: what is stored, and what it is going to be.

use caribou_proto::ids::ChunkId;

use crate::fsm::error::Fatal;
use crate::fsm::ops::Op;
use crate::fsm::reply::Effect;
use crate::fsm::tables::chunks::{self, Chunk};
use crate::fsm::tables::{Tables, sessions};

/// Change `row`, then [`Edit::save`] it; nothing is written before that.
pub(crate) struct Edit {
    pub(crate) id: ChunkId,
    before: Option<Chunk>,
    pub(crate) row: Chunk,
}

impl Edit {
    /// A chunk that is there.
    pub(crate) fn of(id: ChunkId, stored: Chunk) -> Self {
        Self { id, before: Some(stored.clone()), row: stored }
    }

    /// A chunk that is about to be.
    pub(crate) fn new(id: ChunkId, row: Chunk) -> Self {
        Self { id, before: None, row }
    }

    pub(crate) fn load(tables: &dyn Tables, id: ChunkId) -> Result<Option<Self>, Fatal> {
        Ok(chunks::get(tables, id)?.map(|stored| Self::of(id, stored)))
    }

    /// Writes the row and says what the leader and waiters may want to know.
    pub(crate) fn save(self, op: &mut Op<'_, '_>) -> Result<(), Fatal> {
        let Self { id, before, row } = self;
        if before.as_ref() == Some(&row) {
            return Ok(());
        }
        assert!(!row.replicas.is_empty(), "R3: a chunk has a replica");
        let intent = |chunk: &Chunk| chunk.intent.as_ref().map(|i| i.version);
        if row.intent.is_some() && intent(&row) != before.as_ref().and_then(intent) {
            op.effects.push(Effect::IntentStarted(id));
        }
        op.effects.push(Effect::ChunkChanged(id));
        chunks::save(op.txn, id, before.as_ref(), &row)
    }

    /// The row as it is stored, of a chunk that is there.
    pub(crate) fn stored(&self) -> &Chunk {
        self.before.as_ref().expect("asked only for chunks that are stored")
    }

    /// Whether the session of the live grant lives; false without a grant.
    pub(crate) fn writer_lives(&self, tables: &dyn Tables) -> Result<bool, Fatal> {
        match &self.row.grant {
            Some(grant) => Ok(sessions::get(tables, grant.session)?.is_some_and(|s| s.is_live())),
            None => Ok(false),
        }
    }
}
