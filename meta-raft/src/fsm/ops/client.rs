//! A client's request: the session rules around the operation (S1, S2, S4).
//!
//! The reply of an executed request, success or errno, is stored with what the request changed, or neither is.

use caribou_planted::{self as planted, Bug};
use caribou_proto::ids::{SESSION_WINDOW, Seq, SessionId};

use super::*;
use crate::fsm::command::{ClientCommand, ClientOp};
use crate::fsm::reply::{Body, ClientReply, Outcome};
use crate::fsm::tables::replies;
use crate::fsm::tables::sessions::{self, Session};

pub(super) fn apply(op: &mut Op<'_, '_>, request: &ClientCommand) -> OpResult<Reply> {
    answer(op, request).map(Reply::Client)
}

fn answer(op: &mut Op<'_, '_>, request: &ClientCommand) -> OpResult<ClientReply> {
    let (id, seq) = (request.session, request.seq);
    let Some(mut session) = sessions::get(op.txn, id)? else {
        return Ok(not_run(Outcome::SessionExpired));
    };
    if let Some(reply) = settled(op, id, &mut session, request)? {
        return Ok(reply);
    }
    let mark = op.effects.len();
    let mut client =
        Op { txn: &mut *op.txn, session: id, caller: &request.caller, time_ns: op.time_ns, effects: &mut *op.effects };
    let result = match run(&mut client, &request.op) {
        Ok(body) => Ok(body),
        Err(Failure::Errno(errno)) => {
            op.txn.discard();
            op.effects.truncate(mark);
            Err(errno)
        }
        Err(fatal) => return Err(fatal),
    };
    let reply = ClientReply { outcome: Outcome::Executed, result, from_table: false };
    store(op, id, seq, session, &reply);
    Ok(reply)
}

/// The answer of a request that is not to be run: known, acknowledged, beyond the window or of an ended session.
fn settled(
    op: &mut Op<'_, '_>,
    id: SessionId,
    session: &mut Session,
    request: &ClientCommand,
) -> OpResult<Option<ClientReply>> {
    let before = session.acked_below;
    session.acked_below = before.max(request.acked_below);
    let reply = stored_or_refused(op.txn, id, session, request.seq)?;
    if reply.is_some() && session.is_live() && session.acked_below != before {
        sessions::put(op.txn, id, session);
    }
    Ok(reply)
}

/// S2, S4: why a seq must not be run now, if so. `Cancel` asks the same.
pub(super) fn stored_or_refused(
    txn: &Txn<'_>,
    id: SessionId,
    session: &Session,
    seq: Seq,
) -> Result<Option<ClientReply>, Fatal> {
    if seq < session.acked_below {
        return Ok(Some(not_run(Outcome::Acknowledged)));
    }
    if seq <= session.max_seq
        && !planted::is(Bug::RepliesForgotten)
        && let Some(reply) = replies::get(txn, id, seq)?
    {
        return Ok(Some(reply));
    }
    if !session.is_live() {
        return Ok(Some(not_run(Outcome::NotExecuted)));
    }
    let beyond = seq.0 >= session.acked_below.0.saturating_add(SESSION_WINDOW);
    Ok(beyond.then(|| not_run(Outcome::WindowExceeded)))
}

/// Stores a reply, and the session's row with it.
pub(super) fn store(op: &mut Op<'_, '_>, id: SessionId, seq: Seq, mut session: Session, reply: &ClientReply) {
    replies::put(op.txn, id, seq, reply);
    session.max_seq = session.max_seq.max(seq);
    sessions::put(op.txn, id, &session);
}

/// An answer without an execution.
pub(super) fn not_run(outcome: Outcome) -> ClientReply {
    ClientReply { outcome, result: Ok(Body::default()), from_table: false }
}

fn run(op: &mut Op<'_, '_>, client_op: &ClientOp) -> OpResult<Body> {
    match client_op {
        ClientOp::Create(args) => create::apply(op, args),
        ClientOp::Mkdir { parent, name, mode } => mkdir::apply(op, *parent, name, *mode),
        ClientOp::Mknod { parent, name, kind, mode, rdev } => mknod::apply(op, *parent, name, *kind, *mode, *rdev),
        ClientOp::Symlink { parent, name, target } => symlink::apply(op, *parent, name, target),
        ClientOp::Link { inode, parent, name } => link::apply(op, *inode, *parent, name),
        ClientOp::Unlink { parent, name } => unlink::apply(op, *parent, name),
        ClientOp::Rmdir { parent, name } => rmdir::apply(op, *parent, name),
        ClientOp::Rename(args) => rename::apply(op, args),
        ClientOp::SetAttr(args) => setattr::apply(op, args),
        ClientOp::SetXattr { inode, name, value, create, replace } => {
            setxattr::apply(op, *inode, name, value, *create, *replace)
        }
        ClientOp::RemoveXattr { inode, name } => removexattr::apply(op, *inode, name),
        ClientOp::TakeGrant(args) => take_grant::apply(op, args),
        ClientOp::WriteEnd(args) => write_end::apply(op, args),
        ClientOp::WriteAndSet(args) => write_and_set::apply(op, args),
        ClientOp::EndGrants { chunks } => end_grants::apply(op, chunks),
        ClientOp::ReportBroken(args) => report_broken::apply(op, args),
    }
}
