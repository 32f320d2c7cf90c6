//! `start_intent`: a recovery that no client asked for: dirty after an unclean start, or a recall unanswered for 2 s (V1, W8).
//!
//! Naming the version of an Intent that is under way raises it once more: a later round of recovery finds a replica that an earlier one has
//! completed, and a completed replica changes only under a new version.

use crate::fsm::command::StartIntent;
use crate::fsm::error::OpResult;
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::{Edit, discard, end_by_force, intend};
use crate::fsm::reply::Reply;
use crate::fsm::tables::inodes;

pub(crate) fn apply(op: &mut Op<'_, '_>, start: &StartIntent) -> OpResult<Reply> {
    let Some(mut edit) = Edit::load(op.txn, start.chunk)? else {
        return Ok(Reply::Refused("the chunk is gone"));
    };
    // S6: decided from this version and grant.
    if edit.row.highest_version() != start.version || edit.row.grant.map(|g| g.id) != start.grant {
        return Ok(Reply::Refused("the version or the grant has changed"));
    }
    if edit.row.new {
        discard(op, edit.id, edit.stored())?; // W2
        return Ok(Reply::Done);
    }
    let length = inodes::existing(op.txn, edit.row.inode)?.size;
    match edit.row.grant {
        Some(_) => {
            let lives = edit.writer_lives(op.txn)?;
            end_by_force(&mut edit, start.kind, lives, length);
        }
        None => intend(&mut edit.row, start.kind, None, length),
    }
    edit.save(op)?;
    Ok(Reply::Done)
}
