//! Replicas that nobody counts on (R4, docs/adr/0009): what becomes garbage, and what each condition keeps.

use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, InodeId, ServerId, SessionId};

use super::world::{World, end, release};
use crate::fsm::command::{Command, IntentKind, RepairDone, StartIntent, StrayFound};
use crate::fsm::reply::{Effect, GrantState, Reply};
use crate::fsm::tables::garbage;
use crate::fsm::tables::memory::MemoryTables;

/// A replica of a version on a server, and the version of the chunk's row that it was compared with.
fn stray(server: u64, chunk: ChunkId, version: u64, row: Option<u64>) -> Command {
    let (server, version, row_version) = (ServerId(server), ChunkVersion(version), row.map(ChunkVersion));
    Command::StrayFound(StrayFound { server, chunk, version, row_version })
}

fn deletion(w: &World, server: u64, chunk: ChunkId) -> Option<u64> {
    garbage::get(&w.tables, ServerId(server), chunk).unwrap().map(|version| version.0)
}

/// A file of one chunk at rest on servers 1 and 2.
fn file(w: &mut World) -> (SessionId, InodeId, ChunkId) {
    let session = w.open(1);
    let (inode, chunk) = w.file(session, "f", 10);
    (session, inode, chunk)
}

/// A chunk that is gone, and whose deletions have been carried out.
fn gone(w: &mut World) -> ChunkId {
    let (session, inode, chunk) = file(w);
    w.truncate(session, inode, 0);
    for server in [1, 2] {
        w.apply(Command::GarbageDone { server: ServerId(server), chunks: vec![(chunk, ChunkVersion(1))] });
    }
    assert!(!w.exists(chunk) && deletion(w, 1, chunk).is_none());
    chunk
}

/// The record is refused, for this reason, and changes nothing.
#[track_caller]
fn is_kept(w: &mut World, record: &Command, reason: &str) {
    let before = w.tables.clone();
    assert!(matches!(w.apply(record.clone()), Reply::Refused(told) if told.contains(reason)), "{record:?}: {reason}");
    let deletions = |tables: &MemoryTables| -> Vec<_> {
        (0..=9).map(|server| garbage::page(tables, ServerId(server), None, 99).unwrap()).collect()
    };
    assert_eq!(deletions(&before), deletions(&w.tables));
}

#[test]
fn r4_what_an_old_disk_brings_back_of_a_chunk_that_is_gone_becomes_garbage() {
    let mut w = World::new(2);
    let chunk = gone(&mut w);
    assert_eq!(w.apply(stray(2, chunk, 1, None)), Reply::Done);
    assert_eq!((deletion(&w, 2, chunk), deletion(&w, 1, chunk)), (Some(1), None));
    assert!(w.effects.contains(&Effect::Garbage(ServerId(2))));
    is_kept(&mut w, &stray(2, chunk, 1, None), "committed already");
    // A join that was on its way has raised it.
    assert_eq!(w.apply(stray(2, chunk, 3, None)), Reply::Done);
    assert_eq!(deletion(&w, 2, chunk), Some(3));
}

#[test]
fn r4_what_a_join_has_left_becomes_garbage_at_the_rows_version() {
    let mut w = World::new(2);
    let (session, inode, chunk) = file(&mut w);
    let grant = w.take(session, inode, 0);
    w.report(session, inode, &grant);
    assert_eq!(w.ready(chunk, &[(1, 1, true), (2, 1, true)]), Reply::Done);
    assert_eq!(w.apply(stray(3, chunk, 1, Some(2))), Reply::Done);
    assert_eq!(deletion(&w, 3, chunk), Some(2), "it may have heard of that one meanwhile");
    let row = w.chunk(chunk);
    assert_eq!((row.version, row.replicas.len()), (ChunkVersion(2), 2), "the chunk is as it was");
    w.end(session, &[release(chunk, 0)]);
    assert_eq!(w.take(session, inode, 0).state, GrantState::Granted, "and is written as before");
}

/// Its deletion names an older version than the server has heard of, and is refused there.
#[test]
fn r4_a_deletion_that_the_server_refuses_is_raised() {
    let mut w = World::new(2);
    let (session, inode, chunk) = file(&mut w);
    let breaks = |w: &mut World, holders: &[(u64, u64, bool)]| {
        let grant = w.take(session, inode, 0);
        w.report(session, inode, &grant);
        assert_eq!(w.ready(chunk, holders), Reply::Done);
        w.end(session, &[release(chunk, 0)]);
    };
    breaks(&mut w, &[(1, 1, true), (3, 1, false)]);
    breaks(&mut w, &[(1, 1, true), (3, 1, false)]);
    assert_eq!((deletion(&w, 2, chunk), w.chunk(chunk).version), (Some(2), ChunkVersion(3)));
    assert_eq!(w.apply(stray(2, chunk, 3, Some(3))), Reply::Done);
    assert_eq!(deletion(&w, 2, chunk), Some(3));
}

#[test]
fn f1_ids_that_were_not_given_in_this_generation_are_kept() {
    let mut w = World::new(2);
    let last = gone(&mut w);
    let next = ChunkId(last.0 + 1);
    for unknown in [ChunkId(0), ChunkId(7), ChunkId::new(1, 0), next, ChunkId::new(2, 1), ChunkId(u64::MAX)] {
        is_kept(&mut w, &stray(2, unknown, 1, None), "was given this id");
    }
    // Given meanwhile: it has a row.
    let session = w.open(2);
    let (_, chunk) = w.file(session, "g", 10);
    assert_eq!(chunk, next);
    is_kept(&mut w, &stray(3, next, 1, None), "the version has moved");
}

#[test]
fn f1_a_replica_that_is_newer_than_the_metadata_is_kept() {
    let mut w = World::new(2);
    let (_, _, chunk) = file(&mut w);
    is_kept(&mut w, &stray(3, chunk, 2, Some(1)), "newer than the metadata");
    is_kept(&mut w, &stray(9, chunk, 1, Some(1)), "the server is not known");
}

#[test]
fn r4_a_holder_keeps_its_replica() {
    let mut w = World::new(2);
    let (_, _, chunk) = file(&mut w);
    is_kept(&mut w, &stray(1, chunk, 1, Some(1)), "the server is a holder");
    // Decided before the copy was named.
    w.down(2, 1);
    assert_eq!(w.repair(chunk, 3, Some(2)), Reply::Done);
    is_kept(&mut w, &stray(3, chunk, 1, Some(1)), "the server is a holder");
}

#[test]
fn r4_what_is_at_work_is_kept() {
    let mut w = World::new(2);
    let session = w.open(1);
    let (inode, new) = w.create(session, "f", &[1, 2]);
    let new = new.unwrap();
    is_kept(&mut w, &stray(3, new.chunk, 1, Some(1)), "at work");
    w.write_end(session, inode, 10, &[end(&new)]).unwrap();
    let grant = w.take(session, inode, 0);
    is_kept(&mut w, &stray(3, new.chunk, 1, Some(1)), "at work");
    w.report(session, inode, &grant);
    // A recovery may join it.
    is_kept(&mut w, &stray(3, new.chunk, 1, Some(1)), "at work");
    assert_eq!(w.ready(new.chunk, &[(1, 1, true), (3, 1, false)]), Reply::Done);
    is_kept(&mut w, &stray(3, new.chunk, 1, Some(1)), "the version has moved");
    is_kept(&mut w, &stray(3, new.chunk, 1, Some(2)), "the server is a holder");
}

#[test]
fn s6_the_row_is_the_one_that_it_was_decided_from() {
    let mut w = World::new(2);
    let (session, inode, chunk) = file(&mut w);
    is_kept(&mut w, &stray(3, chunk, 1, None), "the version has moved");
    is_kept(&mut w, &stray(3, chunk, 1, Some(2)), "the version has moved");
    let kind = IntentKind::Recover;
    w.apply(Command::StartIntent(StartIntent { chunk, version: ChunkVersion(1), grant: None, kind }));
    w.ready(chunk, &[(1, 1, true), (2, 1, true)]);
    is_kept(&mut w, &stray(3, chunk, 1, Some(1)), "the version has moved");
    w.truncate(session, inode, 0);
    is_kept(&mut w, &stray(3, chunk, 1, Some(2)), "the version has moved");
    assert_eq!(w.apply(stray(3, chunk, 1, None)), Reply::Done);
}

/// R2: the copy was under way when its server's replica became garbage; the Delete may hit it at any time.
#[test]
fn r2_a_copy_that_is_to_be_deleted_is_not_named() {
    let mut w = World::new(2);
    let (_, _, chunk) = file(&mut w);
    let row = w.chunk(chunk);
    w.apply(Command::ReplicaLost { chunk, version: ChunkVersion(1), server: ServerId(2) });
    assert_eq!(w.ready(chunk, &[(1, 1, true)]), Reply::Done);
    assert_eq!(w.apply(stray(3, chunk, 2, Some(2))), Reply::Done);
    let done = Command::RepairDone(RepairDone {
        chunk,
        version: ChunkVersion(2),
        last_grant: Some(row.last_grant),
        server: ServerId(3),
        incarnation: Incarnation(1),
        replaces: None,
    });
    assert_eq!(w.apply(done.clone()), Reply::Refused("the copy is to be deleted"));
    w.apply(Command::GarbageDone { server: ServerId(3), chunks: vec![(chunk, ChunkVersion(2))] });
    assert_eq!(w.apply(done), Reply::Done, "what is there now was made after the Delete");
    is_kept(&mut w, &stray(3, chunk, 2, Some(2)), "the server is a holder");
}

/// V6: neither does a recovery name what it has joined beside a deletion.
#[test]
fn v6_a_replica_that_is_to_be_deleted_is_not_joined() {
    let mut w = World::new(2);
    let (session, inode, chunk) = file(&mut w);
    assert_eq!(w.apply(stray(3, chunk, 1, Some(1))), Reply::Done);
    let grant = w.take(session, inode, 0);
    assert_eq!(grant.state, GrantState::Granted);
    w.report(session, inode, &grant);
    assert_eq!(w.chunk(chunk).intent.unwrap().version, ChunkVersion(2));
    // The leader passes it by. What it has under version 1 the Delete takes, what is joined at 2 it refuses.
    assert_eq!(w.ready(chunk, &[(1, 1, true), (3, 1, false)]), Reply::Done);
    assert_eq!(deletion(&w, 3, chunk), None);
}
