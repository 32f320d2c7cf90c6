//! `open(O_CREAT)` of a regular file: makes it, or opens the one that is there.

use caribou_proto::ids::InodeId;

use super::{Op, cut, names, take_grant};
use crate::fsm::access::{self, WRITE};
use crate::fsm::command::{Create, Kind};
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::{dentries, inodes};

pub(super) fn apply(op: &mut Op<'_, '_>, args: &Create) -> OpResult<Body> {
    let directory = names::searched(op.txn, args.parent, op.caller)?;
    names::check_name(&args.name)?;
    if let Some(dentry) = dentries::get(op.txn, args.parent, &args.name)? {
        return open_existing(op, args, dentry.kind, dentry.inode);
    }
    names::check_addition(&directory, op.caller)?;
    let mut inode = inodes::Inode::new(Kind::Regular, args.mode & 0o7777, op.time_ns);
    let id = names::add_new(op, args.parent, directory, &args.name, &mut inode)?;
    // W1: create and first grant are one record.
    let grant = match args.placement.is_empty() {
        true => None,
        false => Some(take_grant::first(op, id, &mut inode, &args.placement)?),
    };
    Ok(Body { attr: Some(inode.attr(id)), created: true, grant, ..Body::default() })
}

fn open_existing(op: &mut Op<'_, '_>, args: &Create, kind: Kind, id: InodeId) -> OpResult<Body> {
    match kind {
        _ if args.exclusive => return Err(Errno::Exist.into()),
        Kind::Directory => return Err(Errno::IsDir.into()),
        Kind::Regular => {}
        // Symlinks and devices are opened by the client; that it saw no such name is out of date.
        _ => return Err(Errno::Exist.into()),
    }
    let mut inode = inodes::existing(op.txn, id)?;
    let needed = args.access | if args.truncate { WRITE } else { 0 };
    access::check(&inode, op.caller, needed)?;
    if args.truncate {
        cut::set_size(op, id, &mut inode, 0)?;
        inode.content_changed(op.time_ns);
        if !op.caller.is_root() {
            inode.mode = access::without_privileges(&inode, op.caller);
        }
        inodes::put(op.txn, id, &inode);
    }
    Ok(names::with_attr(inode.attr(id)))
}
