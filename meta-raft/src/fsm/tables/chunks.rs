//! `Chunks`: one row per chunk, and the one door through which it changes.
//!
//! Key: chunk id. The row says all that the rules W, V and R need; locations are replicated truth (DESIGN 3.4). [`save`] and [`remove`]
//! keep every index in step with the row: file chunks, server chunks, Intents, a session's grants, and the counters. Nothing else writes
//! to those tables. What may change a row, and when, is decided in `ops/`, not here.

mod row;

use std::collections::BTreeSet;

use caribou_proto::ids::{ChunkId, InodeId, ServerId, SessionId};

use super::codec::{Reader, key1};
use super::meta::{self, Counter};
use super::{Table, Tables, Txn, Visit, file_chunks, server_chunks, session_grants};
use crate::fsm::error::Fatal;
pub use row::{Chunk, Ended, Grant, Hold, Intent, Replica};

/// A chunk's row; `None` if there is none.
pub fn get(tables: &dyn Tables, id: ChunkId) -> Result<Option<Chunk>, Fatal> {
    tables.get(Table::Chunks, &key1(id.0))?.map(|row| Chunk::decode(&row)).transpose()
}

/// A chunk that an index names, so it must be there.
pub fn existing(tables: &dyn Tables, id: ChunkId) -> Result<Chunk, Fatal> {
    get(tables, id)?.ok_or_else(|| Fatal(format!("chunk {id} is named by an index and has no row")))
}

/// The chunk at a place of a file; `None` is a hole.
pub fn of_file(tables: &dyn Tables, inode: InodeId, index: u32) -> Result<Option<(ChunkId, Chunk)>, Fatal> {
    let Some(id) = file_chunks::get(tables, inode, index)? else { return Ok(None) };
    Ok(Some((id, existing(tables, id)?)))
}

/// Up to `limit` chunks with a higher id than `after`, in the order of their ids.
pub fn page(tables: &dyn Tables, after: Option<ChunkId>, limit: usize) -> Result<Vec<(ChunkId, Chunk)>, Fatal> {
    let mut found = Vec::new();
    let mut failed = None;
    let from = after.map_or(0, |id| id.0.saturating_add(1));
    tables.scan(Table::Chunks, &key1(from), &mut |key, value| {
        match decode_pair(key, value) {
            Ok(pair) => found.push(pair),
            Err(fatal) => failed = Some(fatal),
        }
        if failed.is_some() || found.len() >= limit { Visit::Stop } else { Visit::Next }
    })?;
    failed.map_or(Ok(found), Err)
}

fn decode_pair(key: &[u8], value: &[u8]) -> Result<(ChunkId, Chunk), Fatal> {
    let mut reader = Reader::key(Table::Chunks, key);
    let id = ChunkId(reader.be64()?);
    reader.end()?;
    Ok((id, Chunk::decode(value)?))
}

/// Up to `limit` chunks with an Intent, with a higher id than `after`.
pub fn intents_page(tables: &dyn Tables, after: Option<ChunkId>, limit: usize) -> Result<Vec<ChunkId>, Fatal> {
    let mut found = Vec::new();
    let from = after.map_or(0, |id| id.0.saturating_add(1));
    super::codec::scan_prefix(tables, Table::Intents, &[], &key1(from), &mut |key, _| {
        let mut reader = Reader::key(Table::Intents, key);
        found.push(ChunkId(reader.be64()?));
        reader.end()?;
        Ok(if found.len() >= limit { Visit::Stop } else { Visit::Next })
    })?;
    Ok(found)
}

/// Writes a chunk's row and what follows from it; `before` is the row as it is stored, `None` for a new chunk.
pub(crate) fn save(txn: &mut Txn<'_>, id: ChunkId, before: Option<&Chunk>, after: &Chunk) -> Result<(), Fatal> {
    index(txn, id, before, Some(after))?;
    txn.put(Table::Chunks, key1(id.0), after.encode());
    Ok(())
}

/// Removes a chunk's row and all indexes of it.
pub(crate) fn remove(txn: &mut Txn<'_>, id: ChunkId, before: &Chunk) -> Result<(), Fatal> {
    index(txn, id, Some(before), None)?;
    txn.delete(Table::Chunks, key1(id.0));
    Ok(())
}

fn index(txn: &mut Txn<'_>, id: ChunkId, before: Option<&Chunk>, after: Option<&Chunk>) -> Result<(), Fatal> {
    let place = |c: &Chunk| (c.inode, c.index);
    if before.map(place) != after.map(place) {
        if let Some((inode, index)) = before.map(place) {
            file_chunks::delete(txn, inode, index);
        }
        if let Some((inode, index)) = after.map(place) {
            file_chunks::put(txn, inode, index, id);
        }
    }
    for_difference(before, after, servers_of, |server, there| match there {
        true => server_chunks::put(txn, server, id),
        false => server_chunks::delete(txn, server, id),
    });
    for_difference(before, after, sessions_of, |session, there| match there {
        true => session_grants::put(txn, session, id),
        false => session_grants::delete(txn, session, id),
    });
    let intent = |c: Option<&Chunk>| c.is_some_and(|c| c.intent.is_some());
    match (intent(before), intent(after)) {
        (false, true) => txn.put(Table::Intents, key1(id.0), super::codec::Writer::row().finish()),
        (true, false) => txn.delete(Table::Intents, key1(id.0)),
        _ => {}
    }
    meta::add(txn, Counter::Intents, i64::from(intent(after)) - i64::from(intent(before)))?;
    meta::add(txn, Counter::Chunks, i64::from(after.is_some()) - i64::from(before.is_some()))
}

fn servers_of(chunk: &Chunk) -> BTreeSet<ServerId> {
    chunk.replicas.iter().map(|r| r.server).collect()
}

/// The sessions whose end concerns this chunk.
pub(crate) fn sessions_of(chunk: &Chunk) -> BTreeSet<SessionId> {
    chunk.grant.iter().map(|g| g.session).chain(chunk.hold.iter().map(|h| h.session)).collect()
}

fn for_difference<T: Ord + Copy>(
    before: Option<&Chunk>,
    after: Option<&Chunk>,
    of: impl Fn(&Chunk) -> BTreeSet<T>,
    mut change: impl FnMut(T, bool),
) {
    let before = before.map(&of).unwrap_or_default();
    let after = after.map(&of).unwrap_or_default();
    for gone in before.difference(&after) {
        change(*gone, false);
    }
    for new in after.difference(&before) {
        change(*new, true);
    }
}
