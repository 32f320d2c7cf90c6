//! S3: commits the idle time of silent sessions, or that one was heard from again.

use super::*;
use crate::fsm::command::IdleStep;
use crate::fsm::tables::sessions;

/// Sessions that have ended or are gone are passed over.
pub(super) fn apply(op: &mut Op<'_, '_>, steps: &[IdleStep]) -> OpResult<Reply> {
    for step in steps {
        let Some(mut session) = sessions::get(op.txn, step.session)?.filter(|s| s.is_live()) else { continue };
        let idle_ms = if step.add_ms == 0 { 0 } else { session.idle_ms.saturating_add(step.add_ms) };
        if idle_ms != session.idle_ms {
            session.idle_ms = idle_ms;
            sessions::put(op.txn, step.session, &session);
        }
    }
    Ok(Reply::Done)
}
