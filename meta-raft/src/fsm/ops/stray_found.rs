//! `stray_found`: a server has a replica that neither a row nor garbage names; it becomes garbage (R4, docs/adr/0009).

use crate::fsm::command::StrayFound;
use crate::fsm::error::{Fatal, OpResult};
use crate::fsm::ops::Op;
use crate::fsm::reply::{Effect, Reply};
use crate::fsm::tables::{Tables, chunks, garbage, meta, servers};

pub(crate) fn apply(op: &mut Op<'_, '_>, stray: &StrayFound) -> OpResult<Reply> {
    if let Some(reason) = objection(op.txn, stray)? {
        return Ok(Reply::Refused(reason));
    }
    garbage::put(op.txn, stray.server, stray.chunk, stray.up_to())?;
    op.effects.push(Effect::Garbage(stray.server));
    Ok(Reply::Done)
}

fn objection(tables: &dyn Tables, stray: &StrayFound) -> Result<Option<&'static str>, Fatal> {
    // F1: what the metadata do not know is not theirs to delete.
    if !meta::is_given(tables, stray.chunk)? {
        return Ok(Some("no chunk of this generation was given this id"));
    }
    if servers::get(tables, stray.server)?.is_none() {
        return Ok(Some("the server is not known"));
    }
    let row = chunks::get(tables, stray.chunk)?;
    if row.as_ref().map(|row| row.version) != stray.row_version {
        return Ok(Some("the version has moved")); // S6
    }
    if let Some(row) = row {
        if row.replica(stray.server).is_some() {
            return Ok(Some("the server is a holder"));
        }
        // Whoever is at work may have joined it, or be about to.
        if row.new || row.grant.is_some() || row.intent.is_some() {
            return Ok(Some("the chunk is at work"));
        }
        if stray.version > row.version {
            return Ok(Some("the replica is newer than the metadata")); // F1
        }
    }
    if garbage::get(tables, stray.server, stray.chunk)?.is_some_and(|stored| stored >= stray.up_to()) {
        return Ok(Some("its deletion is committed already"));
    }
    Ok(None)
}
