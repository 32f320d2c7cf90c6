//! Inline data (I1–I5) as small stories.

use caribou_proto::ids::{CHUNK_BYTES, InodeId, MAX_INLINE_BYTES, ROOT_INODE};

use super::world::{World, end, written};
use crate::fsm::command::{ClientOp, Command, InlineWrite, SetAttr, SetTime, WriteAndSet, WriteEnd, WrittenChunk};
use crate::fsm::error::Errno;
use crate::fsm::reply::{GrantState, Reply};
use crate::fsm::tables::{Table, Tables, Visit, inodes};

/// A write-end that carries these bytes of the file's start.
fn carrying(inode: InodeId, bytes: &[u8]) -> WriteEnd {
    let inline = vec![InlineWrite { offset: 0, data: bytes.to_vec() }];
    WriteEnd { inode, length: bytes.len() as u64, inline, ..WriteEnd::default() }
}

fn generation(w: &World, inode: InodeId) -> u64 {
    inodes::get(&w.tables, inode).unwrap().unwrap().data_generation
}

fn rows(w: &World) -> usize {
    let mut count = 0;
    let visit = &mut |_: &[u8], _: &[u8]| {
        count += 1;
        Visit::Next
    };
    w.tables.scan(Table::Inline, &[], visit).unwrap();
    count
}

#[test]
fn i2_writes_lie_over_each_other_and_gaps_are_zeros() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, _) = w.create(a, "f", &[]);
    let body = w.write_inline(a, inode, 0, b"abcdef").unwrap();
    assert_eq!((body.length, body.lost.len()), (6, 0));
    // Whoever comes last in the log has the byte, whatever session it is.
    assert_eq!(w.write_inline(b, inode, 2, b"XY").unwrap().length, 6);
    assert_eq!(w.write_inline(a, inode, 8, b"z").unwrap().length, 9);
    assert_eq!(w.inline(inode).unwrap(), b"abXYef\0\0z");
    assert_eq!(generation(&w, inode), 4, "each is a change of content");
}

#[test]
fn i2_a_late_write_takes_nothing_back() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, _) = w.create(a, "f", &[]);
    let late = WriteEnd { data_generation: generation(&w, inode), ..carrying(inode, b"old") };
    w.write_inline(a, inode, 0, b"new").unwrap();
    let body = w.client(a, ClientOp::WriteEnd(late.clone())).unwrap();
    assert_eq!((body.lost, body.attr.unwrap().data_generation), (vec![0], 2), "and says what it is now");
    assert_eq!(w.inline(inode).unwrap(), b"new");
    w.truncate(b, inode, 0);
    assert_eq!(w.client(a, ClientOp::WriteEnd(late)).unwrap().lost, [0]);
    assert_eq!((w.inline(inode), inodes::get(&w.tables, inode).unwrap().unwrap().size), (None, 0));
}

#[test]
fn i2_refused_where_there_is_a_first_chunk_and_beyond_what_is_allowed() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (chunked, _) = w.file(a, "chunked", 100);
    let body = w.write_inline(a, chunked, 100, b"x").unwrap();
    assert_eq!((body.length, body.lost), (100, vec![0]), "neither bytes nor length count");
    let (granted, grant) = w.create(a, "granted", &[1, 2]);
    assert_eq!(w.write_inline(a, granted, 0, b"x").unwrap().lost, [0], "a grant is live");
    w.end(a, &[end(&grant.unwrap())]);
    assert_eq!(w.write_inline(a, granted, 0, b"x").unwrap().lost, [], "W2: and now there is none");
    let (long, _) = w.create(a, "long", &[]);
    let bytes = vec![1; MAX_INLINE_BYTES as usize];
    assert_eq!(w.write_inline(a, long, 1, &bytes).unwrap().lost, [0]);
    assert_eq!(w.write_inline(a, long, 0, &bytes).unwrap().length, u64::from(MAX_INLINE_BYTES));
    // Bytes beyond the length that comes with them.
    let (short, _) = w.create(a, "short", &[]);
    let told = WriteEnd { length: 5, data_generation: generation(&w, short), ..carrying(short, b"0123456789") };
    let body = w.client(a, ClientOp::WriteEnd(told)).unwrap();
    assert_eq!((body.lost, body.length), (vec![0], 0));
    assert_eq!(rows(&w), 2);
}

#[test]
fn i3_the_first_write_end_of_the_chunk_takes_the_place_of_inline_data() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, _) = w.create(a, "f", &[]);
    w.write_inline(a, inode, 0, b"abcdef").unwrap();
    let grant = w.take(b, inode, 0);
    assert_eq!((grant.state, grant.create), (GrantState::Granted, true));
    assert_eq!(w.inline(inode).unwrap(), b"abcdef", "I4: until then readers have it");
    assert_eq!(w.write_inline(a, inode, 0, b"late").unwrap().lost, [0], "nothing changes it meanwhile");
    // Who has not taken it along would lose it.
    let body = w.write_end(b, inode, 100, &[written(&grant)]).unwrap();
    assert_eq!((body.length, body.lost), (6, vec![0]));
    let moved = WrittenChunk { inline_bytes: 6, ..written(&grant) };
    let body = w.write_end(b, inode, 100, &[moved]).unwrap();
    assert_eq!((body.length, body.lost.len(), w.inline(inode)), (100, 0, None));
    assert!(!w.chunk(grant.chunk).new);
    let body = w.write_end(b, inode, 200, &[written(&grant)]).unwrap();
    assert_eq!((body.length, body.lost.len()), (200, 0), "only the first one says it");
}

#[test]
fn i3_a_grant_that_ends_before_leaves_inline_data_as_they_are() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, _) = w.create(a, "f", &[]);
    w.write_inline(a, inode, 0, b"abcdef").unwrap();
    let grant = w.take(a, inode, 0);
    assert_eq!(w.report(a, inode, &grant), GrantState::Restart);
    let grant = w.take(b, inode, 0);
    w.expire(b);
    assert!(!w.exists(grant.chunk));
    assert_eq!(w.inline(inode).unwrap(), b"abcdef");
    assert_eq!(w.write_inline(a, inode, 6, b"gh").unwrap().lost, []);
    assert_eq!(w.inline(inode).unwrap(), b"abcdefgh");
}

#[test]
fn i5_cuts_and_purges_take_inline_data_along() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, _) = w.create(a, "f", &[]);
    w.write_inline(a, inode, 0, b"abcdef").unwrap();
    w.truncate(a, inode, CHUNK_BYTES * 3);
    assert_eq!(w.inline(inode).unwrap(), b"abcdef", "what is behind it is a hole");
    w.truncate(a, inode, 4);
    assert_eq!(w.inline(inode).unwrap(), b"abcd");
    // A cut ends the grant under which the data were about to move (W9).
    let grant = w.take(a, inode, 0);
    w.truncate(a, inode, 2);
    let moved = WrittenChunk { inline_bytes: 2, ..written(&grant) };
    assert_eq!(w.write_end(a, inode, 10, &[moved]).unwrap().lost, [0]);
    assert_eq!(w.inline(inode).unwrap(), b"ab");
    w.truncate(a, inode, 0);
    assert_eq!(w.inline(inode), None);
    w.write_inline(a, inode, 0, b"again").unwrap();
    w.client(a, ClientOp::Unlink { parent: ROOT_INODE, name: b"f".to_vec() }).unwrap();
    assert_eq!(w.write_inline(a, inode, 0, b"orphan").unwrap().length, 6, "whoever has it open may write");
    assert_eq!(w.apply(Command::PurgeOrphans { inodes: vec![inode] }), Reply::Progress { finished: true });
    assert_eq!(rows(&w), 0);
    assert_eq!(w.write_inline(a, inode, 0, b"gone"), Err(Errno::Stale));
}

#[test]
fn a_write_and_a_change_of_attributes_are_one_record() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, _) = w.create(a, "f", &[]);
    let write = WriteEnd { mtime_ns: 5, data_generation: generation(&w, inode), ..carrying(inode, b"abc") };
    let set = SetAttr { inode, mode: Some(0o600), atime: Some(SetTime::At(9)), ..SetAttr::default() };
    let both =
        |write: &WriteEnd, set: &SetAttr| ClientOp::WriteAndSet(WriteAndSet { write: write.clone(), set: set.clone() });
    let body = w.client(a, both(&write, &set)).unwrap();
    let attr = body.attr.unwrap();
    assert_eq!((attr.size, attr.mode, attr.mtime_ns, attr.atime_ns), (3, 0o600, 5, 9));
    assert_eq!((body.length, body.lost.len(), w.inline(inode).unwrap()), (3, 0, b"abc".to_vec()));
    // An error of the second undoes the first.
    let longer = WriteEnd { data_generation: generation(&w, inode), ..carrying(inode, b"wxyz") };
    assert_eq!(w.client(a, both(&longer, &SetAttr { size: Some(1), ..set.clone() })), Err(Errno::Inval));
    assert_eq!(w.client(a, both(&longer, &SetAttr { inode: ROOT_INODE, ..set.clone() })), Err(Errno::Inval));
    assert_eq!(w.inline(inode).unwrap(), b"abc");
    // A lost grant does not hinder the change.
    let grant = w.take(a, inode, 0);
    let body = w.client(a, both(&longer, &SetAttr { mode: Some(0o640), ..set })).unwrap();
    assert_eq!((body.attr.unwrap().mode, body.length, body.lost), (0o640, 3, vec![0]));
    assert!(w.exists(grant.chunk));
}

#[test]
fn w9_a_write_end_may_carry_bytes_and_name_chunks() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, _) = w.create(a, "f", &[]);
    let far = w.take(a, inode, 1);
    let inline = vec![InlineWrite { offset: 3, data: b"near".to_vec() }];
    let chunks = vec![written(&far)];
    let told = WriteEnd { inode, length: CHUNK_BYTES + 9, chunks, inline, data_generation: 1, ..WriteEnd::default() };
    let body = w.client(a, ClientOp::WriteEnd(told.clone())).unwrap();
    assert_eq!((body.length, body.lost.len()), (CHUNK_BYTES + 9, 0));
    assert_eq!(w.inline(inode).unwrap(), b"\0\0\0near");
    // The far chunk's grant is lost, so the length does not count; the near bytes lie within the old one.
    w.end(a, &[end(&far)]);
    let inline = vec![InlineWrite { offset: 3, data: b"NEAR".to_vec() }];
    let told = WriteEnd { length: 2 * CHUNK_BYTES, data_generation: 2, inline, ..told };
    let body = w.client(a, ClientOp::WriteEnd(told)).unwrap();
    assert_eq!((body.length, body.lost), (CHUNK_BYTES + 9, vec![1]));
    assert_eq!(w.inline(inode).unwrap(), b"\0\0\0NEAR");
}
