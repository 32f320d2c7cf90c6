//! `Symlinks`: `inode → target`.

use caribou_proto::ids::InodeId;

use super::codec::{Reader, Writer, key1};
use super::{Table, Tables, Txn};
use crate::fsm::error::Fatal;

pub(crate) fn put(txn: &mut Txn<'_>, inode: InodeId, target: &[u8]) {
    txn.put(Table::Symlinks, key1(inode.0), Writer::row().raw(target).finish());
}

pub(crate) fn remove(txn: &mut Txn<'_>, inode: InodeId) {
    txn.delete(Table::Symlinks, key1(inode.0));
}

pub fn get(tables: &dyn Tables, inode: InodeId) -> Result<Option<Vec<u8>>, Fatal> {
    let Some(row) = tables.get(Table::Symlinks, &key1(inode.0))? else { return Ok(None) };
    Ok(Some(Reader::row(Table::Symlinks, &row)?.rest().to_vec()))
}
