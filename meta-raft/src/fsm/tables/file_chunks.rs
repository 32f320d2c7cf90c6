//! `FileChunks`: `(inode, index) → chunk`. A place without a row is a hole. Written only by `chunks`.

use caribou_proto::ids::{CHUNK_BYTES, ChunkId, InodeId};

use super::codec::{Reader, Writer, key1, scan_prefix};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

/// Most chunks of one file, so that a truncation is one bounded record (W9): 65,536 × 64 MiB = 4 TiB.
pub const MAX_FILE_CHUNKS: u32 = 1 << 16;
/// Longest file in bytes; beyond it, EFBIG.
pub const MAX_FILE_BYTES: u64 = MAX_FILE_CHUNKS as u64 * CHUNK_BYTES;

fn key(inode: InodeId, index: u32) -> [u8; 12] {
    let mut key = [0; 12];
    key[..8].copy_from_slice(&inode.0.to_be_bytes());
    key[8..].copy_from_slice(&index.to_be_bytes());
    key
}

pub fn get(tables: &dyn Tables, inode: InodeId, index: u32) -> Result<Option<ChunkId>, Fatal> {
    tables.get(Table::FileChunks, &key(inode, index))?.map(|row| decode(&row)).transpose()
}

fn decode(row: &[u8]) -> Result<ChunkId, Fatal> {
    let mut reader = Reader::row(Table::FileChunks, row)?;
    let id = ChunkId(reader.be64()?);
    reader.end()?;
    Ok(id)
}

/// Up to `limit` chunks of a file from `first` on, with their places, in order.
pub fn page(tables: &dyn Tables, inode: InodeId, first: u32, limit: usize) -> Result<Vec<(u32, ChunkId)>, Fatal> {
    let mut found = Vec::new();
    if limit == 0 {
        return Ok(found);
    }
    scan_prefix(tables, Table::FileChunks, &key1(inode.0), &key(inode, first), &mut |key, row| {
        let mut reader = Reader::key(Table::FileChunks, key);
        reader.be64()?;
        let index = reader.be32()?;
        reader.end()?;
        found.push((index, decode(row)?));
        Ok(if found.len() >= limit { Visit::Stop } else { Visit::Next })
    })?;
    Ok(found)
}

pub(super) fn put(txn: &mut Txn<'_>, inode: InodeId, index: u32, id: ChunkId) {
    txn.put(Table::FileChunks, key(inode, index), Writer::row().raw(&id.0.to_be_bytes()).finish());
}

pub(super) fn delete(txn: &mut Txn<'_>, inode: InodeId, index: u32) {
    txn.delete(Table::FileChunks, key(inode, index));
}
