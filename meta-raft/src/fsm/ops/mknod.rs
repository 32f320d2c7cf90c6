//! `mknod`: fifos, sockets, devices and empty regular files.

use caribou_proto::ids::InodeId;

use super::{Op, names};
use crate::fsm::command::Kind;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::inodes::Inode;

pub(super) fn apply(
    op: &mut Op<'_, '_>,
    parent: InodeId,
    name: &[u8],
    kind: Kind,
    mode: u32,
    rdev: u32,
) -> OpResult<Body> {
    match kind {
        Kind::Directory => return Err(Errno::Perm.into()),
        Kind::Symlink => return Err(Errno::Inval.into()),
        _ => {}
    }
    let directory = names::vacant(op, parent, name)?;
    let mut inode = Inode::new(kind, mode & 0o7777, op.time_ns);
    if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
        if !op.caller.is_root() {
            return Err(Errno::Perm.into());
        }
        inode.rdev = rdev;
    }
    let id = names::add_new(op, parent, directory, name, &mut inode)?;
    Ok(names::with_attr(inode.attr(id)))
}
