//! A chunk ends: its row goes, its replicas become committed deletions (W2, R4).

use caribou_proto::ids::ChunkId;

use crate::fsm::error::Fatal;
use crate::fsm::ops::Op;
use crate::fsm::reply::Effect;
use crate::fsm::tables::chunks::{self, Chunk};
use crate::fsm::tables::garbage;

/// Removes the chunk; whatever grant, Intent or hold it had is over. Its garbage names the highest version that a server may have.
pub(crate) fn discard(op: &mut Op<'_, '_>, id: ChunkId, stored: &Chunk) -> Result<(), Fatal> {
    for replica in &stored.replicas {
        garbage::put(op.txn, replica.server, id, stored.highest_version())?;
        op.effects.push(Effect::Garbage(replica.server));
    }
    op.effects.push(Effect::ChunkChanged(id));
    chunks::remove(op.txn, id, stored)
}
