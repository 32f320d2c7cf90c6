//! `link`: one more name for an inode that is not a directory.

use caribou_proto::ids::InodeId;

use super::{Op, names};
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::{dentries, inodes, links};

pub(super) fn apply(op: &mut Op<'_, '_>, id: InodeId, parent: InodeId, name: &[u8]) -> OpResult<Body> {
    let mut inode = inodes::named(op.txn, id)?;
    let mut directory = names::vacant(op, parent, name)?;
    if inode.is_dir() {
        return Err(Errno::Perm.into());
    }
    if inode.nlink == 0 {
        return Err(Errno::NoEnt.into());
    }
    inode.nlink = names::one_more_link(&inode)?;
    inode.ctime_ns = op.time_ns;
    let link = dentries::add(op.txn, (parent, &mut directory), name, id, inode.kind)?;
    links::add(op.txn, id, &mut inode, link);
    inodes::put(op.txn, id, &inode);
    directory.content_changed(op.time_ns);
    inodes::put(op.txn, parent, &directory);
    Ok(names::with_attr(inode.attr(id)))
}
