//! The chunks of an inode that is purged, in bounded steps.

use caribou_proto::ids::InodeId;

use super::discard;
use crate::fsm::error::Fatal;
use crate::fsm::ops::Op;
use crate::fsm::tables::{chunks, file_chunks};

/// Puts up to `limit` of the inode's chunks into garbage; returns how many it were. Fewer than `limit`: none is left.
pub(crate) fn release_step(op: &mut Op<'_, '_>, inode: InodeId, limit: usize) -> Result<usize, Fatal> {
    let page = file_chunks::page(op.txn, inode, 0, limit)?;
    for (_, id) in &page {
        let stored = chunks::existing(op.txn, *id)?;
        discard(op, *id, &stored)?;
    }
    Ok(page.len())
}
