//! `ready`: the holders of an Intent's version are equal and complete; only now may anyone read or write (V1).

use std::collections::BTreeSet;

use caribou_proto::ids::ServerId;

use crate::fsm::command::{Ready, ReadyHolder};
use crate::fsm::error::{Fatal, OpResult};
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::Edit;
use crate::fsm::reply::{Effect, Reply};
use crate::fsm::tables::chunks::{Chunk, Ended, Replica};
use crate::fsm::tables::{Tables, classes, garbage, servers};

pub(crate) fn apply(op: &mut Op<'_, '_>, ready: &Ready) -> OpResult<Reply> {
    let Some(mut edit) = Edit::load(op.txn, ready.chunk)? else {
        return Ok(Reply::Refused("the chunk is gone"));
    };
    if edit.row.intent.as_ref().is_none_or(|i| i.version != ready.version) {
        return Ok(Reply::Refused("the Intent is another one"));
    }
    if let Some(reason) = objection(op.txn, &edit.row, ready)? {
        return Ok(Reply::Refused(reason));
    }
    let intent = edit.row.intent.take().expect("checked above");
    let kept: BTreeSet<ServerId> = ready.holders.iter().map(|h| h.server).collect();
    for left_out in edit.row.replicas.iter().filter(|r| !kept.contains(&r.server)) {
        // It may have heard of this version without completing it.
        garbage::put(op.txn, left_out.server, edit.id, ready.version)?;
        op.effects.push(Effect::Garbage(left_out.server));
    }
    for holder in &ready.holders {
        garbage::delete(op.txn, holder.server, edit.id)?;
    }
    edit.row.version = ready.version;
    edit.row.replicas =
        ready.holders.iter().map(|h| Replica { server: h.server, incarnation: h.incarnation }).collect();
    // W5: un-synced bytes of a living writer may be gone: nobody reads before it has resent. A hold outlives this Ready.
    let stayed = |ended: &Ended| ready.holders.iter().any(|h| source_stayed(ended, h));
    if intent.ended.as_ref().is_some_and(|ended| !stayed(ended)) {
        match edit.row.hold.as_mut() {
            Some(hold) => hold.reads = true,
            None => edit.row.unkept = Some(edit.row.last_grant),
        }
    }
    if ready.holders.len() < classes::get(op.txn, edit.row.class)?.goal() {
        op.effects.push(Effect::BelowGoal(edit.id));
    }
    edit.save(op)?;
    Ok(Reply::Done)
}

/// Its own bytes were a source, and it has been up since it acknowledged the ended grant's writes.
fn source_stayed(ended: &Ended, holder: &ReadyHolder) -> bool {
    holder.clean_source && ended.holders.contains(&Replica { server: holder.server, incarnation: holder.incarnation })
}

fn objection(tables: &dyn Tables, row: &Chunk, ready: &Ready) -> Result<Option<&'static str>, Fatal> {
    let holders = &ready.holders;
    let class = classes::get(tables, row.class)?;
    let distinct: BTreeSet<ServerId> = holders.iter().map(|h| h.server).collect();
    if distinct.len() != holders.len() || holders.is_empty() {
        return Ok(Some("the holders are not distinct servers"));
    }
    for holder in holders {
        let known = servers::get(tables, holder.server)?.is_some_and(|s| s.incarnation >= holder.incarnation);
        if !known {
            return Ok(Some("a holder has not registered in this incarnation")); // F3
        }
    }
    // V6: the smallest Ready set; after losses (R3) all of what is left.
    let named = holders.iter().filter(|h| row.replica(h.server).is_some()).count();
    if named == 0 || holders.len() < class.minimum().min(row.replicas.len()) {
        return Ok(Some("too few holders"));
    }
    // V6: a replacement that was joined during the recovery.
    for joined in holders.iter().filter(|h| row.replica(h.server).is_none()) {
        let counts = holders.len() <= class.goal().max(row.replicas.len());
        if !counts || joined.clean_source || !servers::is_up_as(tables, joined.server, joined.incarnation)? {
            return Ok(Some("a replacement is not up, or one too many"));
        }
        // R3: it was found to have lost its copy, and its deletion at this very version may be under way.
        if garbage::get(tables, joined.server, ready.chunk)?.is_some_and(|version| version >= ready.version) {
            return Ok(Some("a replacement's copy is to be deleted"));
        }
    }
    Ok(None)
}
