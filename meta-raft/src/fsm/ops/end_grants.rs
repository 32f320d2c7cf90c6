//! `end_grants`: clean ends of many grants at once, without touching length or times (W7, ADR 2).

use crate::fsm::command::WrittenChunk;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::ops::Op;
use crate::fsm::ops::chunk::{MAX_CHUNKS_PER_COMMAND, discard};
use crate::fsm::ops::write_end::{current, release_hold};
use crate::fsm::reply::Body;

pub(crate) fn apply(op: &mut Op<'_, '_>, written: &[WrittenChunk]) -> OpResult<Body> {
    if written.len() > MAX_CHUNKS_PER_COMMAND {
        return Err(Errno::Inval.into());
    }
    let mut lost = Vec::new();
    for chunk in written {
        match current(op.txn, op.session, None, chunk)? {
            Some(edit) if edit.row.new => discard(op, edit.id, edit.stored())?, // W2: ended before its first write-end
            Some(mut edit) => {
                edit.row.grant = None;
                if chunk.resent {
                    edit.row.hold = None; // W5
                }
                edit.save(op)?;
            }
            None if release_hold(op, chunk)? => {}
            None => lost.push(chunk.index),
        }
    }
    Ok(Body { lost, ..Body::default() })
}
