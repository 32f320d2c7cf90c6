//! Each rule of writing, recovery and repair as a small story.

use caribou_proto::ids::{CHUNK_BYTES, ChunkVersion, GrantId, Incarnation, ServerId};

use super::world::{World, end, release, written};
use crate::fsm::command::{ClientOp, Command, IntentKind, StartIntent, TakeGrant, WrittenChunk};
use crate::fsm::error::Errno;
use crate::fsm::read::chunks::{ChunkState, growth_waits_for, is_grantable, is_readable, locate, space};
use crate::fsm::reply::{Effect, GrantState, Reply};
use crate::fsm::tables::chunks::Replica;
use crate::fsm::tables::file_chunks::MAX_FILE_CHUNKS;
use crate::fsm::tables::{garbage, inodes, servers};

fn refused(reply: &Reply) -> bool {
    matches!(reply, Reply::Refused(_))
}

#[test]
fn w1_w2_a_new_chunk_is_a_hole_until_its_first_write_end() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, grant) = w.create(a, "f", &[3, 1]);
    let grant = grant.unwrap();
    assert_eq!((grant.state, grant.create, grant.version), (GrantState::Granted, true, ChunkVersion(1)));
    assert_eq!(grant.holders, [(ServerId(3), Incarnation(1)), (ServerId(1), Incarnation(1))]);
    let place = &locate(&w.tables, b, inode, 0, 2).unwrap()[0];
    assert_eq!((place.state, place.holders.len(), place.granted), (ChunkState::Hole, 0, true));
    let body = w.write_end(a, inode, 5, &[written(&grant)]).unwrap();
    assert_eq!((body.length, body.lost.len()), (5, 0));
    let places = locate(&w.tables, b, inode, 0, 2).unwrap();
    assert_eq!((places[0].state, places[0].holders.len(), places[0].goal), (ChunkState::Ready, 2, 2));
    assert_eq!(places[1].state, ChunkState::Hole);
    assert_eq!(w.take(a, inode, 0).grant, grant.grant, "the own grant again");
    assert!(!w.take(a, inode, 0).create);
}

#[test]
fn w2_a_new_chunk_that_breaks_or_ends_goes_to_garbage() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, grant) = w.create(a, "f", &[1, 2]);
    let grant = grant.unwrap();
    assert_eq!(w.report(a, inode, &grant), GrantState::Restart);
    assert!(!w.exists(grant.chunk));
    assert_eq!(garbage::get(&w.tables, ServerId(1), grant.chunk).unwrap(), Some(ChunkVersion(1)));
    assert_eq!(w.report(a, inode, &grant), GrantState::Restart, "a late report");
    let second = w.take(a, inode, 0);
    assert!(second.create && second.chunk != grant.chunk && second.grant > grant.grant);
    assert_eq!(w.end(a, &[end(&second)]), [], "an end without a write-end");
    assert!(!w.exists(second.chunk));
    let third = w.take(a, inode, 0);
    w.expire(a);
    assert!(!w.exists(third.chunk));
}

#[test]
fn v6_too_few_servers_are_told() {
    let mut w = World::new(3);
    let a = w.open(1);
    let (inode, grant) = w.create(a, "f", &[1]);
    assert_eq!(grant.unwrap().state, GrantState::NoServers);
    w.down(1, 1);
    let take = TakeGrant { inode, index: 0, placement: vec![ServerId(1), ServerId(2), ServerId(2), ServerId(3)] };
    let grant = w.client(a, ClientOp::TakeGrant(take)).unwrap().grant.unwrap();
    assert_eq!(
        grant.holders.iter().map(|h| h.0.0).collect::<Vec<_>>(),
        [2, 3],
        "each once, and only those that are up"
    );
}

#[test]
fn take_grant_wants_a_regular_file_within_the_limit() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, _) = w.create(a, "f", &[]);
    let take = |inode, index| ClientOp::TakeGrant(TakeGrant { inode, index, placement: vec![ServerId(1)] });
    assert_eq!(w.client(a, take(caribou_proto::ids::ROOT_INODE, 0)).unwrap_err(), Errno::IsDir);
    assert_eq!(w.client(a, take(caribou_proto::ids::InodeId(999), 0)).unwrap_err(), Errno::Stale);
    assert_eq!(w.client(a, take(inode, MAX_FILE_CHUNKS)).unwrap_err(), Errno::FileTooBig);
}

#[test]
fn w8_a_foreign_grant_is_recalled_and_ends_cleanly() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, chunk) = w.file(a, "f", 10);
    let grant = w.take(a, inode, 0);
    assert_eq!(grant.version, ChunkVersion(1), "W7: a clean end leaves the version");
    assert_eq!(w.take(b, inode, 0).state, GrantState::Recalled);
    let recall = Effect::RecallGrant { session: a, inode, index: 0, chunk, grant: grant.grant };
    assert!(w.effects.contains(&recall));
    assert_eq!(w.take(b, inode, 0).state, GrantState::Recalled);
    assert!(w.effects.contains(&recall), "told again");
    assert!(!is_grantable(&w.tables, b, inode, 0).unwrap());
    assert_eq!(w.end(a, &[end(&grant)]), []);
    assert!(is_grantable(&w.tables, b, inode, 0).unwrap());
    assert_eq!(w.take(b, inode, 0).state, GrantState::Granted);
    assert_eq!(w.end(a, &[end(&grant)]), [0], "the old grant is lost");
}

#[test]
fn w8_a_recall_unanswered_ends_the_grant_and_starts_a_recovery() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, chunk) = w.file(a, "f", 10);
    let grant = w.take(a, inode, 0);
    w.take(b, inode, 0);
    let start = |grant, version| {
        Command::StartIntent(StartIntent { chunk, version: ChunkVersion(version), grant, kind: IntentKind::Recover })
    };
    assert!(refused(&w.apply(start(None, 1))), "S6: decided from another state");
    assert!(refused(&w.apply(start(Some(grant.grant), 2))));
    assert_eq!(w.apply(start(Some(grant.grant), 1)), Reply::Done);
    assert!(w.effects.contains(&Effect::IntentStarted(chunk)));
    let intent = w.chunk(chunk).intent.unwrap();
    assert_eq!((intent.version, intent.cut), (ChunkVersion(2), 10), "cut at the committed length");
    assert!(refused(&w.apply(start(Some(grant.grant), 1))));
    assert_eq!(w.apply(start(None, 2)), Reply::Done, "a later round raises it");
    assert_eq!(w.chunk(chunk).intent.unwrap().version, ChunkVersion(3));
}

#[test]
fn w4_w5_a_broken_stream_keeps_other_writers_off_until_the_resend() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, chunk) = w.file(a, "f", 10);
    let grant = w.take(a, inode, 0);
    assert_eq!(w.report(a, inode, &grant), GrantState::Pending);
    assert_eq!(w.take(a, inode, 0).state, GrantState::Pending);
    assert_eq!(locate(&w.tables, b, inode, 0, 1).unwrap()[0].state, ChunkState::InRecovery);
    assert_eq!(w.report(a, inode, &grant), GrantState::Pending, "a late report changes nothing");
    assert_eq!(w.chunk(chunk).intent.unwrap().version, ChunkVersion(2));
    assert_eq!(w.ready(chunk, &[(1, 1, true), (2, 1, false)]), Reply::Done);
    assert!(is_readable(&w.tables, b, inode, 0).unwrap(), "a source stayed up");
    assert_eq!(w.take(b, inode, 0).state, GrantState::Pending, "older bytes must not come after newer ones");
    let again = w.take(a, inode, 0);
    assert_eq!((again.state, again.version), (GrantState::Granted, ChunkVersion(2)));
    assert!(again.grant > grant.grant, "F3");
    assert_eq!(w.write_end(a, inode, 20, &[written(&grant)]).unwrap().lost, [0], "W9: the old grant");
    let resent = WrittenChunk { resent: true, end: true, ..written(&again) };
    assert_eq!(w.write_end(a, inode, 20, &[resent]).unwrap().length, 20);
    assert_eq!(w.take(b, inode, 0).state, GrantState::Granted);
}

#[test]
fn w5_without_a_source_that_stayed_up_nobody_else_reads_before_the_resend() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, chunk) = w.file(a, "f", 10);
    let grant = w.take(a, inode, 0);
    w.report(a, inode, &grant);
    // Clean, but restarted since the grant.
    assert!(refused(&w.ready(chunk, &[(1, 2, true), (2, 1, false)])), "F3: it has not registered so");
    w.register(1, 2);
    assert_eq!(w.ready(chunk, &[(1, 2, true), (2, 1, false)]), Reply::Done);
    assert_eq!(locate(&w.tables, b, inode, 0, 1).unwrap()[0].state, ChunkState::Held);
    assert_eq!(locate(&w.tables, a, inode, 0, 1).unwrap()[0].state, ChunkState::Ready);
    assert!(!is_readable(&w.tables, b, inode, 0).unwrap());
    // A second accident before the resend: the hold stays, whatever the next Ready says.
    let again = w.take(a, inode, 0);
    w.report(a, inode, &again);
    assert_eq!(w.ready(chunk, &[(1, 2, true), (2, 1, true)]), Reply::Done);
    assert_eq!(locate(&w.tables, b, inode, 0, 1).unwrap()[0].state, ChunkState::Held);
    assert_eq!(w.end(b, &[release(chunk, 0)]), [0], "another session's hold");
    let third = w.take(a, inode, 0);
    w.report(a, inode, &third);
    assert_eq!(w.end(a, &[release(chunk, 0)]), [0], "not before the Ready");
    assert_eq!(w.ready(chunk, &[(1, 2, true), (2, 1, true)]), Reply::Done);
    assert_eq!(w.end(a, &[release(chunk, 0)]), []);
    assert_eq!(locate(&w.tables, b, inode, 0, 1).unwrap()[0].state, ChunkState::Ready);
}

#[test]
fn w5_the_end_of_the_session_lifts_its_holds() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, chunk) = w.file(a, "f", 10);
    let grant = w.take(a, inode, 0);
    w.report(a, inode, &grant);
    w.expire(a);
    assert_eq!(w.ready(chunk, &[(1, 1, false), (2, 1, false)]), Reply::Done);
    assert_eq!(w.chunk(chunk).hold, None);
    assert_eq!(w.take(b, inode, 0).state, GrantState::Granted);
}

#[test]
fn w5_a_grant_names_the_one_before_it_and_the_last_that_was_not_kept() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, chunk) = w.file(a, "f", 10);
    let created = w.chunk(chunk).last_grant;
    let first = w.take(a, inode, 0);
    assert_eq!((first.before, first.unkept), (created, GrantId(0)));
    assert_eq!(w.take(a, inode, 0).before, first.grant, "asked again: not known any more");
    w.expire(a);
    assert_eq!(w.ready(chunk, &[(1, 1, false), (2, 1, true)]), Reply::Done);
    let kept = w.take(b, inode, 0);
    assert_eq!((kept.before, kept.unkept), (first.grant, GrantId(0)), "a source had stayed up");
    w.expire(b);
    w.register(1, 2);
    assert_eq!(w.ready(chunk, &[(1, 2, true), (2, 1, false)]), Reply::Done, "the only source has restarted");
    let a = w.open(3);
    let lost = w.take(a, inode, 0);
    assert_eq!((lost.before, lost.unkept), (kept.grant, kept.grant));
    // The same over several Intents, and if the session ends within.
    w.report(a, inode, &lost);
    let other = w.open(4);
    w.truncate(other, inode, 5);
    let cut = w.chunk(chunk).last_grant;
    assert!(cut > lost.grant, "P2: the cut counts like a grant of somebody else");
    w.expire(a);
    assert_eq!(w.ready(chunk, &[(1, 2, false), (2, 1, false)]), Reply::Done);
    let c = w.open(5);
    let next = w.take(c, inode, 0);
    assert_eq!((next.before, next.unkept), (cut, cut));
    w.end(c, &[end(&next)]);
    w.register(1, 3);
    assert_eq!(w.take(c, inode, 0).state, GrantState::Pending, "W7");
    assert_eq!(w.ready(chunk, &[(1, 3, false), (2, 1, false)]), Reply::Done);
    let last = w.take(c, inode, 0);
    assert_eq!((last.before, last.unkept), (next.grant, cut), "W7: a clean end leaves nothing that could be lost");
    // While its session lives, a writer resends.
    w.report(c, inode, &last);
    w.register(2, 2);
    assert_eq!(w.ready(chunk, &[(1, 3, false), (2, 2, true)]), Reply::Done);
    let resends = w.take(c, inode, 0);
    assert_eq!((resends.before, resends.unkept), (last.grant, cut));
    w.truncate(c, inode, 2);
    assert_eq!(w.chunk(chunk).last_grant, resends.grant, "its own cut");
    w.expire(c);
    assert_eq!(w.chunk(chunk).unkept, Some(resends.grant), "it has not");
}

#[test]
fn s4_expiry_fences_every_grant_in_bounded_steps() {
    let mut w = World::new(2);
    let a = w.open(1);
    let files: Vec<_> = (0..70).map(|n| w.file(a, &format!("f{n}"), 10)).collect();
    for (inode, _) in &files {
        w.take(a, *inode, 0);
    }
    w.expire(a);
    for (_, chunk) in files {
        let row = w.chunk(chunk);
        assert_eq!((row.grant, row.hold), (None, None));
        let intent = row.intent.unwrap();
        assert_eq!((intent.kind, intent.version), (IntentKind::Recover, ChunkVersion(2)));
    }
}

#[test]
fn w9_a_length_counts_only_with_the_grant_of_its_last_byte() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, first) = w.create(a, "f", &[1, 2]);
    let first = first.unwrap();
    let second = w.take(a, inode, 1);
    let lost = WrittenChunk { grant: GrantId(1), ..end(&second) };
    let body = w.write_end(a, inode, CHUNK_BYTES + 7, &[end(&first), lost]).unwrap();
    assert_eq!(body.length, 0, "the last byte's grant is not the current one");
    assert_eq!(body.lost, [0, 1], "and an end without its length is none");
    assert!(w.chunk(first.chunk).grant.is_some());
    let body = w.write_end(a, inode, CHUNK_BYTES + 7, &[end(&first), end(&second)]).unwrap();
    assert_eq!((body.length, body.lost.len()), (CHUNK_BYTES + 7, 0));
    let body = w.write_end(a, inode, 5, &[]).unwrap();
    assert_eq!(body.length, CHUNK_BYTES + 7, "max(old, end)");
}

// M13: the service waits before it proposes, and the record looks again.
#[test]
fn m13_no_length_grows_over_an_open_intent() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, first) = w.file(a, "f", CHUNK_BYTES);
    let second = w.take(a, inode, 1);
    w.write_end(a, inode, CHUNK_BYTES + 10, &[written(&second)]).unwrap();
    let own = w.take(a, inode, 0);
    w.truncate(b, inode, 100);
    let second = w.take(a, inode, 1);
    let before = w.chunk(first);
    // Its own chunk is granted, the one that the growth begins in is not ready.
    let grown = w.write_end(a, inode, CHUNK_BYTES + 5, &[written(&second)]);
    assert_eq!(grown.map(|body| body.length), Err(Errno::Again));
    assert!(w.chunk(second.chunk).new, "nothing took effect");
    assert_eq!((w.chunk(first), own.chunk), (before, first));
    let told = w.write_end(a, inode, 0, &[written(&second)]).unwrap();
    assert!(told.lost.is_empty(), "no growth, nothing to wait for");
    // An Intent beyond the chunk of the old end counts, as far as the growth goes over it.
    w.ready(first, &[(1, 1, true), (2, 1, true)]);
    w.report(a, inode, &second);
    assert_eq!(growth_waits_for(&w.tables, inode, CHUNK_BYTES + 1).unwrap(), Some(second.chunk));
    assert_eq!(growth_waits_for(&w.tables, inode, CHUNK_BYTES).unwrap(), None);
    assert_eq!(w.set_size(b, inode, CHUNK_BYTES + 1), Err(Errno::Again));
    assert_eq!(w.set_size(b, inode, CHUNK_BYTES), Ok(()));
    w.ready(second.chunk, &[(1, 1, true), (2, 1, true)]);
    assert_eq!(w.set_size(b, inode, CHUNK_BYTES + 1), Ok(()));
}

#[test]
fn w9_truncation_ends_grants_cuts_and_discards() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, chunk) = w.file(a, "f", CHUNK_BYTES);
    let second = w.take(a, inode, 1);
    w.write_end(a, inode, 2 * CHUNK_BYTES, &[written(&second)]).unwrap();
    let third = w.take(a, inode, 2);
    let own = w.take(a, inode, 0);
    w.truncate(b, inode, 100);
    assert!(!w.exists(second.chunk) && !w.exists(third.chunk), "beyond the cut, granted or new");
    let row = w.chunk(chunk);
    let intent = row.intent.unwrap();
    assert_eq!((row.grant, intent.kind, intent.cut), (None, IntentKind::Cut, 100));
    assert_eq!(row.hold.map(|h| (h.session, h.clip)), Some((a, 100)));
    assert_eq!(w.write_end(a, inode, CHUNK_BYTES, &[end(&own)]).unwrap().length, 100);
    assert_eq!(growth_waits_for(&w.tables, inode, 101).unwrap(), Some(chunk), "M13");
    assert_eq!(growth_waits_for(&w.tables, inode, 100).unwrap(), None);
    assert_eq!(w.set_size(b, inode, 1 << 30), Err(Errno::Again), "M13");
    assert_eq!(inodes::get(&w.tables, inode).unwrap().unwrap().size, 100);
    w.truncate(b, inode, 50);
    let intent = w.chunk(chunk).intent.unwrap();
    assert_eq!((intent.version, intent.cut), (ChunkVersion(3), 50));
    assert!(intent.ended.is_some(), "kept over several Intents");
    w.truncate(b, inode, 0);
    assert!(!w.exists(chunk));
    assert_eq!(
        garbage::get(&w.tables, ServerId(1), chunk).unwrap(),
        Some(ChunkVersion(3)),
        "what a server may have heard of"
    );
    assert_eq!(inodes::get(&w.tables, inode).unwrap().unwrap().size, 0);
}

#[test]
fn m12_the_lowest_cut_comes_with_the_next_grant_until_a_write_end_names_it() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (inode, chunk) = w.file(a, "f", 1000);
    let place = |w: &World, session| locate(&w.tables, session, inode, 0, 1).unwrap()[0].clip;
    assert_eq!(w.take(a, inode, 0).clip, None);
    for size in [200, 150] {
        w.truncate(b, inode, size + 100);
        w.ready(chunk, &[(1, 1, true), (2, 1, true)]);
        w.truncate(b, inode, size);
        assert_eq!(w.ready(chunk, &[(1, 1, true), (2, 1, true)]), Reply::Done);
        w.truncate(b, inode, 1000);
    }
    assert_eq!((place(&w, a), place(&w, b)), (Some(150), None), "only its writer has bytes to drop");
    let grant = w.take(a, inode, 0);
    assert_eq!(grant.clip, Some(150));
    assert_eq!(w.take(a, inode, 0).clip, Some(150), "asked again: the first answer may never have come");
    // The same if the grant ends before a write-end has shown that its owner knows of it.
    w.report(a, inode, &grant);
    w.ready(chunk, &[(1, 1, false), (2, 1, false)]);
    let grant = w.take(a, inode, 0);
    assert_eq!(grant.clip, Some(150));
    // What is told from here on was written after the cut.
    assert!(w.write_end(a, inode, 0, &[written(&grant)]).unwrap().lost.is_empty());
    assert!(w.chunk(chunk).hold.is_some(), "not resent yet");
    w.report(a, inode, &grant);
    w.ready(chunk, &[(1, 1, false), (2, 1, false)]);
    assert_eq!(w.take(a, inode, 0).clip, None);
}

#[test]
fn f3_an_older_incarnation_is_refused_in_words() {
    let mut w = World::new(2);
    let registered = Reply::ServerRegistered { server: ServerId(1) };
    assert_eq!(w.register(1, 5), registered);
    assert_eq!(w.register(1, 5), registered, "the same start on a new stream");
    let Reply::Refused(reason) = w.register(1, 4) else { panic!("it may lack what the newer one acknowledged") };
    assert!(reason.contains("copy of its data folders") && reason.contains("start it again"), "{reason}");
    assert_eq!(servers::get(&w.tables, ServerId(1)).unwrap().unwrap().incarnation, Incarnation(5));
    assert_eq!(w.register(1, 6), registered);
}

#[test]
fn w9_ends_of_many_files_name_the_lost_chunks() {
    let mut w = World::new(2);
    let (a, b) = (w.open(1), w.open(2));
    let (first, second) = (w.file(a, "f", 1000), w.file(a, "g", 1000));
    let (one, two) = (w.take(a, first.0, 0), w.take(a, second.0, 0));
    w.truncate(b, second.0, 10);
    let chunks = [end(&one), end(&two)].to_vec();
    let body = w.client(a, ClientOp::EndGrants { chunks }).unwrap();
    assert_eq!((body.lost, body.lost_chunks), (vec![0], vec![second.1]));
}

#[test]
fn w7_a_changed_incarnation_costs_an_intent() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, chunk) = w.file(a, "f", 10);
    w.register(2, 5);
    assert_eq!(w.take(a, inode, 0).state, GrantState::Pending);
    assert_eq!(w.chunk(chunk).intent.unwrap().kind, IntentKind::Bump);
    assert_eq!(w.ready(chunk, &[(1, 1, true), (2, 5, false)]), Reply::Done);
    assert_eq!(w.chunk(chunk).hold, None, "no grant was ended");
    assert_eq!(w.take(a, inode, 0).version, ChunkVersion(2));
}

#[test]
fn v1_v6_ready_names_enough_distinct_holders_at_the_intents_version() {
    let mut w = World::new(3);
    let a = w.open(1);
    let (inode, grant) = w.create(a, "f", &[1, 2, 3]);
    let grant = grant.unwrap();
    w.write_end(a, inode, 10, &[written(&grant)]).unwrap();
    w.report(a, inode, &grant);
    let chunk = grant.chunk;
    assert!(refused(&w.ready(chunk, &[])));
    assert!(refused(&w.ready(chunk, &[(1, 1, true)])), "below the class's minimum");
    assert!(refused(&w.ready(chunk, &[(1, 1, true), (1, 1, false)])));
    assert!(refused(&w.ready(chunk, &[(1, 1, true), (4, 9, false)])), "a replacement in another incarnation");
    assert_eq!(w.ready(chunk, &[(1, 1, true), (4, 1, false)]), Reply::Done);
    let row = w.chunk(chunk);
    assert_eq!(row.replicas, [1, 4].map(|s| Replica { server: ServerId(s), incarnation: Incarnation(1) }));
    assert!(w.effects.contains(&Effect::BelowGoal(chunk)) && w.effects.contains(&Effect::Garbage(ServerId(2))));
    assert_eq!(garbage::get(&w.tables, ServerId(3), chunk).unwrap(), Some(ChunkVersion(2)));
    let old = crate::fsm::command::Ready { chunk, version: ChunkVersion(2), holders: vec![] };
    assert!(refused(&w.apply(Command::Ready(old))), "no Intent any more");
}

#[test]
fn r2_a_repair_counts_only_if_nothing_was_granted_since() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, chunk) = w.file(a, "f", 10);
    assert!(refused(&w.repair(chunk, 3, None)), "the goal is reached");
    assert!(refused(&w.repair(chunk, 3, Some(2))), "what it replaces is up");
    w.down(2, 1);
    assert!(refused(&w.repair(chunk, 1, Some(2))), "a holder already");
    let stale = {
        let row = w.chunk(chunk);
        Command::RepairDone(crate::fsm::command::RepairDone {
            chunk,
            version: row.version,
            last_grant: Some(row.last_grant),
            server: ServerId(3),
            incarnation: Incarnation(1),
            replaces: Some(ServerId(2)),
        })
    };
    w.register(2, 1);
    let grant = w.take(a, inode, 0);
    w.down(2, 1);
    assert!(refused(&w.apply(stale.clone())), "a grant is live");
    w.end(a, &[end(&grant)]);
    assert!(refused(&w.apply(stale)), "and one has been given since");
    assert_eq!(w.repair(chunk, 3, Some(2)), Reply::Done);
    assert_eq!(w.chunk(chunk).version, ChunkVersion(1));
    assert_eq!(garbage::get(&w.tables, ServerId(2), chunk).unwrap(), Some(ChunkVersion(1)));
    // The way back: not before its deletion has been carried out.
    w.register(2, 2);
    w.down(1, 1);
    let row = w.chunk(chunk);
    let back = Command::RepairDone(crate::fsm::command::RepairDone {
        chunk,
        version: row.version,
        last_grant: Some(row.last_grant),
        server: ServerId(2),
        incarnation: Incarnation(2),
        replaces: Some(ServerId(1)),
    });
    assert_eq!(w.apply(back.clone()), Reply::Refused("the copy is to be deleted"), "R4");
    w.apply(Command::GarbageDone { server: ServerId(2), chunks: vec![(chunk, ChunkVersion(1))] });
    assert_eq!(w.apply(back), Reply::Done);
    assert_eq!(garbage::get(&w.tables, ServerId(2), chunk).unwrap(), None);
}

#[test]
fn r3_the_last_replica_is_never_removed() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, chunk) = w.file(a, "f", 10);
    let lost =
        |version, server| Command::ReplicaLost { chunk, version: ChunkVersion(version), server: ServerId(server) };
    assert!(refused(&w.apply(lost(2, 1))) && refused(&w.apply(lost(1, 3))));
    let grant = w.take(a, inode, 0);
    assert_eq!(w.apply(lost(1, 1)), Reply::Done);
    assert!(w.effects.contains(&Effect::BelowGoal(chunk)));
    assert_eq!(w.write_end(a, inode, 20, &[written(&grant)]).unwrap().lost, [0], "the grant named it");
    let joined = w.ready(chunk, &[(2, 1, true), (1, 1, false)]);
    assert_eq!(joined, Reply::Refused("a replacement's copy is to be deleted"), "its deletion may be under way");
    assert_eq!(w.ready(chunk, &[(2, 1, true)]), Reply::Done, "all that is left");
    assert!(refused(&w.apply(lost(2, 2))));
    assert_eq!(w.repair(chunk, 3, None), Reply::Done);
    assert_eq!(w.apply(lost(2, 2)), Reply::Done);
    let row = w.chunk(chunk);
    assert_eq!((row.replicas.len(), row.intent.unwrap().version), (1, ChunkVersion(3)), "M9: its version is over");
}

#[test]
fn r4_garbage_goes_when_the_server_says_so() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, chunk) = w.file(a, "f", 10);
    w.truncate(a, inode, 5);
    w.truncate(a, inode, 0);
    let done = |version| Command::GarbageDone { server: ServerId(1), chunks: vec![(chunk, ChunkVersion(version))] };
    w.apply(done(1));
    assert_eq!(
        garbage::page(&w.tables, ServerId(1), None, 9).unwrap(),
        [(chunk, ChunkVersion(2))],
        "a lower version is not it"
    );
    w.apply(done(2));
    assert_eq!(garbage::page(&w.tables, ServerId(1), None, 9).unwrap(), []);
}

#[test]
fn f3_servers_come_with_rising_incarnations() {
    let mut w = World::new(2);
    assert!(matches!(w.register(1, 4), Reply::ServerRegistered { server: ServerId(1) }));
    assert!(refused(&w.register(1, 3)));
    assert!(refused(&w.down(1, 3)), "S6: another incarnation");
    assert_eq!(w.down(1, 4), Reply::Done);
    assert!(!servers::get(&w.tables, ServerId(1)).unwrap().unwrap().up);
    assert_eq!(space(&w.tables).unwrap().total_bytes, 3 * (50 << 30));
    w.register(1, 4);
    assert!(w.effects.contains(&Effect::ServerChanged(ServerId(1))));
    assert!(servers::is_up_as(&w.tables, ServerId(1), Incarnation(4)).unwrap());
}

#[test]
fn a_purged_file_leaves_nothing_but_garbage() {
    let mut w = World::new(2);
    let a = w.open(1);
    let (inode, chunk) = w.file(a, "f", 10);
    w.client(a, ClientOp::Unlink { parent: caribou_proto::ids::ROOT_INODE, name: b"f".to_vec() }).unwrap();
    let grant = w.take(a, inode, 0);
    assert_eq!(grant.state, GrantState::Granted, "an open file without links is written as before");
    assert_eq!(w.apply(Command::PurgeOrphans { inodes: vec![inode] }), Reply::Progress { finished: true });
    assert!(!w.exists(chunk) && inodes::get(&w.tables, inode).unwrap().is_none());
    assert_eq!(w.end(a, &[end(&grant)]), [0]);
    assert!(garbage::get(&w.tables, ServerId(2), chunk).unwrap().is_some());
}
