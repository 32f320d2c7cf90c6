//! Beginnings of grants (W1, F3): on a new chunk, or on one that is ready.

use std::collections::BTreeSet;

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, InodeId, ServerId};

use super::Edit;
use crate::fsm::error::Fatal;
use crate::fsm::ops::Op;
use crate::fsm::reply::{GrantReply, GrantState};
use crate::fsm::tables::chunks::{Chunk, Grant, Replica};
use crate::fsm::tables::{Tables, classes, meta, servers};

/// A new chunk with its grant, marked `create` (W2); `NoServers` if fewer than the class's minimum of the chosen servers are up (V6).
pub(crate) fn new_chunk(
    op: &mut Op<'_, '_>,
    (inode, index): (InodeId, u32),
    class: u32,
    placement: &[ServerId],
) -> Result<GrantReply, Fatal> {
    let rule = classes::get(op.txn, class)?;
    let replicas = live(op.txn, placement, rule.goal())?;
    if replicas.len() < rule.minimum() {
        return Ok(not_granted(GrantState::NoServers, index));
    }
    let id = meta::next_chunk(op.txn)?;
    let row = Chunk {
        inode,
        index,
        class,
        version: ChunkVersion(1),
        replicas,
        new: true,
        last_grant: GrantId(0),
        unkept: None,
        grant: None,
        intent: None,
        hold: None,
    };
    give(op, Edit::new(id, row))
}

/// The chosen servers that are still up, each once, with their incarnations (S6).
fn live(tables: &dyn Tables, placement: &[ServerId], goal: usize) -> Result<Vec<Replica>, Fatal> {
    let mut seen = BTreeSet::new();
    let mut replicas = Vec::new();
    for server in placement.iter().filter(|s| seen.insert(**s)) {
        if replicas.len() == goal {
            break;
        }
        if let Some(row) = servers::get(tables, *server)?.filter(|row| row.up) {
            replicas.push(Replica { server: *server, incarnation: row.incarnation });
        }
    }
    Ok(replicas)
}

/// Gives `op.session` the grant of a chunk that has none; the caller has checked that it may.
pub(crate) fn give(op: &mut Op<'_, '_>, mut edit: Edit) -> Result<GrantReply, Fatal> {
    assert!(edit.row.grant.is_none() && edit.row.intent.is_none(), "F3: at most one live grant");
    let id = meta::next_grant(op.txn)?;
    edit.row.grant = Some(Grant { id, session: op.session, recalled: false });
    let before = std::mem::replace(&mut edit.row.last_grant, id);
    let reply = GrantReply { before, ..granted(edit.id, &edit.row) };
    edit.save(op)?;
    Ok(reply)
}

/// The answer that names the live grant of a chunk, to somebody who has it already: which one was before it is not known any more.
pub(crate) fn granted(id: ChunkId, row: &Chunk) -> GrantReply {
    GrantReply {
        state: GrantState::Granted,
        index: row.index,
        chunk: id,
        version: row.version,
        grant: row.grant.as_ref().expect("asked only for chunks with a live grant").id,
        create: row.new,
        holders: row.replicas.iter().map(|r| (r.server, r.incarnation)).collect(),
        clip: row.grant.and_then(|g| row.clip_of(g.session)),
        before: row.last_grant,
        unkept: row.unkept.unwrap_or(GrantId(0)),
    }
}

/// The answer without a grant; the state tells how to go on.
pub(crate) fn not_granted(state: GrantState, index: u32) -> GrantReply {
    GrantReply {
        state,
        index,
        chunk: ChunkId(0),
        version: ChunkVersion(0),
        grant: GrantId(0),
        create: false,
        holders: Vec::new(),
        clip: None,
        before: GrantId(0),
        unkept: GrantId(0),
    }
}
