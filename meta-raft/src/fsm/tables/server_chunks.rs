//! `ServerChunks`: `(server, chunk)`: which replicas a server is named for. Written only by `chunks`.

use caribou_proto::ids::{ChunkId, ServerId};

use super::codec::{Reader, Writer, key1, key2, scan_prefix};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

pub fn contains(tables: &dyn Tables, server: ServerId, chunk: ChunkId) -> Result<bool, Fatal> {
    Ok(tables.get(Table::ServerChunks, &key2(server.0, chunk.0))?.is_some())
}

/// Up to `limit` chunks of a server with a higher id than `after`.
pub fn page(
    tables: &dyn Tables,
    server: ServerId,
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<ChunkId>, Fatal> {
    let mut found = Vec::new();
    let from = after.map_or(0, |id| id.0.saturating_add(1));
    scan_prefix(tables, Table::ServerChunks, &key1(server.0), &key2(server.0, from), &mut |key, _| {
        let mut reader = Reader::key(Table::ServerChunks, key);
        reader.be64()?;
        found.push(ChunkId(reader.be64()?));
        reader.end()?;
        Ok(if found.len() >= limit { Visit::Stop } else { Visit::Next })
    })?;
    Ok(found)
}

pub(super) fn put(txn: &mut Txn<'_>, server: ServerId, chunk: ChunkId) {
    txn.put(Table::ServerChunks, key2(server.0, chunk.0), Writer::row().finish());
}

pub(super) fn delete(txn: &mut Txn<'_>, server: ServerId, chunk: ChunkId) {
    txn.delete(Table::ServerChunks, key2(server.0, chunk.0));
}
