//! What must always hold of chunks and their indexes. For tests and checks: it reads every row.

use std::collections::{BTreeMap, BTreeSet};

use caribou_proto::ids::{CHUNK_BYTES, ChunkId, MAX_INLINE_BYTES, ServerId};

use super::command::Kind;
use super::error::Fatal;
use super::tables::chunks::{self, Chunk};
use super::tables::meta::{self, Counter};
use super::tables::{
    Table, Tables, Visit, classes, file_chunks, garbage, inline, inodes, server_chunks, servers, session_grants,
    sessions,
};

/// Chunks that are read at once.
const PAGE: usize = 1024;

/// The first broken invariant, in words.
pub fn check(tables: &dyn Tables) -> Result<(), Fatal> {
    let mut all = BTreeMap::new();
    let mut after = None;
    loop {
        let page = chunks::page(tables, after, PAGE)?;
        after = page.last().map(|(id, _)| *id);
        let last = page.len() < PAGE;
        all.extend(page);
        if last {
            break;
        }
    }
    for (id, chunk) in &all {
        row(chunk)
            .and_then(|()| surroundings(tables, *id, chunk))
            .map_err(|why| Fatal(format!("chunk {id}: {why}")))?;
    }
    indexes(tables, &all)?;
    inline_data(tables)
}

fn ensure(holds: bool, what: &str) -> Result<(), Fatal> {
    if holds { Ok(()) } else { Err(Fatal(what.to_owned())) }
}

/// What one row says of itself.
fn row(chunk: &Chunk) -> Result<(), Fatal> {
    let servers: BTreeSet<ServerId> = chunk.replicas.iter().map(|r| r.server).collect();
    ensure(!servers.is_empty(), "R3: no replica")?;
    ensure(servers.len() == chunk.replicas.len(), "a server is named twice")?;
    ensure(chunk.version.0 >= 1, "version 0")?;
    if chunk.new {
        ensure(
            chunk.grant.is_some() && chunk.intent.is_none() && chunk.hold.is_none(),
            "W2: new without a grant of its own",
        )?;
        ensure(chunk.version.0 == 1, "W2: new at a later version")?;
    }
    if let Some(grant) = &chunk.grant {
        ensure(chunk.intent.is_none(), "V1: granted with an Intent")?;
        ensure(grant.id == chunk.last_grant, "F3: the live grant is not the last")?;
        ensure(chunk.hold.is_none_or(|h| h.session == grant.session), "W5: granted past a hold")?;
    }
    if let Some(intent) = &chunk.intent {
        ensure(intent.version > chunk.version, "V1: an Intent that is not higher")?;
        ensure(u64::from(intent.cut) <= CHUNK_BYTES, "a cut beyond the chunk")?;
    }
    ensure(
        chunk.unkept.is_none_or(|grant| grant <= chunk.last_grant),
        "W5: a grant that was never given was not kept",
    )?;
    Ok(())
}

/// What one row says of others.
fn surroundings(tables: &dyn Tables, id: ChunkId, chunk: &Chunk) -> Result<(), Fatal> {
    ensure(inodes::get(tables, chunk.inode)?.is_some(), "its inode does not exist")?;
    ensure(file_chunks::get(tables, chunk.inode, chunk.index)? == Some(id), "its file does not name it")?;
    classes::get(tables, chunk.class)?;
    for replica in &chunk.replicas {
        let server = servers::get(tables, replica.server)?;
        ensure(server.is_some_and(|s| s.incarnation >= replica.incarnation), "a holder from the future")?;
        ensure(server_chunks::contains(tables, replica.server, id)?, "a holder's index does not name it")?;
        ensure(garbage::get(tables, replica.server, id)?.is_none(), "R4: a holder has it as garbage")?;
    }
    for session in chunks::sessions_of(chunk) {
        ensure(session_grants::contains(tables, session, id)?, "a session's index does not name it")?;
        ensure(
            sessions::get(tables, session)?.is_some_and(|s| !matches!(s.state, sessions::SessionState::Ended { .. })),
            "S4: its session has ended",
        )?;
    }
    Ok(())
}

/// I1: inline data are those of a file that has no first chunk with a write-end, and end with it.
fn inline_data(tables: &dyn Tables) -> Result<(), Fatal> {
    inline::scan(tables, &mut |id, bytes| {
        let wrong = |what: &str| Fatal(format!("inline data of inode {id}: {what}"));
        let file = inodes::get(tables, id)?.filter(|inode| inode.kind == Kind::Regular);
        let length = file.ok_or_else(|| wrong("it is no file"))?.size;
        let fits = !bytes.is_empty() && bytes.len() as u64 <= length.min(MAX_INLINE_BYTES.into());
        if !fits {
            return Err(wrong(&format!("{} bytes, its length is {length}", bytes.len())));
        }
        let moved = chunks::of_file(tables, id, 0)?.is_some_and(|(_, chunk)| !chunk.new);
        if moved { Err(wrong("there is a first chunk")) } else { Ok(()) }
    })
}

/// No index names what is not so, and the counters are right.
fn indexes(tables: &dyn Tables, all: &BTreeMap<ChunkId, Chunk>) -> Result<(), Fatal> {
    let sum = |of: &dyn Fn(&Chunk) -> usize| all.values().map(of).sum::<usize>();
    ensure(rows(tables, Table::FileChunks)? == all.len(), "file_chunks has rows without a chunk")?;
    ensure(
        rows(tables, Table::ServerChunks)? == sum(&|c| c.replicas.len()),
        "server_chunks has rows without a replica",
    )?;
    ensure(
        rows(tables, Table::SessionGrants)? == sum(&|c| chunks::sessions_of(c).len()),
        "session_grants has rows too many",
    )?;
    let intents = sum(&|c| usize::from(c.intent.is_some()));
    ensure(rows(tables, Table::Intents)? == intents, "intents has rows without an Intent")?;
    let counted = |counter, value: usize| Ok::<_, Fatal>(meta::counter(tables, counter)? == value as u64);
    ensure(counted(Counter::Chunks, all.len())?, "the counter of chunks is wrong")?;
    ensure(counted(Counter::Intents, intents)?, "the counter of Intents is wrong")?;
    ensure(counted(Counter::Garbage, rows(tables, Table::Garbage)?)?, "the counter of garbage is wrong")
}

fn rows(tables: &dyn Tables, table: Table) -> Result<usize, Fatal> {
    let mut count = 0;
    tables.scan(table, &[], &mut |_, _| {
        count += 1;
        Visit::Next
    })?;
    Ok(count)
}
