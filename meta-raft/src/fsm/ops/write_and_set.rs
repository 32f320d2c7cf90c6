//! `write_and_set`: what programs that copy files do one after the other before they close one, in one record.

use super::{Op, setattr, write_end};
use crate::fsm::command::WriteAndSet;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;

/// As if one came after the other. A lost grant is told and does not hinder the change of attributes; an error of either undoes both.
pub(super) fn apply(op: &mut Op<'_, '_>, args: &WriteAndSet) -> OpResult<Body> {
    if args.write.inode != args.set.inode || args.set.size.is_some() {
        return Err(Errno::Inval.into());
    }
    let written = write_end::apply(op, &args.write)?;
    let set = setattr::apply(op, &args.set)?;
    Ok(Body { length: written.length, lost: written.lost, ..set })
}
