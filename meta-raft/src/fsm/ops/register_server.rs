//! `register_server`: a chunk server says who it is, and in which incarnation (F3).

use crate::fsm::command::RegisterServer;
use crate::fsm::error::OpResult;
use crate::fsm::ops::Op;
use crate::fsm::reply::{Effect, Reply};
use crate::fsm::tables::meta;
use crate::fsm::tables::servers::{self, Server};

/// F3: what it wrote and acknowledged as the newer one may be missing here.
const OLDER: &str = "this chunk server has registered in a newer incarnation before: another process runs on a copy of its data folders, or they \
    were put back to an older state while its clock is behind; stop the other one, or set the clock right and start it again";

pub(crate) fn apply(op: &mut Op<'_, '_>, register: &RegisterServer) -> OpResult<Reply> {
    let known = servers::by_uuid(op.txn, &register.uuid)?;
    let stored = known.map(|id| servers::get(op.txn, id)).transpose()?.flatten();
    // An equal one is the same start again, on a new stream: a start never uses an incarnation of another.
    if stored.as_ref().is_some_and(|s| s.incarnation > register.incarnation) {
        return Ok(Reply::Refused(OLDER));
    }
    let server = match known {
        Some(id) => id,
        None => meta::next_server(op.txn)?,
    };
    let row = Server {
        uuid: register.uuid,
        address: register.address.clone(),
        incarnation: register.incarnation,
        up: true,
        total_bytes: register.total_bytes,
        free_bytes: register.free_bytes,
    };
    if stored.as_ref() != Some(&row) {
        servers::put(op.txn, server, &row);
        op.effects.push(Effect::ServerChanged(server));
    }
    Ok(Reply::ServerRegistered { server })
}
