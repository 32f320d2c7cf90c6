//! The end of a session, as far as chunks go, in bounded steps (S4).

use caribou_proto::ids::SessionId;

use super::{Edit, discard, end_by_force};
use crate::fsm::command::IntentKind;
use crate::fsm::error::Fatal;
use crate::fsm::ops::Op;
use crate::fsm::tables::{chunks, inodes, session_grants};

/// Ends up to `limit` grants and holds of a session that has ended; whether none is left.
///
/// Its grants are fenced by Intents (W8, ADR 3), its new chunks go to garbage (W2), and nobody waits for its resends any more (W5).
pub(crate) fn end_session_grants(op: &mut Op<'_, '_>, session: SessionId, limit: usize) -> Result<bool, Fatal> {
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
        edit.row.hold = edit.row.hold.filter(|h| h.session != session);
        if let Some(intent) = edit.row.intent.as_mut() {
            intent.ended = intent.ended.take().filter(|e| e.session != session);
        }
        edit.save(op)?;
    }
    Ok(page.len() < limit)
}
