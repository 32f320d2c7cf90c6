//! Reading extended attributes.

use caribou_proto::ids::InodeId;

use crate::fsm::command::Caller;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::tables::{Tables, inodes, xattrs};
use crate::fsm::xattr_rules;

/// ENODATA if there is none of this name, or none that the caller may know of.
pub fn getxattr(tables: &dyn Tables, caller: &Caller, id: InodeId, name: &[u8]) -> OpResult<Vec<u8>> {
    let inode = inodes::named(tables, id)?;
    xattr_rules::check_read(&inode, caller, name)?;
    Ok(xattrs::get(tables, id, name)?.ok_or(Errno::NoData)?)
}

/// The names that the caller may know of, in order.
pub fn listxattr(tables: &dyn Tables, caller: &Caller, id: InodeId) -> OpResult<Vec<Vec<u8>>> {
    if inodes::named(tables, id)?.xattrs == 0 {
        return Ok(Vec::new());
    }
    let names = xattrs::names(tables, id)?.into_iter().map(|(name, _)| name);
    Ok(names.filter(|name| xattr_rules::is_listed(caller, name)).collect())
}
