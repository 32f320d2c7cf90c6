//! `mkdir`.

use caribou_proto::ids::InodeId;

use super::{Op, names};
use crate::fsm::access::STICKY;
use crate::fsm::command::Kind;
use crate::fsm::error::OpResult;
use crate::fsm::reply::Body;
use crate::fsm::tables::inodes::Inode;

pub(super) fn apply(op: &mut Op<'_, '_>, parent: InodeId, name: &[u8], mode: u32) -> OpResult<Body> {
    let directory = names::vacant(op, parent, name)?;
    // Linux's mkdir takes no setuid and setgid from the caller; a setgid parent hands its own down.
    let mut inode = Inode::new(Kind::Directory, mode & (0o777 | STICKY), op.time_ns);
    let id = names::add_new(op, parent, directory, name, &mut inode)?;
    Ok(names::with_attr(inode.attr(id)))
}
