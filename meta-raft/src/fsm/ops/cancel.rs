//! S5: giving a request up: its result if there is one, else `cancelled` becomes its reply.

use caribou_proto::ids::{Seq, SessionId};

use super::client::{not_run, store, stored_or_refused};
use super::*;
use crate::fsm::reply::Outcome;
use crate::fsm::tables::sessions;

pub(super) fn apply(op: &mut Op<'_, '_>, id: SessionId, seq: Seq) -> OpResult<Reply> {
    let Some(session) = sessions::get(op.txn, id)? else {
        return Ok(Reply::Client(not_run(Outcome::SessionExpired)));
    };
    if let Some(reply) = stored_or_refused(op.txn, id, &session, seq)? {
        return Ok(Reply::Client(reply));
    }
    let reply = not_run(Outcome::Cancelled);
    store(op, id, seq, session, &reply);
    Ok(Reply::Client(reply))
}
