//! What the operations on names share: the checks of a directory and a name in Linux's order, adding and dropping a link.

use caribou_proto::ids::{InodeId, NAME_MAX};

use super::Op;
use crate::fsm::access::{self, EXEC, WRITE};
use crate::fsm::command::{Caller, Kind};
use crate::fsm::error::{Errno, Fatal, OpResult};
use crate::fsm::reply::{Attr, Body, Effect};
use crate::fsm::tables::dentries::{self, Dentry};
use crate::fsm::tables::inodes::{self, Inode, MAX_LINKS};
use crate::fsm::tables::links::{self, Link};
use crate::fsm::tables::{Tables, orphans};

/// A directory that is searched: ESTALE, ENOTDIR, EACCES.
pub(crate) fn searched(tables: &dyn Tables, id: InodeId, caller: &Caller) -> OpResult<Inode> {
    let directory = inodes::named(tables, id)?;
    if !directory.is_dir() {
        return Err(Errno::NotDir.into());
    }
    access::check(&directory, caller, EXEC)?;
    Ok(directory)
}

/// A name that can be an entry's: ENOENT, ENAMETOOLONG, EINVAL.
pub(crate) fn check_name(name: &[u8]) -> Result<(), Errno> {
    match name {
        b"" => Err(Errno::NoEnt),
        _ if name.len() > NAME_MAX => Err(Errno::NameTooLong),
        b"." | b".." => Err(Errno::Inval),
        _ if name.iter().any(|byte| matches!(byte, b'/' | 0)) => Err(Errno::Inval),
        _ => Ok(()),
    }
}

/// The directory for a new entry and that the name is free: … EEXIST, ENOENT for a removed directory, EACCES.
pub(super) fn vacant(op: &Op<'_, '_>, parent: InodeId, name: &[u8]) -> OpResult<Inode> {
    let directory = searched(op.txn, parent, op.caller)?;
    check_name(name)?;
    if dentries::get(op.txn, parent, name)?.is_some() {
        return Err(Errno::Exist.into());
    }
    check_addition(&directory, op.caller)?;
    Ok(directory)
}

/// Whether an entry may be added: ENOENT for a removed directory, EACCES.
pub(super) fn check_addition(directory: &Inode, caller: &Caller) -> Result<(), Errno> {
    if directory.nlink == 0 {
        return Err(Errno::NoEnt);
    }
    access::check(directory, caller, WRITE | EXEC)
}

/// An entry that is there, and its inode: ENOENT.
pub(super) fn occupied(op: &Op<'_, '_>, parent: InodeId, name: &[u8]) -> OpResult<(Dentry, Inode)> {
    let dentry = dentries::get(op.txn, parent, name)?.ok_or(Errno::NoEnt)?;
    Ok((dentry, inodes::existing(op.txn, dentry.inode)?))
}

/// Makes a new inode under a new name: owner and group, first link, rows. `inode` has kind, mode and content.
pub(super) fn add_new(
    op: &mut Op<'_, '_>,
    parent: InodeId,
    mut directory: Inode,
    name: &[u8],
    inode: &mut Inode,
) -> OpResult<InodeId> {
    access::inherit(inode, &directory, op.caller);
    inode.nlink = 1;
    if inode.kind == Kind::Directory {
        inode.nlink = 2;
        directory.nlink = one_more_link(&directory)?;
    }
    let id = inodes::next(op.txn)?;
    let link = dentries::add(op.txn, (parent, &mut directory), name, id, inode.kind)?;
    links::add(op.txn, id, inode, link);
    inodes::put(op.txn, id, inode);
    directory.content_changed(op.time_ns);
    inodes::put(op.txn, parent, &directory);
    Ok(id)
}

/// EMLINK.
pub(super) fn one_more_link(inode: &Inode) -> Result<u32, Errno> {
    if inode.nlink >= MAX_LINKS { Err(Errno::MLink) } else { Ok(inode.nlink + 1) }
}

/// Takes one name from an inode; a directory loses all its links. The caller has removed the dentry and puts the directory's row.
pub(super) fn drop_link(
    op: &mut Op<'_, '_>,
    parent: InodeId,
    (dentry, mut inode): (Dentry, Inode),
) -> Result<(), Fatal> {
    let id = dentry.inode;
    links::remove(op.txn, id, &mut inode, Link { parent, cookie: dentry.cookie })?;
    inode.nlink = if inode.is_dir() { 0 } else { inode.nlink - 1 };
    inode.ctime_ns = op.time_ns;
    inodes::put(op.txn, id, &inode);
    if inode.nlink == 0 {
        orphans::add(op.txn, id)?;
        op.effects.push(Effect::Orphaned(id));
    }
    Ok(())
}

/// A reply with attributes.
pub(super) fn with_attr(attr: Attr) -> Body {
    Body { attr: Some(attr), ..Body::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_counted_up_to_the_limit() {
        let mut inode = Inode { nlink: MAX_LINKS - 1, ..Inode::new(Kind::Regular, 0o644, 0) };
        inode.nlink = one_more_link(&inode).expect("room for one");
        assert_eq!(one_more_link(&inode), Err(Errno::MLink));
    }
}
