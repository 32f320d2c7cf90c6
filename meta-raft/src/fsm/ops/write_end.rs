//! `write_end`: commits a file's length, and with it that its new chunks exist (W9, W2), or the bytes themselves (I2).
//!
//! The setuid and setgid bits are not touched: the client's kernel clears them with a `setattr` before the write.

use caribou_proto::ids::{CHUNK_BYTES, ChunkId, GrantId, InodeId, SessionId};

use crate::fsm::command::{Kind, WriteEnd, WrittenChunk};
use crate::fsm::error::{Errno, Fatal, OpResult};
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::{Edit, MAX_CHUNKS_PER_COMMAND};
use crate::fsm::ops::{cut, inline};
use crate::fsm::reply::{Body, Effect};
use crate::fsm::tables::Tables;
use crate::fsm::tables::chunks::{self, Chunk};
use crate::fsm::tables::classes;
use crate::fsm::tables::inodes::{self, MAX_FILE_BYTES};

pub(crate) fn apply(op: &mut Op<'_, '_>, args: &WriteEnd) -> OpResult<Body> {
    let WriteEnd { inode: inode_id, length, mtime_ns, chunks: written, inline: writes, data_generation } = args;
    let (inode_id, length) = (*inode_id, *length);
    let mut inode = inodes::named(op.txn, inode_id)?;
    if inode.kind != Kind::Regular || written.len() > MAX_CHUNKS_PER_COMMAND {
        return Err(Errno::Inval.into());
    }
    if length > MAX_FILE_BYTES {
        return Err(Errno::FileTooBig.into());
    }
    // I2: what its client has given up may come late, after newer bytes of the same client or after a cut.
    let is_late = *data_generation != inode.data_generation;
    let fits = inline::end(writes) <= length.max(inode.size);
    let open = !is_late && fits && inline::is_open(op.txn, inode_id, writes)?;
    // W9: the length counts only if the chunk that holds the last byte is still granted, or if the byte comes with the record.
    let comes_along = open && length <= inline::end(writes);
    let counts = length <= inode.size || comes_along || last_byte_is_granted(op, inode_id, length, written)?;
    if counts && length > inode.size {
        cut::check_growth(op, inode_id, length)?;
        inodes::set_size(op.txn, &mut inode, length)?;
    }
    let mut lost = Vec::new();
    let mut any = written.is_empty() && writes.is_empty();
    // I2
    let kept = open && inline::end(writes) <= inode.size;
    if kept {
        inline::write(op, inode_id, writes)?;
        any = true;
    } else if !writes.is_empty() {
        lost.push(0);
    }
    for chunk in written {
        let kept = end_one(op, inode_id, chunk, counts)?;
        any |= kept;
        if !kept {
            lost.push(chunk.index);
        }
    }
    if any {
        inode.content_changed(op.time_ns);
        if *mtime_ns != 0 {
            inode.mtime_ns = *mtime_ns;
        }
        inodes::put(op.txn, inode_id, &inode);
    }
    // With the data generation after it: the client counts none itself.
    Ok(Body { attr: Some(inode.attr(inode_id)), length: inode.size, lost, ..Body::default() })
}

fn last_byte_is_granted(op: &Op<'_, '_>, inode: InodeId, length: u64, written: &[WrittenChunk]) -> Result<bool, Fatal> {
    let last = (length - 1) / CHUNK_BYTES;
    for chunk in written.iter().filter(|c| u64::from(c.index) == last) {
        if written_under_grant(op, inode, chunk)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// One chunk's part; whether its grant was current.
fn end_one(op: &mut Op<'_, '_>, inode: InodeId, chunk: &WrittenChunk, counts: bool) -> Result<bool, Fatal> {
    let Some(mut edit) = written_under_grant(op, inode, chunk)? else {
        return release_hold(op, chunk);
    };
    if std::mem::take(&mut edit.row.new) {
        if chunk.index == 0 {
            inline::leave(op, inode)?; // W2, I3
        }
        // It was placed while there were too few servers. Nobody has looked at it before: a new chunk has no copies made.
        if edit.row.replicas.len() < classes::get(op.txn, edit.row.class)?.goal() {
            op.effects.push(Effect::BelowGoal(edit.id));
        }
    }
    if chunk.resent {
        edit.row.hold = None; // W5
    }
    if let Some(hold) = edit.row.hold.as_mut() {
        // M12: who names this grant has been told of the cuts before it; what it tells of from here on was written after them.
        hold.clip = CHUNK_BYTES as u32;
    }
    // An end counts only with its length: else the chunk would keep bytes beyond the committed length without a grant (W9).
    // The client resends, as for any lost grant, and finds that it still has this one.
    let ends = chunk.end && counts;
    if ends {
        edit.row.grant = None; // W7
    }
    edit.save(op)?;
    Ok(ends == chunk.end)
}

/// W9, I3: the chunk, if this may be counted.
fn written_under_grant(op: &Op<'_, '_>, inode: InodeId, chunk: &WrittenChunk) -> Result<Option<Edit>, Fatal> {
    let Some(edit) = current(op.txn, op.session, Some(inode), chunk)? else { return Ok(None) };
    let first = edit.row.new && chunk.index == 0;
    Ok((!first || inline::has_moved(op.txn, inode, chunk.inline_bytes)?).then_some(edit))
}

/// W5: the holder of a hold has nothing to resend and says so without taking a grant (`grant` is 0).
pub(super) fn release_hold(op: &mut Op<'_, '_>, chunk: &WrittenChunk) -> Result<bool, Fatal> {
    if !chunk.resent || chunk.grant != GrantId(0) {
        return Ok(false);
    }
    let Some(mut edit) = Edit::load(op.txn, chunk.chunk)? else { return Ok(false) };
    // While an Intent is under way its Ready has still to say who may read: the client asks again after it.
    let at_rest = edit.row.grant.is_none() && edit.row.intent.is_none();
    let free = at_rest && edit.row.hold.is_some_and(|h| h.session == op.session);
    if free {
        edit.row.hold = None;
        edit.save(op)?;
    }
    Ok(free)
}

/// The chunk, if `written` names its live grant at its current version (F3, W9).
pub(super) fn current(
    tables: &dyn Tables,
    session: SessionId,
    inode: Option<InodeId>,
    written: &WrittenChunk,
) -> Result<Option<Edit>, Fatal> {
    let id: ChunkId = written.chunk;
    let Some(row) = chunks::get(tables, id)? else { return Ok(None) };
    let place = row.index == written.index && inode.is_none_or(|inode| inode == row.inode);
    let grant = |row: &Chunk| row.grant.is_some_and(|g| g.id == written.grant && g.session == session);
    Ok((place && row.version == written.version && grant(&row)).then(|| Edit::of(id, row)))
}
