//! `repair_done`: a copy of a chunk at rest has been made (R2).

use crate::fsm::command::RepairDone;
use crate::fsm::error::{Fatal, OpResult};
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::Edit;
use crate::fsm::reply::{Effect, Reply};
use crate::fsm::tables::chunks::{Chunk, Replica};
use crate::fsm::tables::{Tables, classes, garbage, servers};

pub(crate) fn apply(op: &mut Op<'_, '_>, done: &RepairDone) -> OpResult<Reply> {
    let Some(mut edit) = Edit::load(op.txn, done.chunk)? else {
        return Ok(Reply::Refused("the chunk is gone"));
    };
    if let Some(reason) = objection(op.txn, &edit.row, done)? {
        return Ok(Reply::Refused(reason));
    }
    if let Some(replaced) = done.replaces {
        edit.row.replicas.retain(|r| r.server != replaced);
        garbage::put(op.txn, replaced, edit.id, edit.row.version)?;
        op.effects.push(Effect::Garbage(replaced));
    }
    edit.row.replicas.push(Replica { server: done.server, incarnation: done.incarnation });
    if edit.row.replicas.len() < classes::get(op.txn, edit.row.class)?.goal() {
        op.effects.push(Effect::BelowGoal(edit.id));
    }
    edit.save(op)?;
    Ok(Reply::Done)
}

fn objection(tables: &dyn Tables, row: &Chunk, done: &RepairDone) -> Result<Option<&'static str>, Fatal> {
    if row.grant.is_some() || row.new {
        return Ok(Some("a grant is live"));
    }
    if row.intent.is_some() || row.version != done.version {
        return Ok(Some("the version has moved"));
    }
    if Some(row.last_grant) != done.last_grant {
        return Ok(Some("a grant has been given since"));
    }
    if row.replica(done.server).is_some() {
        return Ok(Some("the server is a holder already"));
    }
    if !servers::is_up_as(tables, done.server, done.incarnation)? {
        return Ok(Some("the server is not up in this incarnation"));
    }
    // R4: a Delete of the copy may be on its way, and stays so until the row is gone.
    if garbage::get(tables, done.server, done.chunk)?.is_some() {
        return Ok(Some("the copy is to be deleted"));
    }
    match done.replaces {
        Some(replaced) if row.replica(replaced).is_none() => Ok(Some("what it replaces is not a holder")),
        Some(replaced) if servers::get(tables, replaced)?.is_some_and(|s| s.up) => Ok(Some("what it replaces is up")),
        None if row.replicas.len() >= classes::get(tables, row.class)?.goal() => Ok(Some("the goal is reached")),
        _ => Ok(None),
    }
}
