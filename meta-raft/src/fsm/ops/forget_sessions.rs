//! S4: removes the rows and replies of sessions that ended long ago, oldest first, in bounded steps.

use super::*;
use crate::fsm::tables::{Visit, replies, sessions};

/// Rows that one record removes at most, whatever it asks for.
pub const MAX_ROWS_FORGOTTEN: usize = 4096;

pub(super) fn apply(op: &mut Op<'_, '_>, before_ns: i64, limit: u32) -> OpResult<Reply> {
    let mut left = usize::try_from(limit).map_or(MAX_ROWS_FORGOTTEN, |l| l.clamp(1, MAX_ROWS_FORGOTTEN));
    let mut ended = Vec::new();
    sessions::scan_ended(op.txn, &mut |since_ns, id| {
        let due = since_ns < before_ns && ended.len() <= left;
        if due {
            ended.push(id);
        }
        if due { Visit::Next } else { Visit::Stop }
    })?;
    for id in ended {
        let session = sessions::get(op.txn, id)?.ok_or_else(|| Fatal(format!("ended session {id} has no row")))?;
        let replies = replies::seqs(op.txn, id)?;
        for seq in replies.iter().take(left) {
            replies::delete(op.txn, id, *seq);
        }
        left -= replies.len().min(left);
        if left == 0 {
            return Ok(Reply::Progress { finished: false });
        }
        sessions::remove(op.txn, id, &session);
        left -= 1;
    }
    Ok(Reply::Progress { finished: true })
}
