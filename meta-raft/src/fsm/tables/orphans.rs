//! `Orphans`: inodes without links that may still be open (S7). Purging one is a record of its own.

use caribou_proto::ids::InodeId;

use super::codec::{Reader, Writer, key1, scan_prefix};
use super::meta::{self, Counter};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

pub(crate) fn add(txn: &mut Txn<'_>, inode: InodeId) -> Result<(), Fatal> {
    txn.put(Table::Orphans, key1(inode.0), Writer::row().finish());
    meta::add(txn, Counter::Orphans, 1)
}

pub(crate) fn remove(txn: &mut Txn<'_>, inode: InodeId) -> Result<(), Fatal> {
    txn.delete(Table::Orphans, key1(inode.0));
    meta::add(txn, Counter::Orphans, -1)
}

pub fn contains(tables: &dyn Tables, inode: InodeId) -> Result<bool, Fatal> {
    Ok(tables.get(Table::Orphans, &key1(inode.0))?.is_some())
}

/// At most `limit` orphans after `after`, in the order of their ids.
pub fn page(tables: &dyn Tables, after: InodeId, limit: usize) -> Result<Vec<InodeId>, Fatal> {
    let mut orphans = Vec::new();
    scan_prefix(tables, Table::Orphans, &[], &key1(after.0.saturating_add(1)), &mut |key, _| {
        if orphans.len() == limit {
            return Ok(Visit::Stop);
        }
        let mut key = Reader::key(Table::Orphans, key);
        orphans.push(InodeId(key.be64()?));
        key.end()?;
        Ok(Visit::Next)
    })?;
    Ok(orphans)
}
