//! Recoveries from the Intent to the Ready, on a paused clock.

use std::time::Duration;

use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};

use crate::fsm::command::Command;
use crate::fsm::reply::{Effect, GrantReply, GrantState, Reply};
use crate::fsm::tables::chunks::Chunk;
use crate::leader::limits;
use crate::leader::testing::{Node, Replica};

/// A file whose writer's stream has broken: an Intent at version 2.
fn broken(node: &Node, values: &[u32]) -> (ChunkId, GrantReply) {
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", values);
    let mut grant = None;
    node.apply(|w| grant = Some(w.take(session, inode, 0)));
    let grant = grant.unwrap();
    assert_eq!(grant.state, GrantState::Granted);
    node.apply(|w| assert_eq!(w.report(session, inode, &grant), GrantState::Pending));
    (chunk, grant)
}

fn holders(node: &Node, chunk: ChunkId) -> Vec<u64> {
    node.chunk(chunk).replicas.iter().map(|r| r.server.0).collect()
}

#[tokio::test(start_paused = true)]
async fn v1_holders_are_made_equal_and_named() {
    let mut node = Node::new(2);
    node.connect_all();
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1, 2, 3]);
    node.put(2, chunk, Replica::whole(1, &[1, 9]));
    let mut grant = None;
    node.apply(|w| grant = Some(w.take(session, inode, 0)));
    node.apply(|w| assert_eq!(w.report(session, inode, &grant.unwrap()), GrantState::Pending));
    let took = node.ready(chunk).await;
    assert!(took < Duration::from_millis(200), "{took:?}");
    assert_eq!(node.chunk(chunk).version, ChunkVersion(2));
    let (one, two) = (node.replica(1, chunk).unwrap(), node.replica(2, chunk).unwrap());
    assert_eq!((&one.cells, one.complete, one.version), (&two.cells, true, 2));
    assert_eq!(one.cells.len(), 3);
    assert!(!node.chunk(chunk).hold.unwrap().reads, "a source stayed up");
}

#[tokio::test(start_paused = true)]
async fn adr7_a_silent_holder_is_left_out_only_after_its_lease_and_replaced() {
    let mut node = Node::new(2);
    node.connect_all();
    for server in 1..=4 {
        node.attached(server).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.disconnect(2);
    let (chunk, _) = broken(&node, &[1, 2]);
    let took = node.ready(chunk).await;
    assert!(took > Duration::from_millis(800) && took < Duration::from_millis(1600), "{took:?}");
    let named = holders(&node, chunk);
    assert_eq!((named[0], named.len()), (1, 2), "V6: a replacement was joined");
    let joined = node.replica(named[1], chunk).unwrap();
    assert_eq!(joined.cells, node.replica(1, chunk).unwrap().cells);
    // It comes back: the deletion is on its way before it may serve anything.
    let before = node.told().len();
    node.connect(2, 1, &[]);
    node.until("it has a lease again", |n| n.told()[before..].iter().any(|(s, t)| *s == 2 && t == "lease")).await;
    let told: Vec<String> = node.told()[before..].iter().filter(|(s, _)| *s == 2).map(|(_, t)| t.clone()).collect();
    let place = |what: &str| told.iter().position(|t| t == what).unwrap();
    assert!(place("delete 2") < place("lease"), "{told:?}");
    node.until("the deletion is confirmed", |n| {
        crate::fsm::tables::garbage::get(&n.world.lock().tables, ServerId(2), chunk).unwrap().is_none()
    })
    .await;
    assert!(node.replica(2, chunk).is_none());
}

#[tokio::test(start_paused = true)]
async fn v6_without_a_candidate_the_ready_set_shrinks() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    let (chunk, _) = broken(&node, &[1]);
    node.ready(chunk).await;
    assert_eq!(holders(&node, chunk), [1]);
}

#[tokio::test(start_paused = true)]
async fn v6_a_holder_that_has_no_room_for_its_writer_is_replaced() {
    let mut node = Node::new(2);
    node.connect_all();
    for server in 1..=4 {
        node.attached(server).await;
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (chunk, _) = broken(&node, &[1, 2]);
    node.disks.lock().full.insert((1, chunk));
    let took = node.ready(chunk).await;
    assert!(took < limits::SILENCE, "nobody waits for what has answered: {took:?}");
    let named = holders(&node, chunk);
    assert_eq!((named[0], named.len()), (2, 2), "{named:?}");
    assert_eq!(node.replica(named[1], chunk).unwrap().cells, node.replica(2, chunk).unwrap().cells);
}

#[tokio::test(start_paused = true)]
async fn p5_a_holder_without_room_is_named_where_the_others_are_too_few() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    let (chunk, _) = broken(&node, &[1]);
    node.disks.lock().full.insert((1, chunk));
    node.ready(chunk).await;
    assert_eq!(holders(&node, chunk), [1], "it can be read");
}

#[tokio::test(start_paused = true)]
async fn v2_without_a_clean_source_all_holders_have_to_answer() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    node.connect(3, 5, &[]);
    node.attached(3).await;
    let (chunk, _) = broken(&node, &[1, 2]);
    node.disks.lock().replicas.get_mut(&(1, chunk)).unwrap().clean = false;
    node.disks.lock().replicas.get_mut(&(1, chunk)).unwrap().cells.insert(1, (5, false));
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(node.chunk(chunk).intent.is_some(), "the other one may have what was synced");
    assert!(node.replica(3, chunk).is_none(), "nobody would clear it away");
    node.disks.lock().replicas.get_mut(&(2, chunk)).unwrap().clean = false;
    node.connect(2, 3, &[]);
    node.ready(chunk).await;
    let one = node.replica(1, chunk).unwrap();
    assert_eq!(one.cells, node.replica(2, chunk).unwrap().cells);
    assert_eq!(one.cells[&1], (2, true), "a written copy whose checksum holds");
    assert!(node.chunk(chunk).hold.unwrap().reads, "W5: nobody reads before the resend");
}

#[tokio::test(start_paused = true)]
async fn m16_a_holder_that_only_crashed_is_enough() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    let (chunk, _) = broken(&node, &[1, 2]);
    let crashed = Replica { clean: false, same_boot: true, ..Replica::whole(1, &[1, 3]) };
    node.put(1, chunk, crashed.clone());
    node.ready(chunk).await;
    assert_eq!(holders(&node, chunk), [1], "M15: nobody can have more");
    assert!(node.chunk(chunk).hold.unwrap().reads, "W5: it did not stay up");
    // Beside one whose power failed, its bytes win.
    let (chunk, _) = {
        let session = node.world.lock().open(3);
        node.connect(2, 3, &[]);
        node.attached(2).await;
        let (inode, chunk) = node.file(session, "g", &[1, 2]);
        let mut grant = None;
        node.put(1, chunk, Replica { clean: false, ..Replica::whole(1, &[1, 2]) });
        node.put(2, chunk, crashed);
        node.apply(|w| grant = Some(w.take(session, inode, 0)));
        node.apply(|w| assert_eq!(w.report(session, inode, grant.as_ref().unwrap()), GrantState::Pending));
        (chunk, grant)
    };
    node.ready(chunk).await;
    assert_eq!(holders(&node, chunk), [1, 2]);
    assert_eq!(node.replica(1, chunk).unwrap().cells[&1], (3, true));
    assert_eq!(node.replica(1, chunk).unwrap().cells, node.replica(2, chunk).unwrap().cells);
}

// The leader that joined them has died; nobody has ever synced a byte.
#[tokio::test(start_paused = true)]
async fn m17_empty_replicas_of_a_chunk_that_vanished_are_enough() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    node.disks.lock().mute.extend([(1, "prepare"), (2, "prepare")]);
    let (chunk, _) = broken(&node, &[1]);
    for server in [1, 2] {
        node.put(
            server,
            chunk,
            Replica { version: 2, complete: false, completed: 0, clean: false, ..Replica::whole(1, &[]) },
        );
    }
    let mut node = node.fail_over();
    node.disks.lock().mute.clear();
    node.connect_all();
    node.ready(chunk).await;
    assert_eq!(holders(&node, chunk), [1, 2]);
    assert!(node.replica(1, chunk).unwrap().cells.is_empty(), "a hole");
    assert!(node.chunk(chunk).hold.unwrap().reads, "W5: its writer may still have the bytes");
}

#[tokio::test(start_paused = true)]
async fn v3_dirty_chunks_are_recovered_when_their_server_comes_back() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    let session = node.world.lock().open(1);
    let (_, chunk) = node.file(session, "f", &[1, 2]);
    node.put(2, chunk, Replica { clean: false, ..Replica::whole(1, &[7, 8]) });
    node.connect(2, 2, &[chunk, ChunkId(12345)]);
    node.until("a new version", |n| n.chunk(chunk).version == ChunkVersion(2)).await;
    assert_eq!(node.replica(2, chunk).unwrap().cells, Replica::whole(2, &[1, 2]).cells);
    assert!(node.chunk(chunk).replicas.iter().any(|r| r.incarnation.0 == 2));
}

/// P5: a dirty copy refuses readers by itself, and the other one serves them until it is the chunk's turn.
#[tokio::test(start_paused = true)]
async fn v3_few_dirty_chunks_are_out_of_reach_at_once_but_for_those_that_somebody_waits_for() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    let session = node.world.lock().open(1);
    let files: Vec<_> = (0..300).map(|n| node.file(session, &format!("f{n}"), &[n])).collect();
    let dirty: Vec<ChunkId> = files.iter().map(|(_, chunk)| *chunk).collect();
    for chunk in &dirty {
        let replica = node.replica(2, *chunk).unwrap();
        node.put(2, *chunk, Replica { clean: false, ..replica });
    }
    // One that has a writer, and one that is dirty on both.
    let ((inode, granted), unserved) = (files[299], dirty[298]);
    node.apply(|w| {
        w.take(session, inode, 0);
    });
    let replica = node.replica(1, unserved).unwrap();
    node.put(1, unserved, Replica { clean: false, ..replica });
    node.disks.lock().mute.push((1, "prepare"));
    node.connect(1, 2, &[unserved]);
    node.connect(2, 2, &dirty);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let rows = |n: &Node| dirty.iter().map(|chunk| n.chunk(*chunk)).collect::<Vec<_>>();
    let out_of_reach = rows(&node).iter().filter(|row| row.intent.is_some()).count();
    assert!((3..=limits::RECOVERIES + 2).contains(&out_of_reach), "{out_of_reach}");
    assert!(node.chunk(granted).intent.is_some() && node.chunk(unserved).intent.is_some());
    node.disks.lock().mute.clear();
    let named = |row: &Chunk| row.replica(ServerId(2)).is_some_and(|replica| replica.incarnation.0 == 2);
    let is_over = |n: &Node| rows(n).iter().all(|row| row.intent.is_none() && named(row));
    let took = node.until("all are named anew", is_over).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(dirty.iter().all(|chunk| node.replica(2, *chunk).is_some_and(|replica| replica.clean)));
}

/// What it has left of the chunk goes first: the deletion is of the version that the recovery makes.
#[tokio::test(start_paused = true)]
async fn r3_a_server_that_lost_its_copy_gets_another_only_after_its_deletion() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    let session = node.world.lock().open(1);
    let (_, chunk) = node.file(session, "f", &[1, 2]);
    node.disks.lock().replicas.remove(&(2, chunk));
    let before = node.told().len();
    let lost = Command::ReplicaLost { chunk, version: ChunkVersion(1), server: ServerId(2) };
    node.apply(|w| assert_eq!(w.apply(lost), Reply::Done));
    let is_whole = |n: &Node| n.chunk(chunk).intent.is_none() && n.chunk(chunk).replicas.len() == 2;
    node.until("two copies again", is_whole).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let told: Vec<String> = node.told()[before..].iter().filter(|(s, _)| *s == 2).map(|(_, t)| t.clone()).collect();
    let deleted = told.iter().position(|t| t.starts_with("delete"));
    let joined = told.iter().position(|t| t.starts_with("prepare"));
    assert!(deleted.is_some() && deleted < joined, "{told:?}");
    assert_eq!(node.replica(2, chunk).unwrap().cells, Replica::whole(1, &[1, 2]).cells);
}

/// A chunk that servers 1 and 3 have, of which 3 is gone and a new version is made; server 2 has an older one to delete, and cannot.
async fn beside_a_deletion(goal: u8) -> (Node, ChunkId) {
    let mut node = Node::new(goal);
    for server in 1..=3 {
        node.connect(server, 1, &[]);
        node.attached(server).await;
    }
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1, 2]);
    let breaks = |node: &Node| {
        let mut grant = None;
        node.apply(|w| grant = Some(w.take(session, inode, 0)));
        node.apply(|w| assert_eq!(w.report(session, inode, &grant.unwrap()), GrantState::Pending));
    };
    node.disconnect(2);
    breaks(&node);
    node.ready(chunk).await;
    assert_eq!(holders(&node, chunk), [1, 3]);
    node.disks.lock().mute.push((2, "delete"));
    node.connect(2, 2, &[]);
    node.until("it is told to delete", |n| n.told().contains(&(2, "delete 2".to_owned()))).await;
    node.disconnect(3);
    breaks(&node);
    node.ready(chunk).await;
    (node, chunk)
}

/// Seed 1 of `run --profile smoke`: what it had heard of by the join that was given up it would not delete by the older deletion.
#[tokio::test(start_paused = true)]
async fn r4_a_server_with_a_deletion_to_come_is_not_joined() {
    let (node, chunk) = beside_a_deletion(2).await;
    assert_eq!(holders(&node, chunk), [1], "V6: there is nobody else");
    let heard = |(server, told): &(u64, String)| *server == 2 && told.starts_with("prepare 3");
    assert!(!node.told().iter().any(heard), "it would refuse the deletion of version 2 from then on");
    node.disks.lock().mute.clear();
    node.until("two copies again", |n| holders(n, chunk) == [1, 2] && n.chunk(chunk).intent.is_none()).await;
    assert_eq!(node.replica(2, chunk).unwrap().cells, Replica::whole(1, &[1, 2]).cells);
}

/// Its failed disk may keep it from deleting until it starts anew; there is room on another one.
#[tokio::test(start_paused = true)]
async fn v6_without_anybody_else_a_server_is_joined_beside_its_older_deletion() {
    let (node, chunk) = beside_a_deletion(3).await;
    assert_eq!(holders(&node, chunk), [1, 2], "of three copies two are the least");
    node.disks.lock().mute.clear();
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert_eq!(
        node.replica(2, chunk).unwrap().cells,
        Replica::whole(1, &[1, 2]).cells,
        "the older deletion is refused"
    );
}

/// The Ready of a recovery that was under way names the holder as it was before it lost its power.
#[tokio::test(start_paused = true)]
async fn v3_a_holder_that_comes_back_dirty_after_its_fix_is_recovered_again() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    node.disks.lock().mute.push((2, "fix"));
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1, 2]);
    node.put(2, chunk, Replica::whole(1, &[1, 7]));
    let mut grant = None;
    node.apply(|w| grant = Some(w.take(session, inode, 0)));
    node.apply(|w| assert_eq!(w.report(session, inode, &grant.unwrap()), GrantState::Pending));
    node.until("one holder is complete", |n| n.replica(1, chunk).unwrap().completed == 2).await;
    let complete = node.replica(1, chunk).unwrap();
    node.put(1, chunk, Replica { clean: false, ..complete });
    node.connect(1, 2, &[chunk]);
    node.attached(1).await;
    node.disks.lock().mute.clear();
    let is_named = |n: &Node| n.chunk(chunk).replica(ServerId(1)).is_some_and(|r| r.incarnation.0 == 2);
    node.until("its new incarnation is named", is_named).await;
    assert!(node.replica(1, chunk).unwrap().clean);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_drives_the_intent_again_and_raises_it() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    node.disks.lock().mute.push((2, "fix"));
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1, 2]);
    node.put(2, chunk, Replica::whole(1, &[1, 7]));
    let mut grant = None;
    node.apply(|w| grant = Some(w.take(session, inode, 0)));
    node.apply(|w| assert_eq!(w.report(session, inode, &grant.unwrap()), GrantState::Pending));
    node.until("one holder is complete", |n| n.replica(1, chunk).unwrap().completed == 2).await;
    assert!(node.chunk(chunk).intent.is_some());
    let mut node = node.fail_over();
    node.disks.lock().mute.clear();
    node.connect_all();
    node.ready(chunk).await;
    assert_eq!(node.chunk(chunk).version, ChunkVersion(3), "what was complete at 2 does not change at 2");
    assert_eq!(node.replica(1, chunk).unwrap().cells, node.replica(2, chunk).unwrap().cells);
}

// M6: what a holder answered to Prepare says nothing of what it has after a restart, and nobody carries on with the Fix of the round before.
#[tokio::test(start_paused = true)]
async fn m6_a_holder_that_starts_anew_while_it_is_fixed_begins_again_at_prepare() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1, 2, 3]);
    // Block 1 differs: that is all that the first plan has the second holder fetch.
    node.put(2, chunk, Replica::whole(1, &[1, 7, 3]));
    node.disks.lock().mute.push((2, "fix"));
    let mut grant = None;
    node.apply(|w| grant = Some(w.take(session, inode, 0)));
    node.apply(|w| assert_eq!(w.report(session, inode, &grant.unwrap()), GrantState::Pending));
    node.until("it is being fixed", |n| n.told().contains(&(2, "fix 2".to_owned()))).await;
    // It loses power with another block un-synced.
    let torn = Replica { version: 2, complete: false, clean: false, ..Replica::whole(1, &[1, 7, 9]) };
    node.put(2, chunk, torn);
    node.connect(2, 2, &[chunk]);
    let before = node.told().len();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(node.chunk(chunk).intent.is_some(), "the old round's Fix counts for nothing");
    node.disks.lock().mute.clear();
    node.ready(chunk).await;
    let told: Vec<String> = node.told()[before..].iter().filter(|(s, _)| *s == 2).map(|(_, t)| t.clone()).collect();
    let place = |what: &str| told.iter().position(|t| t.starts_with(what)).unwrap();
    assert!(place("prepare") < place("fix"), "{told:?}");
    assert_eq!(node.replica(2, chunk).unwrap().cells, node.replica(1, chunk).unwrap().cells);
    assert_eq!(node.replica(2, chunk).unwrap().cells[&2], (3, true));
    assert!(node.chunk(chunk).replicas.iter().any(|r| r.server == ServerId(2) && r.incarnation.0 == 2));
}

// M3: whatever becomes of the hints, a server that is not named any more is told soon.
#[tokio::test(start_paused = true)]
async fn r4_garbage_whose_effects_were_dropped_is_looked_for_at_once() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1]);
    tokio::time::sleep(Duration::from_millis(200)).await;
    // Nobody hears of this one …
    node.world.lock().truncate(session, inode, 0);
    // … but that something was dropped is known.
    for _ in 0..=limits::EFFECT_BATCHES {
        node.handle.effects(vec![Effect::BelowGoal(chunk)]);
    }
    let took = node.until("it is deleted", |n| n.replica(1, chunk).is_none() && n.replica(2, chunk).is_none()).await;
    assert!(took < limits::GARBAGE_SCAN / 2, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_truncation_during_a_recovery_begins_another_round() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.disks.lock().mute.push((1, "fix"));
    let (chunk, _) = broken(&node, &[1, 2, 3]);
    node.until("it is being fixed", |n| n.told().contains(&(1, "fix 2".to_owned()))).await;
    node.disks.lock().mute.clear();
    let inode = node.chunk(chunk).inode;
    node.apply(|w| {
        let session = w.open(2);
        w.truncate(session, inode, 100_000);
    });
    node.ready(chunk).await;
    assert!(node.chunk(chunk).version >= ChunkVersion(3));
    assert_eq!(node.replica(1, chunk).unwrap().cells.len(), 2);
    assert_eq!(node.replica(2, chunk).unwrap().cells.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn many_intents_are_recovered_a_few_at_a_time() {
    let node = Node::new(2);
    let session = node.world.lock().open(1);
    let files: Vec<_> = (0..100).map(|n| node.file(session, &format!("f{n}"), &[n])).collect();
    for (inode, _) in &files {
        node.world.lock().take(session, *inode, 0);
    }
    node.world.lock().expire(session);
    let mut node = node.fail_over();
    node.connect_all();
    for (_, chunk) in files {
        node.ready(chunk).await;
        assert_eq!(holders(&node, chunk), [1, 2]);
    }
}
