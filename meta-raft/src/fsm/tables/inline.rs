//! `Inline`: `inode → bytes`, what the first chunk of a file would hold, from its start (I1). What lies between its end and the file's is zeros.
//!
//! A file has a row here or a first chunk with a write-end, never both; and no row is longer than its file.

use caribou_proto::ids::InodeId;

use super::codec::{Reader, Writer, key1};
use super::{Table, Tables, Txn};
use crate::fsm::error::Fatal;

pub fn get(tables: &dyn Tables, inode: InodeId) -> Result<Option<Vec<u8>>, Fatal> {
    let Some(row) = tables.get(Table::Inline, &key1(inode.0))? else { return Ok(None) };
    Ok(Some(Reader::row(Table::Inline, &row)?.rest().to_vec()))
}

pub(crate) fn put(txn: &mut Txn<'_>, inode: InodeId, bytes: &[u8]) {
    txn.put(Table::Inline, key1(inode.0), Writer::row_of(1 + bytes.len()).raw(bytes).finish());
}

pub(crate) fn remove(txn: &mut Txn<'_>, inode: InodeId) {
    txn.delete(Table::Inline, key1(inode.0));
}

/// What looks at rows.
pub type Visitor<'a> = dyn FnMut(InodeId, &[u8]) -> Result<(), Fatal> + 'a;

/// All rows, in the order of their inodes.
pub fn scan(tables: &dyn Tables, visit: &mut Visitor<'_>) -> Result<(), Fatal> {
    super::codec::scan_prefix(tables, Table::Inline, &[], &[], &mut |key, row| {
        let mut key = Reader::key(Table::Inline, key);
        let inode = InodeId(key.be64()?);
        key.end()?;
        visit(inode, Reader::row(Table::Inline, row)?.rest())?;
        Ok(super::Visit::Next)
    })
}
