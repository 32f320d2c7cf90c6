//! Removes orphans for good: chunks to the garbage, then attributes, then the row. Bounded per record; the leader repeats it.
//!
//! The leader has made sure that nobody claims them (S7); that they have no links is checked here again.

use caribou_proto::ids::InodeId;

use super::*;
use crate::fsm::command::Kind;
use crate::fsm::tables::{inodes, orphans, symlinks, xattrs};

/// Chunks that one record sends to the garbage at most.
const MAX_CHUNKS_PER_PURGE: usize = 1024;
/// Orphans that one record removes at most.
const MAX_INODES_PER_PURGE: usize = 256;

pub(super) fn apply(op: &mut Op<'_, '_>, ids: &[InodeId]) -> OpResult<Reply> {
    let mut chunks_left = MAX_CHUNKS_PER_PURGE;
    let mut inodes_left = MAX_INODES_PER_PURGE;
    for id in ids {
        if inodes_left == 0 || chunks_left == 0 {
            return Ok(Reply::Progress { finished: false });
        }
        // Purged by an earlier record of the same list, or never an orphan.
        if !orphans::contains(op.txn, *id)? {
            continue;
        }
        let inode = inodes::existing(op.txn, *id)?;
        // S7.
        if inode.nlink != 0 {
            continue;
        }
        if inode.kind == Kind::Regular && !cut::purge(op, *id, &mut chunks_left)? {
            return Ok(Reply::Progress { finished: false });
        }
        if inode.xattrs > 0 {
            for (name, _) in xattrs::names(op.txn, *id)? {
                xattrs::remove(op.txn, *id, &name);
            }
        }
        if inode.kind == Kind::Symlink {
            symlinks::remove(op.txn, *id);
        }
        orphans::remove(op.txn, *id)?;
        inodes::remove(op.txn, *id, inode)?;
        inodes_left -= 1;
    }
    Ok(Reply::Progress { finished: true })
}
