//! `rename`, with NOREPLACE and EXCHANGE.
//!
//! Checks come in Linux's order (`do_renameat2`, `vfs_rename`). An entry that is replaced or exchanged keeps its cookie.

use caribou_proto::ids::InodeId;

use super::{Op, names};
use crate::fsm::access::{self, WRITE};
use crate::fsm::command::Rename;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Body;
use crate::fsm::tables::Tables;
use crate::fsm::tables::dentries::{self, Dentry};
use crate::fsm::tables::inodes::{self, Inode};
use crate::fsm::tables::links::{self, Link};

/// Levels that are looked through for a loop. A path that a program can name has half as many.
const MAX_DEPTH: usize = 4096;

/// An entry with its inode.
type Entry = (Dentry, Inode);

/// The two directories of a rename; one row if they are the same.
struct Directories {
    from: Inode,
    /// `None`: the same as `from`.
    to: Option<Inode>,
}

impl Directories {
    fn to(&mut self) -> &mut Inode {
        self.to.as_mut().unwrap_or(&mut self.from)
    }

    fn differ(&self) -> bool {
        self.to.is_some()
    }
}

pub(super) fn apply(op: &mut Op<'_, '_>, args: &Rename) -> OpResult<Body> {
    if args.no_replace && args.exchange {
        return Err(Errno::Inval.into());
    }
    let from = names::searched(op.txn, args.parent, op.caller)?;
    let to = match args.new_parent == args.parent {
        true => None,
        false => Some(names::searched(op.txn, args.new_parent, op.caller)?),
    };
    let mut directories = Directories { from, to };
    names::check_name(&args.name)?;
    names::check_name(&args.new_name)?;
    let source = names::occupied(op, args.parent, &args.name)?;
    let target = match names::occupied(op, args.new_parent, &args.new_name) {
        Ok(_) if args.no_replace => return Err(Errno::Exist.into()),
        Ok(target) => Some(target),
        Err(super::Failure::Errno(Errno::NoEnt)) if !args.exchange => None,
        Err(failure) => return Err(failure),
    };
    if directories.differ() {
        check_loops(op.txn, args, &source, target.as_ref())?;
    }
    if target.as_ref().is_some_and(|(dentry, _)| dentry.inode == source.0.inode) {
        return Ok(Body { others: Some(Vec::new()), ..Body::default() });
    }
    check_access(op, args, &mut directories, &source.1, target.as_ref())?;
    let moved = [Some(&source), target.as_ref()].into_iter().flatten().filter(|(_, inode)| inode.is_dir());
    let others = Some(moved.map(|(dentry, _)| dentry.inode).collect());
    match target {
        Some(target) if args.exchange => exchange(op, args, &mut directories, source, target)?,
        target => replace(op, args, &mut directories, source, target)?,
    }
    directories.from.content_changed(op.time_ns);
    inodes::put(op.txn, args.parent, &directories.from);
    if let Some(to) = &mut directories.to {
        to.content_changed(op.time_ns);
        inodes::put(op.txn, args.new_parent, to);
    }
    Ok(Body { others, ..Body::default() })
}

/// EINVAL for a directory into itself, ENOTEMPTY onto one of its ancestors.
fn check_loops(tables: &dyn Tables, args: &Rename, source: &Entry, target: Option<&Entry>) -> OpResult<()> {
    if source.1.is_dir() && is_within(tables, args.new_parent, source.0.inode)? {
        return Err(Errno::Inval.into());
    }
    if let Some((dentry, inode)) = target
        && inode.is_dir()
        && is_within(tables, args.parent, dentry.inode)?
    {
        return Err(if args.exchange { Errno::Inval } else { Errno::NotEmpty }.into());
    }
    Ok(())
}

/// Whether a directory is `ancestor` or below it. ENAMETOOLONG where nobody can say within so many steps: work per record is bounded.
fn is_within(tables: &dyn Tables, mut directory: InodeId, ancestor: InodeId) -> OpResult<bool> {
    for _ in 0..MAX_DEPTH {
        if directory == ancestor {
            return Ok(true);
        }
        match links::parent(tables, directory)? {
            Some(parent) => directory = parent,
            None => return Ok(false),
        }
    }
    Err(Errno::NameTooLong.into())
}

fn check_access(
    op: &Op<'_, '_>,
    args: &Rename,
    directories: &mut Directories,
    source: &Inode,
    target: Option<&Entry>,
) -> OpResult<()> {
    let differ = directories.differ();
    access::check_removal(&directories.from, source, op.caller)?;
    match target {
        None => names::check_addition(directories.to(), op.caller)?,
        Some((_, inode)) => {
            access::check_removal(directories.to(), inode, op.caller)?;
            match (source.is_dir(), inode.is_dir()) {
                (true, false) if !args.exchange => return Err(Errno::NotDir.into()),
                (false, true) if !args.exchange => return Err(Errno::IsDir.into()),
                _ => {}
            }
        }
    }
    // A directory that gets another parent is itself written to: its `..` changes.
    if differ && source.is_dir() {
        access::check(source, op.caller, WRITE)?;
    }
    if let Some((_, inode)) = target {
        if differ && args.exchange && inode.is_dir() {
            access::check(inode, op.caller, WRITE)?;
        }
        if !args.exchange && inode.is_dir() && inode.entries > 0 {
            return Err(Errno::NotEmpty.into());
        }
    }
    Ok(())
}

/// Moves the source to its new name; what was there loses that name.
fn replace(
    op: &mut Op<'_, '_>,
    args: &Rename,
    directories: &mut Directories,
    (dentry, mut inode): Entry,
    target: Option<Entry>,
) -> OpResult<()> {
    let Dentry { inode: id, kind, .. } = dentry;
    if inode.is_dir() && directories.differ() {
        // The count goes up even if a directory makes room: that is subtracted below.
        directories.to().nlink = names::one_more_link(directories.to())?;
        directories.from.nlink -= 1;
    }
    dentries::remove(op.txn, (args.parent, &mut directories.from), &args.name, &dentry);
    links::remove(op.txn, id, &mut inode, Link { parent: args.parent, cookie: dentry.cookie })?;
    let link = match target {
        Some((old, replaced)) => {
            if replaced.is_dir() {
                directories.to().nlink -= 1;
            }
            names::drop_link(op, args.new_parent, (old, replaced))?;
            let new = Dentry { cookie: old.cookie, inode: id, kind };
            dentries::put(op.txn, args.new_parent, &args.new_name, &new);
            Link { parent: args.new_parent, cookie: old.cookie }
        }
        None => dentries::add(op.txn, (args.new_parent, directories.to()), &args.new_name, id, kind)?,
    };
    links::add(op.txn, id, &mut inode, link);
    inode.ctime_ns = op.time_ns;
    inodes::put(op.txn, id, &inode);
    Ok(())
}

/// Each takes the other's name and cookie.
fn exchange(
    op: &mut Op<'_, '_>,
    args: &Rename,
    directories: &mut Directories,
    (a_dentry, mut a): Entry,
    (b_dentry, mut b): Entry,
) -> OpResult<()> {
    if directories.differ() && a.is_dir() != b.is_dir() {
        let (gains, loses) = match directories.to.as_mut() {
            Some(to) if a.is_dir() => (to, &mut directories.from),
            Some(to) => (&mut directories.from, to),
            None => return Ok(()),
        };
        gains.nlink = names::one_more_link(gains)?;
        loses.nlink -= 1;
    }
    let (a_id, b_id) = (a_dentry.inode, b_dentry.inode);
    let a_link = Link { parent: args.parent, cookie: a_dentry.cookie };
    let b_link = Link { parent: args.new_parent, cookie: b_dentry.cookie };
    links::remove(op.txn, a_id, &mut a, a_link)?;
    links::remove(op.txn, b_id, &mut b, b_link)?;
    let first = Dentry { cookie: a_dentry.cookie, ..b_dentry };
    let second = Dentry { cookie: b_dentry.cookie, ..a_dentry };
    dentries::put(op.txn, args.parent, &args.name, &first);
    dentries::put(op.txn, args.new_parent, &args.new_name, &second);
    links::add(op.txn, b_id, &mut b, a_link);
    links::add(op.txn, a_id, &mut a, b_link);
    for (id, inode) in [(a_id, &mut a), (b_id, &mut b)] {
        inode.ctime_ns = op.time_ns;
        inodes::put(op.txn, id, inode);
    }
    Ok(())
}
