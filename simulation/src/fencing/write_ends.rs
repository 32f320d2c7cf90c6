//! Write-ends and ends of grants, and what they are answered.
//!
//! A request that is sent again may have been carried out before, so only its first sending is judged. A grant that the newest rows do not
//! have any more then is over for good: whatever becomes of the request, it comes after that.

use std::collections::BTreeMap;

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};
use caribou_proto::meta::v1::mutation::Op;
use caribou_proto::meta::v1::{
    ClientMessage, Outcome, Reply, Request, ServerMessage, WrittenChunk, client_message, server_message,
};

use crate::findings::Findings;

/// A session and a request in it.
type Key = (u64, u64);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct WriteEnds {
    /// Whose each call is, once its client or its server has said so.
    sessions: BTreeMap<u64, u64>,
    /// Of each request that names grants, those that were over when it was sent first.
    over: BTreeMap<Key, Vec<WrittenChunk>>,
}

/// The chunks that a request says to be written.
fn chunks_of(request: &Request) -> &[WrittenChunk] {
    match request.mutation.as_ref().and_then(|mutation| mutation.op.as_ref()) {
        Some(Op::WriteEnd(end)) => &end.chunks,
        Some(Op::WriteAndSet(both)) => both.write.as_ref().map_or(&[][..], |end| &end.chunks[..]),
        Some(Op::EndGrants(ends)) => &ends.chunks,
        _ => &[],
    }
}

/// A client sends this in a call of its own.
pub(super) fn sent(findings: &Findings, call: u64, message: &ClientMessage) {
    match &message.body {
        Some(client_message::Body::Hello(hello)) if hello.session_id != 0 => {
            findings.fencing.write_ends.lock().sessions.insert(call, hello.session_id);
        }
        Some(client_message::Body::Request(request)) if !chunks_of(request).is_empty() => {
            let mut seen = findings.fencing.write_ends.lock();
            let Some(session) = seen.sessions.get(&call).copied() else { return };
            let over = || chunks_of(request).iter().filter(|written| is_over(findings, written)).cloned().collect();
            seen.over.entry((session, request.seq)).or_insert_with(over);
        }
        _ => {}
    }
}

/// Whether the grant is no longer the live one of its chunk. Without a grant it is a hold that is let go.
fn is_over(findings: &Findings, written: &WrittenChunk) -> bool {
    let is_live = findings.places.chunk(ChunkId(written.chunk)).is_some_and(|row| {
        let grant = row.grant.is_some_and(|grant| grant.id == GrantId(written.grant));
        grant && row.version == ChunkVersion(written.version)
    });
    written.grant != 0 && !is_live
}

/// A metadata node has answered this in the call of a client.
pub(super) fn answered(findings: &Findings, call: u64, message: &ServerMessage) {
    match &message.body {
        Some(server_message::Body::Welcome(welcome)) => {
            findings.fencing.write_ends.lock().sessions.insert(call, welcome.session_id);
        }
        Some(server_message::Body::Reply(reply)) => judge(findings, call, reply),
        _ => {}
    }
}

fn judge(findings: &Findings, call: u64, reply: &Reply) {
    if reply.outcome() != Outcome::Executed || reply.errno != 0 {
        return;
    }
    let over = {
        let seen = findings.fencing.write_ends.lock();
        let session = seen.sessions.get(&call).copied();
        session.and_then(|session| seen.over.get(&(session, reply.seq))).cloned().unwrap_or_default()
    };
    let body = reply.body.clone().unwrap_or_default();
    for written in over {
        // Of the chunks of many files the indices are no names.
        let is_lost = match body.lost_chunks.is_empty() {
            true => body.lost.contains(&written.index),
            false => body.lost_chunks.contains(&written.chunk),
        };
        findings.check(is_lost, || {
            let row = findings.places.chunk(ChunkId(written.chunk));
            format!(
                "P3: a write-end was counted under a grant that was over when it was sent: {written:?}; now: {row:?}"
            )
        });
    }
}
