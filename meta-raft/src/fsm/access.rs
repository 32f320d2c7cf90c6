//! Who may do what: permission bits, ownership, sticky and setgid directories, as Linux file systems decide it.
//!
//! Root is uid 0 and may read and write everything, and run what anybody may run. Used by operations and reads alike.

use super::command::{Caller, Kind};
use super::error::Errno;
use super::tables::inodes::Inode;

/// Access bits of `access(2)`.
pub(crate) const READ: u32 = 4;
pub(crate) const WRITE: u32 = 2;
pub(crate) const EXEC: u32 = 1;

pub(crate) const SETUID: u32 = 0o4000;
pub(crate) const SETGID: u32 = 0o2000;
pub(crate) const STICKY: u32 = 0o1000;
const GROUP_EXEC: u32 = 0o010;

impl Caller {
    pub(crate) fn is_root(&self) -> bool {
        self.uid == 0
    }

    pub(crate) fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }

    /// The owner, or root.
    pub(crate) fn owns(&self, inode: &Inode) -> bool {
        self.is_root() || self.uid == inode.uid
    }
}

/// EACCES unless the caller has all of `mask`.
pub(crate) fn check(inode: &Inode, caller: &Caller, mask: u32) -> Result<(), Errno> {
    let granted = if caller.is_root() {
        let runnable = inode.is_dir() || inode.mode & 0o111 != 0;
        READ | WRITE | if runnable { EXEC } else { 0 }
    } else if caller.uid == inode.uid {
        inode.mode >> 6
    } else if caller.in_group(inode.gid) {
        inode.mode >> 3
    } else {
        inode.mode
    };
    if mask & 7 & !granted == 0 { Ok(()) } else { Err(Errno::Access) }
}

/// Whether an entry of `directory` may be removed or renamed: EACCES for the directory, EPERM for its sticky bit.
pub(crate) fn check_removal(directory: &Inode, victim: &Inode, caller: &Caller) -> Result<(), Errno> {
    check(directory, caller, WRITE | EXEC)?;
    if directory.mode & STICKY != 0 && !caller.owns(victim) && !caller.owns(directory) {
        return Err(Errno::Perm);
    }
    Ok(())
}

/// Gives a new inode its owner, group and class: a setgid directory hands its group down, and the bit to directories.
pub(crate) fn inherit(new: &mut Inode, directory: &Inode, caller: &Caller) {
    new.uid = caller.uid;
    new.gid = caller.gid;
    new.class = directory.class;
    if directory.mode & SETGID == 0 {
        return;
    }
    new.gid = directory.gid;
    if new.is_dir() {
        new.mode |= SETGID;
    } else if new.mode & GROUP_EXEC != 0 && !caller.is_root() && !caller.in_group(new.gid) {
        new.mode &= !SETGID;
    }
}

/// The mode without the privileges that a change of owner, group or content takes away.
pub(crate) fn without_privileges(inode: &Inode, caller: &Caller) -> u32 {
    let mut mode = inode.mode & !SETUID;
    let outsider = !caller.is_root() && !caller.in_group(inode.gid);
    if mode & GROUP_EXEC != 0 || outsider {
        mode &= !SETGID;
    }
    mode
}

/// Whether extended attributes of users may be on it.
pub(crate) fn takes_user_xattrs(kind: Kind) -> bool {
    matches!(kind, Kind::Regular | Kind::Directory)
}
