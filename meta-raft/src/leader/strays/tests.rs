//! Replicas that nobody counts on, on a paused clock: what is deleted, and what is left alone.

use std::time::Duration;

use caribou_proto::chunk::v1::{Heartbeat, StrayChunk, from_server};
use caribou_proto::ids::{BLOCK_BYTES, ChunkId, ChunkVersion, InodeId, ServerId, SessionId};
use futures::StreamExt;

use crate::fsm::command::Command;
use crate::fsm::ops::chunk::world::end;
use crate::fsm::reply::{GrantReply, GrantState};
use crate::fsm::tables::garbage;
use crate::leader::limits;
use crate::leader::testing::{Node, Replica, dial, from_server, registration};

/// A leader of chunks with two copies, servers 1 to `servers`.
async fn attached(servers: u64) -> Node {
    let mut node = Node::new(2);
    for server in 1..=servers {
        node.connect(server, 1, &[]);
        node.attached(server).await;
    }
    node
}

/// Until each server is known to know what is counted on there.
async fn settle() {
    tokio::time::sleep(limits::INVENTORY_SETTLED + Duration::from_secs(1)).await;
}

/// Time passes in which the session is heard of.
async fn lives(node: &Node, session: SessionId, seconds: u64) {
    for _ in 0..seconds {
        node.handle.session_seen(session);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn take(node: &Node, session: SessionId, inode: InodeId) -> GrantReply {
    let mut grant = None;
    node.apply(|w| grant = Some(w.take(session, inode, 0)));
    grant.filter(|grant| grant.state == GrantState::Granted).expect("it is at rest")
}

fn report(node: &Node, session: SessionId, inode: InodeId, grant: &GrantReply) {
    node.apply(|w| assert_eq!(w.report(session, inode, grant), GrantState::Pending));
}

/// How many records of strays were proposed.
fn found(node: &Node) -> usize {
    let world = node.world.lock();
    let commands = world.log.iter().flat_map(|entry| &entry.commands);
    commands.filter(|command| matches!(command, Command::StrayFound(_))).count()
}

fn deletion(node: &Node, server: u64, chunk: ChunkId) -> Option<ChunkVersion> {
    garbage::get(&node.world.lock().tables, ServerId(server), chunk).unwrap()
}

fn was_told(node: &Node, server: u64, what: &str) -> bool {
    node.told().iter().any(|(of, text)| *of == server && text.starts_with(what))
}

/// A truncation begins another round, and by then the holder is back whose replacement was being joined.
#[tokio::test(start_paused = true)]
async fn r4_what_a_join_that_was_given_up_has_left_is_deleted() {
    let mut node = attached(3).await;
    settle().await;
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1, 2, 3]);
    node.disks.lock().mute.extend([(1, "fix"), (3, "fix")]);
    node.disconnect(2);
    let grant = take(&node, session, inode);
    report(&node, session, inode, &grant);
    node.until("a replacement is joined", |n| was_told(n, 3, "fix 2")).await;
    let before = node.told().len();
    node.connect(2, 1, &[]);
    let is_back = |n: &Node| n.told()[before..].iter().any(|(s, text)| *s == 2 && text.starts_with("inventory"));
    node.until("the holder is back", is_back).await;
    node.disks.lock().mute.clear();
    node.apply(|w| {
        let other = w.open(2);
        w.truncate(other, inode, 100_000);
    });
    node.ready(chunk).await;
    let named = |n: &Node| n.chunk(chunk).replicas.iter().map(|replica| replica.server.0).collect::<Vec<_>>();
    assert_eq!((named(&node), node.replica(3, chunk).is_some()), (vec![1, 2], true), "it has a replica too many");
    let took = node.until("it is deleted", |n| n.replica(3, chunk).is_none()).await;
    assert!(took < limits::JOIN_SETTLED + Duration::from_secs(5), "{took:?}");
    assert_eq!((found(&node), named(&node)), (1, vec![1, 2]));
    assert!(node.replica(1, chunk).is_some() && node.replica(2, chunk).is_some());
    node.until("the deletion is confirmed", |n| deletion(n, 3, chunk).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn r4_a_copy_of_a_chunk_that_is_gone_meanwhile_is_deleted() {
    let node = attached(2).await;
    settle().await;
    let session = node.world.lock().open(1);
    node.disks.lock().mute.push((2, "fix"));
    let (inode, grant) = node.world.lock().create(session, "f", &[1]);
    let chunk = grant.as_ref().expect("one server is enough").chunk;
    node.put(1, chunk, Replica::whole(1, &[1]));
    node.apply(|w| {
        w.write_end(session, inode, u64::from(BLOCK_BYTES), &[end(&grant.unwrap())]).unwrap();
    });
    node.until("it is copied", |n| was_told(n, 2, "fix 1")).await;
    node.apply(|w| w.truncate(session, inode, 0));
    node.disks.lock().mute.clear();
    node.until("the holder's is deleted", |n| n.replica(1, chunk).is_none()).await;
    assert!(node.replica(2, chunk).is_some(), "nobody has named it");
    node.until("the copy is deleted", |n| n.replica(2, chunk).is_none()).await;
    assert!(was_told(&node, 2, "delete 1"));
}

#[tokio::test(start_paused = true)]
async fn v5_what_an_old_disk_has_of_a_chunk_that_is_gone_is_deleted_again() {
    let mut node = attached(2).await;
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1]);
    let (_, kept) = node.file(session, "kept", &[2]);
    node.apply(|w| w.truncate(session, inode, 0));
    let is_over = |n: &Node| (1..=2).all(|server| deletion(n, server, chunk).is_none());
    node.until("both are deleted", is_over).await;
    node.disconnect(2);
    node.put(2, chunk, Replica::whole(1, &[1]));
    node.connect(2, 2, &[]);
    node.until("it is deleted again", |n| n.replica(2, chunk).is_none()).await;
    node.until("and that is confirmed", is_over).await;
    assert_eq!(found(&node), 1);
    assert!(
        node.replica(2, kept).is_some() && node.chunk(kept).version == ChunkVersion(1),
        "nothing was wrong with it"
    );
}

/// Who has joined it is not there any more: it is found when everything is compared.
#[tokio::test(start_paused = true)]
async fn r4_a_new_leader_finds_what_the_last_one_has_left() {
    let mut node = attached(3).await;
    let session = node.world.lock().open(1);
    let (_, chunk) = node.file(session, "f", &[1]);
    node.put(3, chunk, Replica { complete: false, completed: 0, ..Replica::whole(1, &[]) });
    node = node.fail_over();
    node.connect_all();
    node.until("it is deleted", |n| n.replica(3, chunk).is_none()).await;
    assert_eq!(node.chunk(chunk).replicas.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn r4_what_is_being_written_or_recovered_is_left_alone() {
    let mut node = attached(2).await;
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1]);
    let grant = take(&node, session, inode);
    node.put(3, chunk, Replica::whole(1, &[1]));
    node.connect(3, 1, &[]);
    lives(&node, session, 45).await;
    assert_eq!((found(&node), node.replica(3, chunk).is_some()), (0, true), "under a grant");
    node.disks.lock().mute.push((1, "prepare"));
    report(&node, session, inode, &grant);
    lives(&node, session, 45).await;
    assert!(node.chunk(chunk).intent.is_some());
    assert_eq!((found(&node), node.replica(3, chunk).is_some()), (0, true), "under an Intent");
    node.disks.lock().mute.clear();
    node.ready(chunk).await;
    node.until("it is deleted", |n| n.replica(3, chunk).is_none()).await;
    assert_eq!(node.chunk(chunk).replicas.len(), 2);
}

/// Its target has a replica that no row names, for as long as the copy takes.
#[tokio::test(start_paused = true)]
async fn r2_a_copy_that_is_being_made_is_left_alone() {
    let node = attached(2).await;
    settle().await;
    let session = node.world.lock().open(1);
    node.disks.lock().mute.push((2, "fix"));
    let (inode, grant) = node.world.lock().create(session, "f", &[1]);
    let grant = grant.expect("one server is enough");
    node.put(1, grant.chunk, Replica::whole(1, &[1]));
    node.apply(|w| {
        w.write_end(session, inode, u64::from(BLOCK_BYTES), &[end(&grant)]).unwrap();
    });
    node.until("it is copied", |n| was_told(n, 2, "fix 1")).await;
    lives(&node, session, 45).await;
    assert_eq!((found(&node), node.chunk(grant.chunk).replicas.len()), (0, 1));
    node.disks.lock().mute.clear();
    node.until("it is named", |n| n.chunk(grant.chunk).replicas.len() == 2).await;
    lives(&node, session, 45).await;
    assert_eq!((found(&node), was_told(&node, 2, "delete")), (0, false));
    assert_eq!(node.replica(2, grant.chunk).map(|replica| replica.cells), Some(Replica::whole(1, &[1]).cells));
}

#[tokio::test(start_paused = true)]
async fn f1_what_the_metadata_do_not_know_is_left_alone() {
    let mut node = attached(2).await;
    let session = node.world.lock().open(1);
    let (_, chunk) = node.file(session, "f", &[1]);
    let unknown = [ChunkId(7), ChunkId(chunk.0 + 1), ChunkId::new(1, 99), ChunkId::new(2, 1)];
    for id in unknown {
        node.put(3, id, Replica::whole(1, &[1]));
    }
    // A newer version than that of the row: what was restored are the metadata.
    node.put(3, chunk, Replica::whole(2, &[1]));
    node.connect(3, 1, &[]);
    tokio::time::sleep(2 * limits::INVENTORY_SETTLED).await;
    assert_eq!((found(&node), was_told(&node, 3, "delete")), (0, false));
    assert!(unknown.into_iter().chain([chunk]).all(|id| node.replica(3, id).is_some()));
}

/// R3: the one that nobody counts on may be the last that is whole.
#[tokio::test(start_paused = true)]
async fn nothing_is_deleted_while_no_holder_vouches_for_its_own() {
    let mut node = attached(2).await;
    let session = node.world.lock().open(1);
    let (_, chunk) = node.file(session, "f", &[1]);
    let rots = |node: &Node, is_whole: bool| {
        let mut disks = node.disks.lock();
        for server in [1, 2] {
            disks.replicas.get_mut(&(server, chunk)).unwrap().cells.get_mut(&0).unwrap().1 = is_whole;
            disks.found.insert((server, chunk));
        }
    };
    rots(&node, false);
    node.put(3, chunk, Replica::whole(1, &[1]));
    node.connect(3, 1, &[]);
    tokio::time::sleep(4 * limits::INVENTORY_SETTLED).await;
    assert_eq!((found(&node), node.replica(3, chunk).is_some()), (0, true));
    rots(&node, true);
    node.until("it is deleted", |n| n.replica(3, chunk).is_none()).await;
}

#[tokio::test(start_paused = true)]
async fn r4_a_hint_counts_when_it_is_said_twice_about_the_same_version() {
    let node = attached(2).await;
    let session = node.world.lock().open(1);
    let (inode, chunk) = node.file(session, "f", &[1]);
    node.apply(|w| w.truncate(session, inode, 0));
    let (sender, mut answers) = dial(node.host());
    sender.send(from_server(from_server::Body::Register(registration(3, 1, &[])))).await.unwrap();
    answers.next().await.unwrap();
    node.attached(3).await;
    let mut stamp = 0;
    let mut say = async |stray_chunks: Vec<StrayChunk>| {
        stamp += 1;
        let heartbeat = Heartbeat { stamp, stray_chunks, ..Heartbeat::default() };
        sender.send(from_server(from_server::Body::Heartbeat(heartbeat))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let stray = |version| vec![StrayChunk { chunk: chunk.0, version }];
    for _ in 0..30 {
        say(stray(1)).await;
    }
    assert_eq!(deletion(&node, 3, chunk), None, "it may not know yet what is counted on");
    for _ in 0..40 {
        say(vec![]).await;
    }
    say(stray(1)).await;
    say(vec![]).await;
    say(stray(1)).await;
    say(stray(2)).await;
    assert_eq!(deletion(&node, 3, chunk), None, "it changes");
    say(stray(2)).await;
    assert_eq!(deletion(&node, 3, chunk), Some(ChunkVersion(2)));
    // Nobody answers the Delete on this stream: nothing is proposed a second time.
    for _ in 0..10 {
        say(stray(2)).await;
    }
    assert_eq!(found(&node), 1);
    say(stray(3)).await;
    say(stray(3)).await;
    assert_eq!(deletion(&node, 3, chunk), Some(ChunkVersion(3)), "the Delete of the older one is refused there");
}
