//! `Garbage`: `(server, chunk) → version`: committed deletions that the server has not yet confirmed (R4).
//!
//! A replica of at most that version goes to the server's quarantine. A server that is named for a chunk has no garbage row for it.

use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};

use super::codec::{Reader, Writer, key1, key2, scan_prefix};
use super::meta::{self, Counter};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

pub fn get(tables: &dyn Tables, server: ServerId, chunk: ChunkId) -> Result<Option<ChunkVersion>, Fatal> {
    tables.get(Table::Garbage, &key2(server.0, chunk.0))?.map(|row| decode(&row)).transpose()
}

fn decode(row: &[u8]) -> Result<ChunkVersion, Fatal> {
    let mut reader = Reader::row(Table::Garbage, row)?;
    let version = ChunkVersion(reader.u64()?);
    reader.end()?;
    Ok(version)
}

/// Up to `limit` deletions of a server, of chunks with a higher id than `after`.
pub fn page(
    tables: &dyn Tables,
    server: ServerId,
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<(ChunkId, ChunkVersion)>, Fatal> {
    let mut found = Vec::new();
    let from = after.map_or(0, |id| id.0.saturating_add(1));
    scan_prefix(tables, Table::Garbage, &key1(server.0), &key2(server.0, from), &mut |key, row| {
        let mut reader = Reader::key(Table::Garbage, key);
        reader.be64()?;
        let chunk = ChunkId(reader.be64()?);
        reader.end()?;
        found.push((chunk, decode(row)?));
        Ok(if found.len() >= limit { Visit::Stop } else { Visit::Next })
    })?;
    Ok(found)
}

/// Adds a deletion; a higher version replaces a lower one.
pub(crate) fn put(txn: &mut Txn<'_>, server: ServerId, chunk: ChunkId, version: ChunkVersion) -> Result<(), Fatal> {
    let before = get(txn, server, chunk)?;
    meta::add(txn, Counter::Garbage, i64::from(before.is_none()))?;
    let version = before.map_or(version, |b| b.max(version));
    txn.put(Table::Garbage, key2(server.0, chunk.0), Writer::row().u64(version.0).finish());
    Ok(())
}

pub(crate) fn delete(txn: &mut Txn<'_>, server: ServerId, chunk: ChunkId) -> Result<(), Fatal> {
    if get(txn, server, chunk)?.is_some() {
        meta::add(txn, Counter::Garbage, -1)?;
        txn.delete(Table::Garbage, key2(server.0, chunk.0));
    }
    Ok(())
}
