//! `SessionGrants`: `(session, chunk)`: chunks that the end of a session concerns: its live grants, its holds, and Intents that remember a
//! grant of it that ended by force (S4, W5). Written only by `chunks`.

use caribou_proto::ids::{ChunkId, SessionId};

use super::codec::{Reader, Writer, key1, key2, scan_prefix};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

pub fn contains(tables: &dyn Tables, session: SessionId, chunk: ChunkId) -> Result<bool, Fatal> {
    Ok(tables.get(Table::SessionGrants, &key2(session.0, chunk.0))?.is_some())
}

/// Up to `limit` chunks of a session with a higher id than `after`.
pub fn page(
    tables: &dyn Tables,
    session: SessionId,
    after: Option<ChunkId>,
    limit: usize,
) -> Result<Vec<ChunkId>, Fatal> {
    let mut found = Vec::new();
    let from = after.map_or(0, |id| id.0.saturating_add(1));
    scan_prefix(tables, Table::SessionGrants, &key1(session.0), &key2(session.0, from), &mut |key, _| {
        let mut reader = Reader::key(Table::SessionGrants, key);
        reader.be64()?;
        found.push(ChunkId(reader.be64()?));
        reader.end()?;
        Ok(if found.len() >= limit { Visit::Stop } else { Visit::Next })
    })?;
    Ok(found)
}

pub(super) fn put(txn: &mut Txn<'_>, session: SessionId, chunk: ChunkId) {
    txn.put(Table::SessionGrants, key2(session.0, chunk.0), Writer::row().finish());
}

pub(super) fn delete(txn: &mut Txn<'_>, session: SessionId, chunk: ChunkId) {
    txn.delete(Table::SessionGrants, key2(session.0, chunk.0));
}
