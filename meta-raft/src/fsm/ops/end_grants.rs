//! Ends of many grants: `end_grants`, cleanly and without touching length or times (W7, ADR 2), and those of a session that ended (S4).

use caribou_proto::ids::SessionId;

use crate::fsm::command::{IntentKind, WrittenChunk};
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::{Edit, MAX_CHUNKS_PER_COMMAND, discard, end_by_force};
use crate::fsm::ops::write_end::{current, release_hold};
use crate::fsm::reply::Body;
use crate::fsm::tables::{chunks, inodes, session_grants};

pub(crate) fn apply(op: &mut Op<'_, '_>, written: &[WrittenChunk]) -> OpResult<Body> {
    if written.len() > MAX_CHUNKS_PER_COMMAND {
        return Err(Errno::Inval.into());
    }
    let (mut lost, mut lost_chunks) = (Vec::new(), Vec::new());
    for chunk in written {
        match current(op.txn, op.session, None, chunk)? {
            Some(edit) if edit.row.new => discard(op, edit.id, edit.stored())?, // W2: ended before its first write-end
            Some(mut edit) => {
                edit.row.grant = None;
                if chunk.resent {
                    edit.row.hold = None; // W5
                }
                edit.save(op)?;
            }
            None if release_hold(op, chunk)? => {}
            None => {
                lost.push(chunk.index);
                lost_chunks.push(chunk.chunk);
            }
        }
    }
    Ok(Body { lost, lost_chunks, ..Body::default() })
}

/// Ends up to `limit` grants and holds of a session that has ended; whether none is left.
///
/// Its grants are fenced by Intents (W8, ADR 3), its new chunks go to garbage (W2), and nobody waits for its resends any more (W5).
pub(crate) fn end_session(op: &mut Op<'_, '_>, session: SessionId, limit: usize) -> OpResult<bool> {
    let page = session_grants::page(op.txn, session, None, limit)?;
    for id in &page {
        let stored = chunks::existing(op.txn, *id)?;
        let owns = stored.grant.is_some_and(|g| g.session == session);
        if owns && stored.new {
            discard(op, *id, &stored)?;
            continue;
        }
        let length = inodes::existing(op.txn, stored.inode)?.size;
        let mut edit = Edit::of(*id, stored);
        if owns {
            end_by_force(&mut edit, IntentKind::Recover, false, length);
        }
        if edit.row.hold.is_some_and(|h| h.session == session) {
            edit.row.forsake();
        }
        edit.save(op)?;
    }
    Ok(page.len() < limit)
}
