//! `removexattr`.

use caribou_proto::ids::InodeId;

use super::Op;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::{inodes, xattrs};
use crate::fsm::xattr_rules;

pub(super) fn apply(op: &mut Op<'_, '_>, id: InodeId, name: &[u8]) -> OpResult<Body> {
    let mut inode = inodes::named(op.txn, id)?;
    xattr_rules::check_write(&inode, op.caller, name)?;
    let old = xattrs::get(op.txn, id, name)?.ok_or(Errno::NoData)?;
    inode.xattrs -= 1;
    inode.xattr_bytes -= (name.len() + old.len()) as u32;
    inode.ctime_ns = op.time_ns;
    xattrs::remove(op.txn, id, name);
    inodes::put(op.txn, id, &inode);
    Ok(Body::default())
}
