//! Bytes that come into chunks' files, and the fragments that they must be of.

use std::collections::BTreeMap;

use caribou_proto::chunk::v1::WriteFragment;
use caribou_proto::ids::{BLOCK_BYTES, ChunkId, ChunkVersion, GrantId, ServerId};

use super::header::Header;
use crate::findings::Findings;

/// Which bytes: chunk, offset in it, length, and their checksum.
type Key = (ChunkId, u64, usize, u32);

/// Under what they were sent, and to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sent {
    version: ChunkVersion,
    grant: GrantId,
    server: ServerId,
}

/// What has arrived at each chunk server since its start. A fragment stays: its bytes are no others' (each write has its number in them).
#[derive(Debug, Default)]
pub(super) struct Fragments {
    servers: BTreeMap<String, BTreeMap<Key, Vec<Sent>>>,
}

fn key(chunk: ChunkId, offset: u64, bytes: &[u8]) -> Key {
    (chunk, offset, bytes.len(), crc32c::crc32c(bytes))
}

impl Fragments {
    /// What came before is refused now, by the incarnation that it names (F3).
    pub(super) fn started(&mut self, server: &str) {
        self.servers.insert(server.to_owned(), BTreeMap::new());
    }

    pub(super) fn arrived(&mut self, server: &str, fragment: &WriteFragment) {
        let (Some(known), Some(holder)) =
            (self.servers.get_mut(server), fragment.chain.get(fragment.position as usize))
        else {
            return;
        };
        let sent = Sent {
            version: ChunkVersion(fragment.version),
            grant: GrantId(fragment.grant),
            server: ServerId(holder.server_id),
        };
        let all = known.entry(key(ChunkId(fragment.chunk), u64::from(fragment.offset), &fragment.data)).or_default();
        if !all.contains(&sent) {
            all.push(sent);
        }
    }

    fn of(&self, server: &str, key: &Key) -> Vec<Sent> {
        self.servers.get(server).and_then(|known| known.get(key)).cloned().unwrap_or_default()
    }
}

/// Bytes have been written into a chunk's file, at this offset of the chunk. `header`: the file's newest.
pub(super) fn wrote(findings: &Findings, server: &str, (chunk, header): (ChunkId, &Header), offset: u64, bytes: &[u8]) {
    let block = u64::from(BLOCK_BYTES);
    // V1: what a recovery brings comes block by block, into what is not complete.
    if !header.is_complete && bytes.len() as u64 == block && offset.is_multiple_of(block) {
        return;
    }
    let sent = findings.fencing.fragments.lock().of(server, &key(chunk, offset, bytes));
    let what = || format!("{server} has changed {} bytes at {offset} of chunk {chunk}", bytes.len());
    let admitted: Vec<&Sent> = sent.iter().filter(|sent| header.admits(sent.version, sent.grant)).collect();
    let Some(first) = admitted.first() else {
        return findings.violation(format!("P3: {}, which has {header:?}; sent there: {sent:?}", what()));
    };
    // Without a row its replicas are garbage.
    let Some(row) = findings.places.chunk(chunk) else { return };
    let counts = row.intent.is_none() && row.version == header.version && row.replica(first.server).is_some();
    let live = row.grant.map(|grant| grant.id);
    let is_live = admitted.iter().any(|sent| Some(sent.grant) == live);
    findings.check(!counts || is_live, || {
        format!("P3: {}, sent under {admitted:?}; the chunk's grant is {live:?}: {row:?}", what())
    });
}

/// A part of a chunk's file has been made a hole.
pub(super) fn punched(findings: &Findings, server: &str, (chunk, header): (ChunkId, &Header), offset: u64) {
    findings.check(!header.is_complete, || {
        format!("P3: {server} has made a hole at {offset} of the file of chunk {chunk}, which is complete: {header:?}")
    });
}

/// A header has been written over another one.
pub(super) fn replaced(findings: &Findings, server: &str, chunk: ChunkId, (old, new): (&Header, &Header)) {
    findings.check(new.version >= old.version && new.fenced_grant >= old.fenced_grant, || {
        format!("P3: {server} has taken the header of chunk {chunk} back from {old:?} to {new:?}")
    });
}
