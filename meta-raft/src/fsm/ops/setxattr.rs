//! `setxattr`: creates or replaces one extended attribute.

use caribou_proto::ids::{InodeId, XATTR_VALUE_MAX};

use super::Op;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::inodes;
use crate::fsm::tables::xattrs::{self, XATTR_BYTES_MAX, XATTRS_MAX};
use crate::fsm::xattr_rules;

pub(super) fn apply(
    op: &mut Op<'_, '_>,
    id: InodeId,
    name: &[u8],
    value: &[u8],
    create: bool,
    replace: bool,
) -> OpResult<Body> {
    if value.len() > XATTR_VALUE_MAX {
        return Err(Errno::TooBig.into());
    }
    let mut inode = inodes::named(op.txn, id)?;
    xattr_rules::check_write(&inode, op.caller, name)?;
    let old = xattrs::get(op.txn, id, name)?;
    let added = match &old {
        Some(_) if create => return Err(Errno::Exist.into()),
        None if replace => return Err(Errno::NoData.into()),
        Some(old) => {
            inode.xattr_bytes -= old.len() as u32;
            value.len()
        }
        None => {
            inode.xattrs += 1;
            name.len() + value.len()
        }
    };
    inode.xattr_bytes += added as u32;
    if inode.xattrs > XATTRS_MAX || inode.xattr_bytes > XATTR_BYTES_MAX {
        return Err(Errno::NoSpace.into());
    }
    inode.ctime_ns = op.time_ns;
    xattrs::put(op.txn, id, name, value);
    inodes::put(op.txn, id, &inode);
    Ok(Body::default())
}
