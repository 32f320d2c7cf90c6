//! `replica_lost`: a server confirms that it has no usable replica of a chunk (R3).

use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};

use crate::fsm::command::IntentKind;
use crate::fsm::error::OpResult;
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::{Edit, end_by_force, intend};
use crate::fsm::reply::{Effect, Reply};
use crate::fsm::tables::{garbage, inodes};

pub(crate) fn apply(op: &mut Op<'_, '_>, chunk: ChunkId, version: ChunkVersion, server: ServerId) -> OpResult<Reply> {
    let Some(mut edit) = Edit::load(op.txn, chunk)? else {
        return Ok(Reply::Refused("the chunk is gone"));
    };
    if edit.row.version != version || edit.row.intent.is_some() {
        return Ok(Reply::Refused("the version has moved"));
    }
    if edit.row.replica(server).is_none() {
        return Ok(Reply::Refused("the server is not a holder"));
    }
    if edit.row.new {
        return Ok(Reply::Refused("the chunk is new: its writer finds out"));
    }
    if edit.row.replicas.len() == 1 {
        return Ok(Reply::Refused("it is the last replica"));
    }
    // The holders of a grant do not change while it lives, and a version that this server was named for never comes back to it: a copy that
    // is made there later must not answer readers that still know it (M9).
    let length = inodes::existing(op.txn, edit.row.inode)?.size;
    if edit.row.grant.is_some() {
        let lives = edit.writer_lives(op.txn)?;
        end_by_force(&mut edit, IntentKind::Bump, lives, length);
    } else {
        intend(&mut edit.row, IntentKind::Bump, None, length);
    }
    edit.row.replicas.retain(|r| r.server != server);
    // Whatever is left of it there is cleared away.
    garbage::put(op.txn, server, chunk, edit.row.highest_version())?;
    op.effects.push(Effect::Garbage(server));
    op.effects.push(Effect::BelowGoal(chunk));
    edit.save(op)?;
    Ok(Reply::Done)
}
