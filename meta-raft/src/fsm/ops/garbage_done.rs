//! `garbage_done`: a server has moved replicas to its quarantine (R4).

use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};

use crate::fsm::error::OpResult;
use crate::fsm::ops::Op;
use crate::fsm::reply::Reply;
use crate::fsm::tables::garbage;

/// A row that names a higher version than was carried out stays.
pub(crate) fn apply(op: &mut Op<'_, '_>, server: ServerId, chunks: &[(ChunkId, ChunkVersion)]) -> OpResult<Reply> {
    for (chunk, version) in chunks {
        if garbage::get(op.txn, server, *chunk)?.is_some_and(|stored| stored <= *version) {
            garbage::delete(op.txn, server, *chunk)?;
        }
    }
    Ok(Reply::Done)
}
