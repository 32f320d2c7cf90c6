//! Copies of chunks at rest, on a paused clock.

use std::time::Duration;

use caribou_proto::ids::{ChunkVersion, ServerId, SessionId};

use crate::fsm::command::Command;
use crate::fsm::ops::chunk::world::{end, written};
use crate::fsm::reply::GrantState;
use crate::leader::limits;
use crate::leader::testing::{Node, Replica};

/// Time passes in which the session is heard of.
async fn lives(node: &Node, session: SessionId, time: Duration) {
    let end = tokio::time::Instant::now() + time;
    while tokio::time::Instant::now() < end {
        node.handle.session_seen(session);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn r2_the_chunks_of_a_server_that_stays_away_are_copied() {
    let mut node = Node::new(2);
    node.connect_all();
    for server in 1..=4 {
        node.attached(server).await;
    }
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1, 2]);
    node.disconnect(2);
    let took = node.until("another holder", |n| n.chunk(chunk).replica(ServerId(2)).is_none()).await;
    assert!(took >= limits::REPAIR_DELAY, "a restart is waited for: {took:?}");
    let row = node.chunk(chunk);
    assert_eq!((row.version, row.replicas.len()), (ChunkVersion(2), 2), "M9: the old version is over");
    let copy = node.replica(row.replicas[1].server.0, chunk).unwrap();
    assert_eq!((copy.cells, copy.complete), (Replica::whole(2, &[1, 2]).cells, true));
    assert_eq!(node.world.lock().take(session, inode, 0).state, GrantState::Granted);
}

/// P5: under an Intent a chunk is neither read nor written, although a copy of it is up.
#[tokio::test(start_paused = true)]
async fn few_chunks_of_a_server_that_stays_away_are_out_of_reach_at_once() {
    let mut node = Node::new(2);
    for server in [1, 2] {
        node.connect(server, 1, &[]);
        node.attached(server).await;
    }
    let session = node.world.lock().open(1);
    let files: Vec<_> = (0..300).map(|n| node.file(session, &format!("f{n}"), &[1]).1).collect();
    node.disks.lock().mute.push((1, "prepare"));
    node.disconnect(2);
    let rows = |n: &Node| files.iter().map(|chunk| n.chunk(*chunk)).collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_secs(6)).await;
    // No recovery gets on: the rest of the chunks is read meanwhile.
    let out_of_reach = rows(&node).iter().filter(|row| row.intent.is_some()).count();
    assert!((1..=limits::RECOVERIES).contains(&out_of_reach), "{out_of_reach}");
    node.disks.lock().mute.clear();
    let is_over = |n: &Node| rows(n).iter().all(|row| row.intent.is_none() && row.version > ChunkVersion(1));
    let took = node.until("all have had their turn", is_over).await;
    assert!(took < Duration::from_secs(10), "{took:?}");
    node.connect(2, 1, &[]);
    node.until("all are whole again", |n| rows(n).iter().all(|row| row.replicas.len() == 2)).await;
}

/// M15: they may wait for days, and each of the others has one copy less until its own recovery.
#[tokio::test(start_paused = true)]
async fn what_waits_for_a_server_that_is_away_holds_nobody_back() {
    let mut node = Node::new(2);
    node.connect_all();
    for server in 1..=4 {
        node.attached(server).await;
    }
    let session = node.world.lock().open(1);
    let stuck: Vec<_> = (0..=limits::RECOVERIES).map(|n| node.file(session, &format!("f{n}"), &[1]).1).collect();
    let (inode, grant) = node.world.lock().create(session, "g", &[3, 4]);
    let grant = grant.expect("both are up");
    let length = u64::from(caribou_proto::ids::BLOCK_BYTES);
    node.world.lock().write_end(session, inode, length, &[end(&grant)]).unwrap();
    for server in [3, 4] {
        node.put(server, grant.chunk, Replica::whole(1, &[1]));
    }
    // One of the others' holders comes back dirty, the other one does not.
    node.disconnect(2);
    for chunk in &stuck {
        node.put(1, *chunk, Replica { clean: false, ..Replica::whole(1, &[1]) });
    }
    node.connect(1, 2, &stuck);
    let wait = |n: &Node| stuck.iter().all(|chunk| n.chunk(*chunk).intent.is_some());
    node.until("all wait", wait).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.disconnect(3);
    node.until("another holder", |n| n.chunk(grant.chunk).replica(ServerId(3)).is_none()).await;
    node.ready(grant.chunk).await;
    assert!(wait(&node));
    node.connect(2, 2, &[]);
    node.until("they go on", |n| stuck.iter().all(|chunk| n.chunk(*chunk).intent.is_none())).await;
}

/// A file that is written while too few servers are there has fewer copies than its goal from the beginning: no record takes one away.
#[tokio::test(start_paused = true)]
async fn what_was_placed_while_servers_were_away_is_copied() {
    let mut node = Node::new(2);
    node.connect_all();
    for server in 1..=4 {
        node.attached(server).await;
    }
    let session = node.world.lock().open(1);
    // The new leader's scan of all chunks is over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (inode, grant) = node.world.lock().create(session, "f", &[1]);
    let grant = grant.expect("one server is enough");
    node.put(1, grant.chunk, Replica::whole(1, &[1]));
    let length = u64::from(caribou_proto::ids::BLOCK_BYTES);
    node.apply(|w| {
        w.write_end(session, inode, length, &[end(&grant)]).unwrap();
    });
    node.until("the goal is reached", |n| n.chunk(grant.chunk).replicas.len() == 2).await;
}

/// A writer that keeps its grant for ever must not keep its bytes on one disk for ever.
#[tokio::test(start_paused = true)]
async fn r2_a_chunk_that_is_written_without_a_pause_gets_its_copy() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    let session = node.world.lock().open(1);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let (inode, grant) = node.world.lock().create(session, "f", &[1]);
    let grant = grant.expect("one server is enough");
    node.put(1, grant.chunk, Replica::whole(1, &[1]));
    let length = u64::from(caribou_proto::ids::BLOCK_BYTES);
    node.apply(|w| {
        w.write_end(session, inode, length, &[written(&grant)]).unwrap();
    });
    // As long as there is nowhere to copy it to, the writer is left alone.
    lives(&node, session, 2 * limits::WRITER_PATIENCE).await;
    assert_eq!(node.chunk(grant.chunk).grant.map(|g| g.id), Some(grant.grant), "nobody could have taken a copy");
    node.connect(2, 1, &[]);
    let took = node.until("the goal is reached", |n| n.chunk(grant.chunk).replicas.len() == 2).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    let row = node.chunk(grant.chunk);
    assert_eq!((row.version, row.intent.is_none(), row.grant.is_none()), (ChunkVersion(2), true, true));
    assert_eq!(node.replica(2, grant.chunk).map(|r| r.cells), node.replica(1, grant.chunk).map(|r| r.cells));
    // The writer goes on.
    assert_eq!(node.world.lock().take(session, inode, 0).state, GrantState::Granted);
}

#[tokio::test(start_paused = true)]
async fn r2_a_writer_at_the_goal_is_left_alone() {
    let mut node = Node::new(2);
    node.connect_all();
    for server in 1..=4 {
        node.attached(server).await;
    }
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1]);
    node.apply(|w| {
        w.take(session, inode, 0);
    });
    let grant = node.chunk(chunk).grant.map(|g| g.id);
    lives(&node, session, 2 * limits::WRITER_PATIENCE).await;
    assert!(grant.is_some());
    assert_eq!(node.chunk(chunk).grant.map(|g| g.id), grant);
}

#[tokio::test(start_paused = true)]
async fn a_short_absence_copies_nothing() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(2).await;
    let session = node.world.lock().open(1);
    let (_, chunk) = node.file(session, "f", &[1, 2]);
    node.disconnect(2);
    tokio::time::sleep(limits::REPAIR_DELAY).await;
    node.connect(2, 1, &[]);
    tokio::time::sleep(Duration::from_secs(10)).await;
    let servers: Vec<u64> = node.chunk(chunk).replicas.iter().map(|r| r.server.0).collect();
    assert_eq!(servers, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn r2_a_chunk_that_is_granted_waits_and_a_refused_one_is_held_back() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1]);
    node.apply(|w| {
        w.apply(Command::ReplicaLost { chunk, version: ChunkVersion(1), server: ServerId(2) });
    });
    node.ready(chunk).await;
    assert_eq!(
        (node.chunk(chunk).version, node.chunk(chunk).replicas.len()),
        (ChunkVersion(2), 1),
        "nobody else is there"
    );
    // The others come; grants come and go all the time, in the middle of each copy.
    let mute = |n: &Node, on: bool| {
        n.disks.lock().mute = (2..=4).filter(|_| on).map(|server| (server, "fix")).collect();
    };
    mute(&node, true);
    let mut seen = node.told().iter().filter(|(_, t)| t == "fix 2").count();
    for server in 2..=4 {
        node.connect(server, 1, &[]);
    }
    for _ in 0..2 {
        node.until("a copy is being made", |n| n.told().iter().filter(|(_, t)| t == "fix 2").count() > seen).await;
        seen = node.told().iter().filter(|(_, t)| t == "fix 2").count();
        node.apply(|w| {
            let grant = w.take(session, inode, 0);
            w.end(session, &[end(&grant)]);
        });
        // The copy completes, and comes too late.
        mute(&node, false);
        tokio::time::sleep(Duration::from_millis(60)).await;
        mute(&node, true);
    }
    node.until("its grants are held back", |n| n.handle.is_held_back(chunk)).await;
    mute(&node, false);
    node.until("the goal is reached", |n| n.chunk(chunk).replicas.len() == 2).await;
    node.until("and it is free again", |n| !n.handle.is_held_back(chunk)).await;
}

/// The one replica has a block that nobody has whole: each copy fails, and other chunks need the room.
#[tokio::test(start_paused = true)]
async fn r2_a_copy_that_fails_is_tried_less_and_less_often() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    let session = node.world.lock().open(1);
    let (_, chunk) = node.file(session, "f", &[1]);
    node.apply(|w| {
        w.apply(Command::ReplicaLost { chunk, version: ChunkVersion(1), server: ServerId(2) });
    });
    node.ready(chunk).await;
    let break_it = |n: &Node, is_whole: bool| {
        let mut disks = n.disks.lock();
        disks.replicas.get_mut(&(1, chunk)).unwrap().cells.get_mut(&0).unwrap().1 = is_whole;
    };
    break_it(&node, false);
    node.connect(3, 1, &[]);
    let tries = |n: &Node| n.told().iter().filter(|(server, text)| *server == 3 && text.starts_with("fix")).count();
    tokio::time::sleep(Duration::from_secs(120)).await;
    // After 1, 2, 4, 8, 16, 30, 30 seconds.
    assert!((6..=9).contains(&tries(&node)), "{}", tries(&node));
    break_it(&node, true);
    node.until("the goal is reached", |n| n.chunk(chunk).replicas.len() == 2).await;
}
