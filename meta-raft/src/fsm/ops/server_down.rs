//! `server_down`: the leader has not heard from a chunk server for longer than its lease (ADR 7).

use caribou_proto::ids::{Incarnation, ServerId};

use crate::fsm::error::OpResult;
use crate::fsm::ops::Op;
use crate::fsm::reply::{Effect, Reply};
use crate::fsm::tables::servers;

pub(crate) fn apply(op: &mut Op<'_, '_>, server: ServerId, incarnation: Incarnation) -> OpResult<Reply> {
    let Some(mut row) = servers::get(op.txn, server)?.filter(|s| s.incarnation == incarnation) else {
        return Ok(Reply::Refused("the server has another incarnation")); // S6
    };
    if row.up {
        row.up = false;
        servers::put(op.txn, server, &row);
        op.effects.push(Effect::ServerChanged(server));
    }
    Ok(Reply::Done)
}
