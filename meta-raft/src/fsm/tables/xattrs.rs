//! `Xattrs`: `(inode, name) → value`. The inode's row counts them (`xattrs`, `xattr_bytes`); the callers keep it in step.

use caribou_proto::ids::InodeId;

use super::codec::{Reader, Writer, key_name, key1, scan_prefix};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

/// Longest name, in bytes, as on Linux.
pub const XATTR_NAME_MAX: usize = 255;
/// Attributes of one inode; their names fit into one `listxattr` of 64 KiB.
pub const XATTRS_MAX: u32 = 256;
/// Bytes of all names and values of one inode.
pub const XATTR_BYTES_MAX: u32 = 128 << 10;

pub fn get(tables: &dyn Tables, inode: InodeId, name: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
    let Some(row) = tables.get(Table::Xattrs, &key_name(inode.0, name))? else { return Ok(None) };
    Ok(Some(Reader::row(Table::Xattrs, &row)?.rest().to_vec()))
}

pub(crate) fn put(txn: &mut Txn<'_>, inode: InodeId, name: &[u8], value: &[u8]) {
    txn.put(Table::Xattrs, key_name(inode.0, name), Writer::row().raw(value).finish());
}

pub(crate) fn remove(txn: &mut Txn<'_>, inode: InodeId, name: &[u8]) {
    txn.delete(Table::Xattrs, key_name(inode.0, name));
}

/// The names of an inode's attributes, with the lengths of their values: at most [`XATTRS_MAX`].
pub fn names(tables: &dyn Tables, inode: InodeId) -> Result<Vec<(Vec<u8>, usize)>, Fatal> {
    let mut names = Vec::new();
    let prefix = key1(inode.0);
    scan_prefix(tables, Table::Xattrs, &prefix, &prefix, &mut |key, row| {
        names.push((key[prefix.len()..].to_vec(), Reader::row(Table::Xattrs, row)?.rest().len()));
        Ok(Visit::Next)
    })?;
    Ok(names)
}
