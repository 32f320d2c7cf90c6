//! `Dentries`: `(parent, name) → (cookie, inode, kind)`, and `Cookies`: `(parent, cookie) → (inode, kind, name)`.
//!
//! A cookie comes from the directory's counter and is the entry's position for readdir as long as the name is there: over a rename
//! onto it, an exchange, and the removal of any other entry. The two tables say the same; only this file writes them.

use caribou_proto::ids::{Cookie, InodeId};

use super::codec::{Reader, Writer, key_name, key1, key2, scan_prefix};
use super::inodes::Inode;
use super::links::Link;
use super::{Table, Tables, Txn, Visit};
use crate::fsm::command::Kind;
use crate::fsm::error::Fatal;

/// What looks at the entries of one directory.
pub type EntryVisitor<'a> = dyn FnMut(&[u8], Dentry) -> Result<Visit, Fatal> + 'a;
/// What looks at the entries of all directories.
pub(crate) type AllVisitor<'a> = dyn FnMut(InodeId, &[u8], Dentry) -> Result<(), Fatal> + 'a;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dentry {
    pub cookie: Cookie,
    pub inode: InodeId,
    pub kind: Kind,
}

fn kind(r: &mut Reader<'_>) -> Result<Kind, Fatal> {
    let number = r.u8()?;
    Kind::from_number(number).ok_or_else(|| r.corrupt(&format!("no kind {number}")))
}

fn decode(row: &[u8]) -> Result<Dentry, Fatal> {
    let mut r = Reader::row(Table::Dentries, row)?;
    let dentry = Dentry { cookie: Cookie(r.u64()?), inode: InodeId(r.u64()?), kind: kind(&mut r)? };
    r.end()?;
    Ok(dentry)
}

pub fn get(tables: &dyn Tables, parent: InodeId, name: &[u8]) -> Result<Option<Dentry>, Fatal> {
    tables.get(Table::Dentries, &key_name(parent.0, name))?.map(|row| decode(&row)).transpose()
}

/// Adds a name to a directory whose row is `directory`; the caller puts that row, which counts cookies and entries. Where it is now.
pub(crate) fn add(
    txn: &mut Txn<'_>,
    (parent, directory): (InodeId, &mut Inode),
    name: &[u8],
    inode: InodeId,
    kind: Kind,
) -> Result<Link, Fatal> {
    directory.last_cookie = directory
        .last_cookie
        .checked_add(1)
        .ok_or_else(|| Fatal(format!("the cookies of directory {parent} are used up")))?;
    directory.entries += 1;
    let cookie = Cookie(directory.last_cookie);
    put(txn, parent, name, &Dentry { cookie, inode, kind });
    Ok(Link { parent, cookie })
}

/// Writes a name, new or old, in both tables.
pub(crate) fn put(txn: &mut Txn<'_>, parent: InodeId, name: &[u8], dentry: &Dentry) {
    let Dentry { cookie, inode, kind } = *dentry;
    let row = Writer::row().u64(cookie.0).u64(inode.0).u8(kind as u8).finish();
    txn.put(Table::Dentries, key_name(parent.0, name), row);
    let row = Writer::row_of(16 + name.len()).u64(inode.0).u8(kind as u8).raw(name).finish();
    txn.put(Table::Cookies, key2(parent.0, cookie.0), row);
}

/// Removes a name from both tables; the caller puts the directory's row.
pub(crate) fn remove(txn: &mut Txn<'_>, (parent, directory): (InodeId, &mut Inode), name: &[u8], dentry: &Dentry) {
    directory.entries -= 1;
    txn.delete(Table::Dentries, key_name(parent.0, name));
    txn.delete(Table::Cookies, key2(parent.0, dentry.cookie.0));
}

/// Visits a directory's names in the order of their cookies, those after `cookie`.
pub fn scan_after(
    tables: &dyn Tables,
    parent: InodeId,
    cookie: Cookie,
    visit: &mut EntryVisitor<'_>,
) -> Result<(), Fatal> {
    let Some(from) = cookie.0.checked_add(1) else { return Ok(()) };
    scan_prefix(tables, Table::Cookies, &key1(parent.0), &key2(parent.0, from), &mut |key, row| {
        let (_, dentry, name) = decode_cookie(key, row)?;
        visit(name, dentry)
    })
}

/// The name at a position.
pub(crate) fn name_at(tables: &dyn Tables, link: Link) -> Result<Vec<u8>, Fatal> {
    let key = key2(link.parent.0, link.cookie.0);
    let row = tables.get(Table::Cookies, &key)?;
    let row = row.ok_or_else(|| Fatal(format!("directory {} has nothing at {}", link.parent, link.cookie)))?;
    Ok(decode_cookie(&key, &row)?.2.to_vec())
}

fn decode_cookie<'a>(key: &[u8], row: &'a [u8]) -> Result<(InodeId, Dentry, &'a [u8]), Fatal> {
    let mut k = Reader::key(Table::Cookies, key);
    let (parent, cookie) = (InodeId(k.be64()?), Cookie(k.be64()?));
    k.end()?;
    let mut r = Reader::row(Table::Cookies, row)?;
    let dentry = Dentry { cookie, inode: InodeId(r.u64()?), kind: kind(&mut r)? };
    Ok((parent, dentry, r.rest()))
}

/// All rows of `Dentries`, for checks of the whole state.
pub(crate) fn scan(tables: &dyn Tables, visit: &mut AllVisitor<'_>) -> Result<(), Fatal> {
    scan_prefix(tables, Table::Dentries, &[], &[], &mut |key, row| {
        let mut key = Reader::key(Table::Dentries, key);
        let parent = InodeId(key.be64()?);
        visit(parent, key.rest(), decode(row)?)?;
        Ok(Visit::Next)
    })
}

/// All rows of `Cookies`, for checks of the whole state.
pub(crate) fn scan_cookies(tables: &dyn Tables, visit: &mut AllVisitor<'_>) -> Result<(), Fatal> {
    scan_prefix(tables, Table::Cookies, &[], &[], &mut |key, row| {
        let (parent, dentry, name) = decode_cookie(key, row)?;
        visit(parent, name, dentry)?;
        Ok(Visit::Next)
    })
}
