//! `chmod`, `chown`, `truncate`, `utimensat`: one record that does all of what it names, or nothing.

use super::{Op, cut, names};
use crate::fsm::access::{self, SETGID, SETUID, WRITE};
use crate::fsm::command::{Kind, SetAttr, SetTime};
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::inodes::{self, Inode, MAX_FILE_BYTES};

pub(super) fn apply(op: &mut Op<'_, '_>, args: &SetAttr) -> OpResult<Body> {
    let id = args.inode;
    let mut inode = inodes::named(op.txn, id)?;
    check_owner(op, args, &inode)?;
    check_mode(op, args, &inode)?;
    check_times(op, args, &inode)?;
    check_size(op, args, &inode)?;
    if *args == (SetAttr { inode: id, by_handle: args.by_handle, ..SetAttr::default() }) {
        return Ok(names::with_attr(inode.attr(id)));
    }
    if let Some(size) = args.size {
        // W9.
        cut::set_size(op, id, &mut inode, size)?;
        inode.content_changed(op.time_ns);
        if !op.caller.is_root() {
            inode.mode = access::without_privileges(&inode, op.caller);
        }
    }
    change_owner(op, args, &mut inode);
    if let Some(mode) = args.mode {
        inode.mode = mode & 0o7777;
        // Nobody marks a file with a group that is not their own.
        if !op.caller.is_root() && !op.caller.in_group(inode.gid) {
            inode.mode &= !SETGID;
        }
    }
    let at = |time: SetTime| match time {
        SetTime::Now => op.time_ns,
        SetTime::At(time_ns) => time_ns,
    };
    inode.atime_ns = args.atime.map_or(inode.atime_ns, at);
    inode.mtime_ns = args.mtime.map_or(inode.mtime_ns, at);
    inode.ctime_ns = op.time_ns;
    inodes::put(op.txn, id, &inode);
    Ok(names::with_attr(inode.attr(id)))
}

/// Root may give files away; owners may only change the group, to one of theirs.
fn check_owner(op: &Op<'_, '_>, args: &SetAttr, inode: &Inode) -> Result<(), Errno> {
    let owner = op.caller.uid == inode.uid;
    let uid_fine = args.uid.is_none_or(|uid| owner && uid == inode.uid);
    let gid_fine = args.gid.is_none_or(|gid| owner && (gid == inode.gid || op.caller.in_group(gid)));
    if op.caller.is_root() || (uid_fine && gid_fine) { Ok(()) } else { Err(Errno::Perm) }
}

fn check_mode(op: &Op<'_, '_>, args: &SetAttr, inode: &Inode) -> Result<(), Errno> {
    let Some(mode) = args.mode else { return Ok(()) };
    if inode.kind == Kind::Symlink {
        return Err(Errno::NotSup);
    }
    // A writer's kernel takes the privileges of a file away before it writes, in the writer's name.
    let only_drops =
        inode.mode & !mode & !(SETUID | SETGID) == 0 && mode & 0o7777 & !inode.mode == 0 && mode != inode.mode;
    let as_writer = only_drops && access::check(inode, op.caller, WRITE).is_ok();
    if op.caller.owns(inode) || as_writer { Ok(()) } else { Err(Errno::Perm) }
}

/// Owners may set any time; who may write may set both to now, or the mtime together with the size.
fn check_times(op: &Op<'_, '_>, args: &SetAttr, inode: &Inode) -> Result<(), Errno> {
    if op.caller.owns(inode) {
        return Ok(());
    }
    match (args.atime, args.mtime) {
        (None, None) => Ok(()),
        (Some(SetTime::Now), Some(SetTime::Now)) => access::check(inode, op.caller, WRITE),
        (None, Some(SetTime::Now)) if args.size.is_some() => Ok(()),
        _ => Err(Errno::Perm),
    }
}

fn check_size(op: &Op<'_, '_>, args: &SetAttr, inode: &Inode) -> Result<(), Errno> {
    let Some(size) = args.size else { return Ok(()) };
    match inode.kind {
        Kind::Regular => {}
        Kind::Directory => return Err(Errno::IsDir),
        _ => return Err(Errno::Inval),
    }
    if !args.by_handle {
        access::check(inode, op.caller, WRITE)?;
    }
    if size > MAX_FILE_BYTES { Err(Errno::FileTooBig) } else { Ok(()) }
}

/// A change of owner or group takes setuid and setgid away from files, root's too, unless a mode comes with it.
fn change_owner(op: &Op<'_, '_>, args: &SetAttr, inode: &mut Inode) {
    if args.uid.is_none() && args.gid.is_none() {
        return;
    }
    if !inode.is_dir() {
        inode.mode = access::without_privileges(inode, op.caller);
    }
    inode.uid = args.uid.unwrap_or(inode.uid);
    inode.gid = args.gid.unwrap_or(inode.gid);
}
