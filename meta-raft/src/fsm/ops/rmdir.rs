//! `rmdir`: removes an empty directory. It stays as an orphan while somebody may still be in it (S7).

use caribou_proto::ids::InodeId;

use super::{Op, names};
use crate::fsm::access;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::{dentries, inodes};

pub(super) fn apply(op: &mut Op<'_, '_>, parent: InodeId, name: &[u8]) -> OpResult<Body> {
    let mut directory = names::searched(op.txn, parent, op.caller)?;
    names::check_name(name)?;
    let (dentry, inode) = names::occupied(op, parent, name)?;
    access::check_removal(&directory, &inode, op.caller)?;
    if !inode.is_dir() {
        return Err(Errno::NotDir.into());
    }
    if inode.entries > 0 {
        return Err(Errno::NotEmpty.into());
    }
    let others = Some(vec![dentry.inode]);
    dentries::remove(op.txn, (parent, &mut directory), name, &dentry);
    names::drop_link(op, parent, (dentry, inode))?;
    directory.nlink -= 1;
    directory.content_changed(op.time_ns);
    inodes::put(op.txn, parent, &directory);
    Ok(Body { others, ..Body::default() })
}
