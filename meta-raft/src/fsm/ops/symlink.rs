//! `symlink`.

use caribou_proto::ids::{InodeId, SYMLINK_MAX};

use super::{Op, names};
use crate::fsm::command::Kind;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::inodes::Inode;
use crate::fsm::tables::symlinks;

pub(super) fn apply(op: &mut Op<'_, '_>, parent: InodeId, name: &[u8], target: &[u8]) -> OpResult<Body> {
    // Linux reads the target before it looks at the path.
    if target.is_empty() {
        return Err(Errno::NoEnt.into());
    }
    if target.len() > SYMLINK_MAX {
        return Err(Errno::NameTooLong.into());
    }
    if target.contains(&0) {
        return Err(Errno::Inval.into());
    }
    let directory = names::vacant(op, parent, name)?;
    let mut inode = Inode::new(Kind::Symlink, 0o777, op.time_ns);
    inode.size = target.len() as u64;
    let id = names::add_new(op, parent, directory, name, &mut inode)?;
    symlinks::put(op.txn, id, target);
    Ok(names::with_attr(inode.attr(id)))
}
