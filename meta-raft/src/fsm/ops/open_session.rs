//! Opens a session; the same key finds the same session, so that a retried opening makes no second one.

use super::*;
use crate::fsm::tables::meta::{self, Counter};
use crate::fsm::tables::sessions::{self, Session};

/// Longest name kept, in bytes; it is for people to read.
const MAX_NAME_BYTES: usize = 255;

pub(super) fn apply(op: &mut Op<'_, '_>, key: &[u8; 16], name: &str) -> OpResult<Reply> {
    if meta::cluster(op.txn)?.is_none() {
        return Ok(Reply::Refused("the cluster is not initialised"));
    }
    if let Some(session) = sessions::by_key(op.txn, key)? {
        return Ok(Reply::SessionOpened { session });
    }
    let name = &name[..name.floor_char_boundary(MAX_NAME_BYTES)];
    let session = meta::next_session(op.txn)?;
    meta::add(op.txn, Counter::LiveSessions, 1)?;
    sessions::add(op.txn, session, &Session::new(name.to_owned(), *key));
    Ok(Reply::SessionOpened { session })
}
