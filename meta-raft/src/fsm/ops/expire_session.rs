//! S3, S4: ends a session whose committed idle time has reached the TTL: at once for its requests, in bounded steps for its grants.

use caribou_proto::ids::SessionId;

use super::*;
use crate::fsm::tables::meta::{self, Counter};
use crate::fsm::tables::replies;
use crate::fsm::tables::sessions::{self, SessionState};

/// Grants that one record ends at most.
const MAX_GRANTS_PER_STEP: usize = 64;

pub(super) fn apply(op: &mut Op<'_, '_>, id: SessionId, ttl_ms: u64) -> OpResult<Reply> {
    let Some(mut session) = sessions::get(op.txn, id)? else {
        return Ok(Reply::Progress { finished: true });
    };
    let since_ns = match session.state {
        SessionState::Ended { .. } => return Ok(Reply::Progress { finished: true }),
        SessionState::Ending { since_ns } => since_ns,
        // S6: it may have been renewed since the leader decided.
        SessionState::Live if session.idle_ms < ttl_ms => {
            return Ok(Reply::Refused("the session has not been idle for its TTL"));
        }
        SessionState::Live => {
            meta::add(op.txn, Counter::LiveSessions, -1)?;
            op.effects.push(Effect::SessionEnded(id));
            op.time_ns
        }
    };
    let finished = end_grants::end_session(op, id, MAX_GRANTS_PER_STEP)?;
    session.state = match finished {
        true => SessionState::Ended { since_ns },
        false => SessionState::Ending { since_ns },
    };
    if finished {
        sessions::put_ended(op.txn, since_ns, id);
        // Nobody asks for what has been acknowledged; the rest stays.
        for seq in replies::seqs(op.txn, id)?.into_iter().filter(|seq| *seq < session.acked_below) {
            replies::delete(op.txn, id, seq);
        }
    }
    sessions::put(op.txn, id, &session);
    Ok(Reply::Progress { finished })
}
