//! `Links`: `(inode, parent, name)`, one row for each name of an inode: the way back from an inode to its paths.
//!
//! A directory has exactly one row, except the root folder and orphans, which have none. The rows have no content.

use caribou_proto::ids::InodeId;

use super::codec::{Reader, Writer, key1, key2_name, scan_prefix};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

pub(crate) fn put(txn: &mut Txn<'_>, inode: InodeId, parent: InodeId, name: &[u8]) {
    txn.put(Table::Links, key2_name(inode.0, parent.0, name), Writer::row().finish());
}

pub(crate) fn remove(txn: &mut Txn<'_>, inode: InodeId, parent: InodeId, name: &[u8]) {
    txn.delete(Table::Links, key2_name(inode.0, parent.0, name));
}

fn decode(key: &[u8]) -> Result<(InodeId, InodeId, &[u8]), Fatal> {
    let mut key = Reader::key(Table::Links, key);
    Ok((InodeId(key.be64()?), InodeId(key.be64()?), key.rest()))
}

/// The first `limit` names of an inode: parents and names.
pub fn of(tables: &dyn Tables, inode: InodeId, limit: usize) -> Result<Vec<(InodeId, Vec<u8>)>, Fatal> {
    let mut links = Vec::new();
    let prefix = key1(inode.0);
    scan_prefix(tables, Table::Links, &prefix, &prefix, &mut |key, _| {
        if links.len() == limit {
            return Ok(Visit::Stop);
        }
        let (_, parent, name) = decode(key)?;
        links.push((parent, name.to_vec()));
        Ok(Visit::Next)
    })?;
    Ok(links)
}

/// The parent of a directory; `None` for the root folder and for orphans.
pub fn parent(tables: &dyn Tables, directory: InodeId) -> Result<Option<InodeId>, Fatal> {
    Ok(of(tables, directory, 1)?.first().map(|(parent, _)| *parent))
}

/// What looks at links: inode, parent, name.
pub(crate) type LinkVisitor<'a> = dyn FnMut(InodeId, InodeId, &[u8]) -> Result<(), Fatal> + 'a;

/// All rows, for checks of the whole state.
pub(crate) fn scan(tables: &dyn Tables, visit: &mut LinkVisitor<'_>) -> Result<(), Fatal> {
    scan_prefix(tables, Table::Links, &[], &[], &mut |key, _| {
        let (inode, parent, name) = decode(key)?;
        visit(inode, parent, name)?;
        Ok(Visit::Next)
    })
}
