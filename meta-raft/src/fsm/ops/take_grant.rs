//! `take_grant`: the right to write one chunk of a file (W1, F3).
//!
//! Access was checked when the file was opened. What is in the way is told, never waited for (S2): the client waits with a query.

use caribou_proto::ids::{InodeId, ServerId};

use crate::fsm::command::{IntentKind, Kind, TakeGrant};
use crate::fsm::error::{Errno, Fatal, OpResult};
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::{Edit, give, granted, intend, new_chunk, not_granted};
use crate::fsm::reply::{Body, Effect, GrantReply, GrantState};
use crate::fsm::tables::chunks::{self, Chunk};
use crate::fsm::tables::file_chunks::MAX_FILE_CHUNKS;
use crate::fsm::tables::inodes::{self, Inode};
use crate::fsm::tables::{Tables, classes, servers};

pub(crate) fn apply(op: &mut Op<'_, '_>, take: &TakeGrant) -> OpResult<Body> {
    let inode = inodes::named(op.txn, take.inode)?;
    match inode.kind {
        Kind::Regular => {}
        Kind::Directory => return Err(Errno::IsDir.into()),
        _ => return Err(Errno::Inval.into()),
    }
    if take.index >= MAX_FILE_CHUNKS {
        return Err(Errno::FileTooBig.into());
    }
    let grant = match chunks::of_file(op.txn, take.inode, take.index)? {
        None => new_chunk(op, (take.inode, take.index), inode.class, &take.placement)?,
        Some((id, stored)) => on_existing(op, Edit::of(id, stored), &inode)?,
    };
    Ok(Body { grant: Some(grant), ..Body::default() })
}

/// W1: the first chunk of a file that is created in the same record, on servers chosen by the leader.
pub(crate) fn first(
    op: &mut Op<'_, '_>,
    id: InodeId,
    inode: &mut Inode,
    placement: &[ServerId],
) -> OpResult<GrantReply> {
    Ok(new_chunk(op, (id, 0), inode.class, placement)?)
}

fn on_existing(op: &mut Op<'_, '_>, mut edit: Edit, inode: &Inode) -> Result<GrantReply, Fatal> {
    let index = edit.row.index;
    if edit.row.intent.is_some() {
        return Ok(not_granted(GrantState::Pending, index));
    }
    if let Some(grant) = edit.row.grant {
        if grant.session == op.session {
            return Ok(granted(edit.id, &edit.row));
        }
        return recall(op, edit);
    }
    // W5, ADR 5.
    if edit.row.hold.is_some_and(|h| h.session != op.session) {
        return Ok(not_granted(GrantState::Pending, index));
    }
    // V6: what is left after a loss is read, but not written, before repair has brought back the minimum.
    if edit.row.replicas.len() < classes::get(op.txn, edit.row.class)?.minimum() {
        return Ok(not_granted(GrantState::NoServers, index));
    }
    // W7: the next grant is one record only if no holder's incarnation has changed since.
    if !holders_stayed(op.txn, &edit.row)? {
        intend(&mut edit.row, IntentKind::Bump, None, inode.size);
        edit.save(op)?;
        return Ok(not_granted(GrantState::Pending, index));
    }
    give(op, edit)
}

/// W8: asks the owner to end its grant; once in the state, again as a hint.
fn recall(op: &mut Op<'_, '_>, mut edit: Edit) -> Result<GrantReply, Fatal> {
    let (id, inode, index) = (edit.id, edit.row.inode, edit.row.index);
    let grant = edit.row.grant.as_mut().expect("only a granted chunk is recalled");
    grant.recalled = true;
    op.effects.push(Effect::RecallGrant { session: grant.session, inode, index, chunk: id, grant: grant.id });
    edit.save(op)?;
    Ok(not_granted(GrantState::Recalled, index))
}

fn holders_stayed(tables: &dyn Tables, row: &Chunk) -> Result<bool, Fatal> {
    for replica in &row.replicas {
        if !servers::is_up_as(tables, replica.server, replica.incarnation)? {
            return Ok(false);
        }
    }
    Ok(true)
}
