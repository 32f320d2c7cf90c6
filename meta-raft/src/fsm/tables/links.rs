//! Where an inode is linked: its first name is in its own row (`Inode::link`), `Links` has the others: `(inode, parent, cookie)`.
//!
//! A name is named by its directory and cookie there; `Cookies` has the text. Nearly every inode has one name and so no row here. The root
//! folder and orphans have none. The rows have no content.

use caribou_proto::ids::{Cookie, InodeId};

use super::codec::{Reader, Writer, key1, key2, scan_prefix};
use super::inodes::{self, Inode};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

/// A directory's entry by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Link {
    pub parent: InodeId,
    pub cookie: Cookie,
}

fn key(inode: InodeId, link: Link) -> [u8; 24] {
    let mut key = [0; 24];
    key[..8].copy_from_slice(&key1(inode.0));
    key[8..].copy_from_slice(&key2(link.parent.0, link.cookie.0));
    key
}

fn decode(key: &[u8]) -> Result<(InodeId, Link), Fatal> {
    let mut key = Reader::key(Table::Links, key);
    let inode = InodeId(key.be64()?);
    let link = Link { parent: InodeId(key.be64()?), cookie: Cookie(key.be64()?) };
    key.end()?;
    Ok((inode, link))
}

/// Notes one more name; the caller puts the inode's row.
pub(crate) fn add(txn: &mut Txn<'_>, id: InodeId, inode: &mut Inode, link: Link) {
    match inode.link {
        None => inode.link = Some(link),
        Some(_) => txn.put(Table::Links, key(id, link), Writer::row().finish()),
    }
}

/// Forgets a name; another one takes the place of the first. The caller puts the inode's row, whose `nlink` still counts the name.
pub(crate) fn remove(txn: &mut Txn<'_>, id: InodeId, inode: &mut Inode, link: Link) -> Result<(), Fatal> {
    if inode.link != Some(link) {
        txn.delete(Table::Links, key(id, link));
        return Ok(());
    }
    // From the one that goes on: those before it are often gone, and a search from the front would pass over all that they left.
    let after = others(txn, id, inode, link, 1)?;
    let next = if after.is_empty() { others(txn, id, inode, FRONT, 1)? } else { after };
    inode.link = next.first().copied();
    if let Some(next) = inode.link {
        txn.delete(Table::Links, key(id, next));
    }
    Ok(())
}

/// Before every name.
const FRONT: Link = Link { parent: InodeId(0), cookie: Cookie(0) };

/// Names that have a row, from `from` on.
fn others(tables: &dyn Tables, id: InodeId, inode: &Inode, from: Link, limit: usize) -> Result<Vec<Link>, Fatal> {
    let mut links = Vec::new();
    if inode.is_dir() || inode.nlink < 2 || limit == 0 {
        return Ok(links);
    }
    let prefix = key1(id.0);
    scan_prefix(tables, Table::Links, &prefix, &key(id, from), &mut |key, _| {
        links.push(decode(key)?.1);
        Ok(if links.len() == limit { Visit::Stop } else { Visit::Next })
    })?;
    Ok(links)
}

/// The first `limit` names of an inode.
pub fn of(tables: &dyn Tables, id: InodeId, inode: &Inode, limit: usize) -> Result<Vec<Link>, Fatal> {
    let mut links: Vec<Link> = inode.link.into_iter().take(limit).collect();
    links.extend(others(tables, id, inode, FRONT, limit - links.len())?);
    Ok(links)
}

/// The parent of a directory; `None` for the root folder and for orphans.
pub fn parent(tables: &dyn Tables, directory: InodeId) -> Result<Option<InodeId>, Fatal> {
    Ok(inodes::existing(tables, directory)?.link.map(|link| link.parent))
}

/// All rows, for checks of the whole state.
pub(crate) fn scan(
    tables: &dyn Tables,
    visit: &mut dyn FnMut(InodeId, Link) -> Result<(), Fatal>,
) -> Result<(), Fatal> {
    scan_prefix(tables, Table::Links, &[], &[], &mut |key, _| {
        let (inode, link) = decode(key)?;
        visit(inode, link)?;
        Ok(Visit::Next)
    })
}
