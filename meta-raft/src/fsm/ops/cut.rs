//! Cutting a file's chunks: a change of its committed length (W9), and the purge of an orphan in bounded steps (R4).

use caribou_proto::ids::{CHUNK_BYTES, InodeId};

use crate::fsm::command::IntentKind;
use crate::fsm::error::{Errno, Fatal, OpResult};
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::{Edit, discard, end_by_force, intend};
use crate::fsm::ops::inline;
use crate::fsm::read::chunks::growth_waits_for;
use crate::fsm::tables::inodes::{self, Inode, MAX_FILE_BYTES};
use crate::fsm::tables::meta::{self, Counter};
use crate::fsm::tables::{chunks, file_chunks};

/// Sets the committed length of a regular file, longer or shorter; the caller puts the inode's row and has checked access.
pub(crate) fn set_size(op: &mut Op<'_, '_>, id: InodeId, inode: &mut Inode, size: u64) -> OpResult<()> {
    if size > MAX_FILE_BYTES {
        return Err(Errno::FileTooBig.into());
    }
    check_growth(op, id, size)?;
    cut(op, id, inode.size, size)?;
    inodes::set_size(op.txn, inode, size)?;
    Ok(())
}

/// M13: `EAGAIN`, to be asked again as another request, while a chunk that the growth goes over has an open Intent. The service has waited for
/// its end, and something came in between.
pub(crate) fn check_growth(op: &Op<'_, '_>, inode: InodeId, length: u64) -> OpResult<()> {
    match growth_waits_for(op.txn, inode, length)? {
        Some(_) => Err(Errno::Again.into()),
        None => Ok(()),
    }
}

/// What a change of the committed length from `old` to `new` does to the chunks, in the same record as the length.
///
/// Shorter: every grant at or beyond the cut ends, chunks beyond it go to garbage, new ones included, and the chunk that the cut goes
/// through gets an Intent that cuts it. One record whatever the size: a file has at most `MAX_FILE_CHUNKS` chunks.
///
/// Longer or equal: nothing. What is beyond `old` is a hole: a chunk without grant has no bytes there (a clean end comes with its length,
/// every other end cuts), and bytes under a live grant are its writer's own, which its write-end will commit.
fn cut(op: &mut Op<'_, '_>, inode: InodeId, old: u64, new: u64) -> Result<(), Fatal> {
    if new >= old {
        return Ok(());
    }
    inline::cut(op, inode, new)?; // I5
    let first = u32::try_from(new / CHUNK_BYTES).unwrap_or(u32::MAX);
    for (index, id) in file_chunks::page(op.txn, inode, first, usize::MAX)? {
        let stored = chunks::existing(op.txn, id)?;
        let through = u64::from(index) * CHUNK_BYTES < new;
        if !through || stored.new {
            discard(op, id, &stored)?;
            continue;
        }
        let mut edit = Edit::of(id, stored);
        let writer = edit.row.grant.map(|grant| grant.session).or(edit.row.hold.map(|hold| hold.session));
        match edit.row.grant {
            Some(_) => {
                let lives = edit.writer_lives(op.txn)?;
                end_by_force(&mut edit, IntentKind::Cut, lives, new);
            }
            None => intend(&mut edit.row, IntentKind::Cut, None, new),
        }
        if writer.is_none_or(|writer| writer != op.session) {
            // P2: a writer whose session ends finds that somebody was here after it, and does not bring back what was cut off.
            edit.row.last_grant = meta::next_grant(op.txn)?;
        }
        // What the writer has not synced beyond the cut was written before it: it is not to come back.
        let clip = edit.row.cut_at(new);
        if let Some(hold) = edit.row.hold.as_mut() {
            hold.clip = hold.clip.min(clip);
        }
        edit.save(op)?;
    }
    Ok(())
}

/// Removes the inline data of a purged inode and puts up to `limit` of its chunks into garbage, for which it takes from the limit; whether none is
/// left.
pub(crate) fn purge(op: &mut Op<'_, '_>, inode: InodeId, limit: &mut usize) -> OpResult<bool> {
    let page = file_chunks::page(op.txn, inode, 0, *limit)?;
    let is_last = page.len() < *limit;
    // Most files that go are small and have none.
    if !page.is_empty() {
        let before = meta::counter(op.txn, Counter::Chunks)?;
        for (_, id) in &page {
            let stored = chunks::existing(op.txn, *id)?;
            discard(op, *id, &stored)?;
        }
        *limit = limit.saturating_sub((before - meta::counter(op.txn, Counter::Chunks)?) as usize);
    }
    inline::cut(op, inode, 0)?; // I5
    Ok(is_last)
}
