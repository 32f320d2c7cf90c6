//! `Replies`: `(session, slot) → (seq, the first answer)`, whole (S2) but for the hint in `Body::others`, so that a retry after a failover gets
//! it again.
//!
//! A seq's slot is its remainder by the window. What may be stored is less than a window above the lowest seq that is not acknowledged, so
//! only acknowledged answers are ever overwritten, and nothing has to be deleted while a session lives. Owns the stored form of replies.

use caribou_proto::ids::{
    ChunkId, ChunkVersion, GrantId, Incarnation, InodeId, SESSION_WINDOW, Seq, ServerId, SessionId,
};

use super::codec::{Reader, Writer, key1, scan_prefix};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::command::Kind;
use crate::fsm::error::{Errno, Fatal};
use crate::fsm::reply::{Attr, Body, ClientReply, GrantReply, GrantState, Outcome};

/// A session's number and the slot, both big-endian.
fn key(session: SessionId, seq: Seq) -> [u8; 10] {
    const { assert!(SESSION_WINDOW <= 1 << 16) };
    let mut key = [0; 10];
    key[..8].copy_from_slice(&session.0.to_be_bytes());
    key[8..].copy_from_slice(&((seq.0 % SESSION_WINDOW) as u16).to_be_bytes());
    key
}

/// The stored answer to a request; marked as coming from the table.
pub fn get(tables: &dyn Tables, session: SessionId, seq: Seq) -> Result<Option<ClientReply>, Fatal> {
    let Some(row) = tables.get(Table::Replies, &key(session, seq))? else { return Ok(None) };
    let (stored, reply) = decode(&row)?;
    Ok((stored == seq).then_some(reply))
}

/// The caller has checked that `seq` is in the window.
pub(crate) fn put(txn: &mut Txn<'_>, session: SessionId, seq: Seq, reply: &ClientReply) {
    txn.put(Table::Replies, key(session, seq), encode(seq, reply));
}

pub(crate) fn delete(txn: &mut Txn<'_>, session: SessionId, seq: Seq) {
    txn.delete(Table::Replies, key(session, seq));
}

/// The seqs whose answers a session has stored, a window of them at most, in no order that means anything.
pub fn seqs(tables: &dyn Tables, session: SessionId) -> Result<Vec<Seq>, Fatal> {
    let mut seqs = Vec::new();
    let prefix = key1(session.0);
    scan_prefix(tables, Table::Replies, &prefix, &prefix, &mut |_, row| {
        seqs.push(decode(row)?.0);
        Ok(Visit::Next)
    })?;
    Ok(seqs)
}

const FAILED: u8 = 0;
const SUCCEEDED: u8 = 1;
/// Bits that say which parts of a body follow.
const ATTR: u8 = 1;
const CREATED: u8 = 2;
const GRANT: u8 = 4;
const LENGTH: u8 = 8;
const LOST: u8 = 16;
const CLIP: u8 = 32;
const LOST_CHUNKS: u8 = 64;
const UNKEPT: u8 = 128;

fn encode(seq: Seq, reply: &ClientReply) -> Vec<u8> {
    let room = if reply.result.as_ref().is_ok_and(|body| body.attr.is_some()) { 80 } else { 16 };
    let mut w = Writer::row_of(room);
    w.u64(seq.0).u8(reply.outcome as u8);
    match &reply.result {
        Err(errno) => {
            w.u8(FAILED).u32(errno.number());
        }
        Ok(body) => {
            w.u8(SUCCEEDED);
            encode_body(&mut w, body);
        }
    }
    w.finish()
}

fn encode_body(w: &mut Writer, body: &Body) {
    let bit = |set: bool, bit: u8| if set { bit } else { 0 };
    w.u8(bit(body.attr.is_some(), ATTR)
        | bit(body.created, CREATED)
        | bit(body.grant.is_some(), GRANT)
        | bit(body.length != 0, LENGTH)
        | bit(!body.lost.is_empty(), LOST)
        | bit(body.grant.as_ref().is_some_and(|grant| grant.clip.is_some()), CLIP)
        | bit(!body.lost_chunks.is_empty(), LOST_CHUNKS)
        | bit(body.grant.as_ref().is_some_and(|grant| grant.unkept.0 != 0), UNKEPT));
    if let Some(attr) = &body.attr {
        encode_attr(w, attr);
    }
    if let Some(grant) = &body.grant {
        w.u8(grant.state as u8).u32(grant.index).u64(grant.chunk.0).u64(grant.version.0);
        w.u64(grant.grant.0).u64(grant.before.0);
        w.bool(grant.create).u64(grant.holders.len() as u64);
        for (server, incarnation) in &grant.holders {
            w.u64(server.0).u64(incarnation.0);
        }
        if let Some(clip) = grant.clip {
            w.u32(clip);
        }
        if grant.unkept.0 != 0 {
            w.u64(grant.unkept.0);
        }
    }
    if body.length != 0 {
        w.u64(body.length);
    }
    if !body.lost.is_empty() {
        w.u64(body.lost.len() as u64);
        for index in &body.lost {
            w.u32(*index);
        }
    }
    if !body.lost_chunks.is_empty() {
        w.u64(body.lost_chunks.len() as u64);
        for chunk in &body.lost_chunks {
            w.u64(chunk.0);
        }
    }
}

fn encode_attr(w: &mut Writer, attr: &Attr) {
    w.u64(attr.inode.0).u8(attr.kind as u8).u32(attr.mode).u32(attr.nlink).u32(attr.uid).u32(attr.gid).u32(attr.rdev);
    w.u64(attr.size).u64(attr.blocks).i64(attr.atime_ns).i64(attr.mtime_ns).i64(attr.ctime_ns);
    w.u64(attr.data_generation);
}

fn decode(row: &[u8]) -> Result<(Seq, ClientReply), Fatal> {
    let mut r = Reader::row(Table::Replies, row)?;
    let seq = Seq(r.u64()?);
    let outcome = match r.u8()? {
        n if n == Outcome::Executed as u8 => Outcome::Executed,
        n if n == Outcome::Cancelled as u8 => Outcome::Cancelled,
        n => return Err(r.corrupt(&format!("outcome {n} is never stored"))),
    };
    let result = match r.u8()? {
        FAILED => {
            let number = r.u32()?;
            Err(Errno::from_number(number).ok_or_else(|| r.corrupt(&format!("no errno {number}")))?)
        }
        SUCCEEDED => Ok(decode_body(&mut r)?),
        n => return Err(r.corrupt(&format!("no result {n}"))),
    };
    r.end()?;
    Ok((seq, ClientReply { outcome, result, from_table: true }))
}

fn decode_body(r: &mut Reader<'_>) -> Result<Body, Fatal> {
    let parts = r.u8()?;
    let mut body = Body { created: parts & CREATED != 0, ..Body::default() };
    if parts & ATTR != 0 {
        body.attr = Some(decode_attr(r)?);
    }
    if parts & GRANT != 0 {
        let mut grant = decode_grant(r)?;
        grant.clip = if parts & CLIP != 0 { Some(r.u32()?) } else { None };
        if parts & UNKEPT != 0 {
            grant.unkept = GrantId(r.u64()?);
        }
        body.grant = Some(grant);
    }
    if parts & LENGTH != 0 {
        body.length = r.u64()?;
    }
    if parts & LOST != 0 {
        for _ in 0..r.u64()? {
            body.lost.push(r.u32()?);
        }
    }
    if parts & LOST_CHUNKS != 0 {
        for _ in 0..r.u64()? {
            body.lost_chunks.push(ChunkId(r.u64()?));
        }
    }
    Ok(body)
}

fn decode_attr(r: &mut Reader<'_>) -> Result<Attr, Fatal> {
    let inode = InodeId(r.u64()?);
    let kind = r.u8()?;
    Ok(Attr {
        inode,
        kind: Kind::from_number(kind).ok_or_else(|| r.corrupt(&format!("no kind {kind}")))?,
        mode: r.u32()?,
        nlink: r.u32()?,
        uid: r.u32()?,
        gid: r.u32()?,
        rdev: r.u32()?,
        size: r.u64()?,
        blocks: r.u64()?,
        atime_ns: r.i64()?,
        mtime_ns: r.i64()?,
        ctime_ns: r.i64()?,
        data_generation: r.u64()?,
    })
}

fn decode_grant(r: &mut Reader<'_>) -> Result<GrantReply, Fatal> {
    use GrantState::*;
    let number = r.u8()?;
    let state = [Granted, Pending, Recalled, Restart, NoServers].into_iter().find(|s| *s as u8 == number);
    let mut grant = GrantReply {
        state: state.ok_or_else(|| r.corrupt(&format!("no grant state {number}")))?,
        index: r.u32()?,
        chunk: ChunkId(r.u64()?),
        version: ChunkVersion(r.u64()?),
        grant: GrantId(r.u64()?),
        before: GrantId(r.u64()?),
        create: r.bool()?,
        holders: Vec::new(),
        clip: None,
        unkept: GrantId(0),
    };
    for _ in 0..r.u64()? {
        grant.holders.push((ServerId(r.u64()?), Incarnation(r.u64()?)));
    }
    Ok(grant)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_body() -> Body {
        let attr = crate::fsm::tables::inodes::Inode::new(Kind::Regular, 0o644, 5).attr(InodeId(9));
        let holders = vec![(ServerId(1), Incarnation(2)), (ServerId(3), Incarnation(4))];
        let grant = GrantReply {
            state: GrantState::Granted,
            index: 1,
            chunk: ChunkId(2),
            version: ChunkVersion(3),
            grant: GrantId(4),
            create: true,
            holders,
            clip: None,
            before: GrantId(5),
            unkept: GrantId(0),
        };
        Body { attr: Some(attr), created: true, grant: Some(grant), length: 77, lost: vec![1, 2], ..Body::default() }
    }

    #[test]
    fn replies_come_back() {
        let executed = |result| ClientReply { outcome: Outcome::Executed, result, from_table: true };
        let mut clipped = full_body();
        clipped.grant.as_mut().unwrap().clip = Some(0);
        clipped.grant.as_mut().unwrap().unkept = GrantId(3);
        clipped.lost_chunks = vec![ChunkId(7), ChunkId(u64::MAX)];
        let replies = [
            executed(Ok(Body::default())),
            executed(Ok(full_body())),
            executed(Ok(clipped)),
            executed(Err(Errno::NotEmpty)),
            ClientReply { outcome: Outcome::Cancelled, result: Ok(Body::default()), from_table: true },
        ];
        for reply in replies {
            let row = encode(Seq(300), &reply);
            assert_eq!(decode(&row).unwrap(), (Seq(300), reply));
            for cut in 0..row.len() {
                assert!(decode(&row[..cut]).is_err(), "{cut} bytes of {row:?}");
            }
        }
    }
}
