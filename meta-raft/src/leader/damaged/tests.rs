//! Damage that chunk servers have found, on a paused clock.

use std::time::Duration;

use super::*;
use crate::fsm::command::{Command, IntentKind, StartIntent};
use crate::fsm::ops::chunk::world::{World, end};
use crate::leader::testing::Node;

/// A file at rest on servers 1 and 2 of several, with these blocks; everybody is known to have what is counted on there.
async fn settled(servers: u64, values: &[u32]) -> (Node, ChunkId) {
    let mut node = Node::new(2);
    for server in 1..=servers {
        node.connect(server, 1, &[]);
        node.attached(server).await;
    }
    let session = node.world.lock().open(1);
    let (_, chunk) = node.file(session, "f", values);
    tokio::time::sleep(limits::INVENTORY_SETTLED + Duration::from_secs(1)).await;
    (node, chunk)
}

/// A block rots, and its server finds it.
fn rot(node: &Node, server: u64, chunk: ChunkId, block: u32) {
    let mut disks = node.disks.lock();
    let replica = disks.replicas.get_mut(&(server, chunk)).expect("it has a replica");
    replica.cells.get_mut(&block).expect("the block is written").1 = false;
    disks.found.insert((server, chunk));
}

fn count(node: &Node, is_meant: fn(&Command) -> bool) -> usize {
    let world = node.world.lock();
    world.log.iter().flat_map(|entry| &entry.commands).filter(|command| is_meant(command)).count()
}

fn intents(node: &Node) -> usize {
    count(node, |command| matches!(command, Command::StartIntent(_)))
}

fn losses(node: &Node) -> usize {
    count(node, |command| matches!(command, Command::ReplicaLost { .. }))
}

fn servers(node: &Node, chunk: ChunkId) -> Vec<u64> {
    node.chunk(chunk).replicas.iter().map(|replica| replica.server.0).collect()
}

/// Values, and whether they are whole, of one server's replica.
fn cells(node: &Node, server: u64, chunk: ChunkId) -> Vec<(u32, bool)> {
    node.replica(server, chunk).expect("it has a replica").cells.into_values().collect()
}

const WHOLE: [(u32, bool); 3] = [(1, true), (2, true), (3, true)];

#[tokio::test(start_paused = true)]
async fn r3_a_damaged_block_is_mended_in_place_once() {
    let (node, chunk) = settled(3, &[1, 2, 3]).await;
    rot(&node, 1, chunk, 1);
    node.until("it is recovered", |n| n.chunk(chunk).version == ChunkVersion(2)).await;
    assert_eq!((cells(&node, 1, chunk), servers(&node, chunk)), (WHOLE.to_vec(), vec![1, 2]));
    tokio::time::sleep(4 * limits::MEND_PAUSE).await;
    assert_eq!((intents(&node), losses(&node)), (1, 0));
    assert!(!node.told().iter().any(|(_, text)| text.starts_with("delete")), "no replica was given up");
    // Another block of it is another matter, however many there were.
    rot(&node, 1, chunk, 2);
    node.until("it is recovered", |n| n.chunk(chunk).version == ChunkVersion(3)).await;
    assert_eq!(cells(&node, 1, chunk), WHOLE);
}

// One of them was given up, and deleted before the other had been read as a whole.
#[tokio::test(start_paused = true)]
async fn p1_two_replicas_with_rot_in_different_blocks_end_both_whole() {
    let (node, chunk) = settled(3, &[1, 2, 3]).await;
    rot(&node, 1, chunk, 0);
    rot(&node, 2, chunk, 2);
    node.until("it is recovered", |n| n.chunk(chunk).version > ChunkVersion(1)).await;
    node.ready(chunk).await;
    assert_eq!((cells(&node, 1, chunk), cells(&node, 2, chunk)), (WHOLE.to_vec(), WHOLE.to_vec()));
    tokio::time::sleep(4 * limits::MEND_PAUSE).await;
    assert_eq!((servers(&node, chunk), losses(&node)), (vec![1, 2], 0));
}

// V2: nobody has it; it stays damaged, is not turned into zeros, and costs no recovery after recovery.
#[tokio::test(start_paused = true)]
async fn r3_a_block_that_is_damaged_everywhere_is_left_alone() {
    let (node, chunk) = settled(3, &[1, 2, 3]).await;
    rot(&node, 1, chunk, 1);
    rot(&node, 2, chunk, 1);
    node.until("it is recovered", |n| n.chunk(chunk).version == ChunkVersion(2)).await;
    tokio::time::sleep(10 * limits::MEND_PAUSE).await;
    let (row, left) = (node.chunk(chunk), [(1, true), (2, false), (3, true)]);
    assert_eq!((row.version, row.intent, intents(&node), losses(&node)), (ChunkVersion(2), None, 1, 0));
    assert_eq!((cells(&node, 1, chunk), cells(&node, 2, chunk)), (left.to_vec(), left.to_vec()));
    // More damage may be mended, and the rest is left alone again.
    rot(&node, 1, chunk, 0);
    node.until("it is recovered", |n| n.chunk(chunk).version == ChunkVersion(3)).await;
    tokio::time::sleep(10 * limits::MEND_PAUSE).await;
    assert_eq!((cells(&node, 1, chunk), intents(&node), losses(&node)), (left.to_vec(), 2, 0));
    assert_eq!(servers(&node, chunk), [1, 2]);
}

// The block may be whole on the disk that is missing: neither may the recovery begin without it, nor may it be given up.
#[tokio::test(start_paused = true)]
async fn r3_nothing_is_mended_before_all_replicas_are_there() {
    let (mut node, chunk) = settled(2, &[1, 2, 3]).await;
    node.disconnect(2);
    rot(&node, 1, chunk, 1);
    let disk = node.disks.lock().replicas.remove(&(2, chunk)).expect("it has a replica");
    node.connect(2, 2, &[]);
    tokio::time::sleep(3 * limits::INVENTORY_SETTLED).await;
    let row = node.chunk(chunk);
    assert_eq!((row.version, row.intent, servers(&node, chunk)), (ChunkVersion(1), None, vec![1, 2]));
    node.disconnect(2);
    node.put(2, chunk, disk);
    node.connect(2, 3, &[]);
    let is_over = |n: &Node| n.chunk(chunk).version > ChunkVersion(1) && n.chunk(chunk).intent.is_none();
    node.until("it is recovered", is_over).await;
    assert_eq!((cells(&node, 1, chunk), cells(&node, 2, chunk)), (WHOLE.to_vec(), WHOLE.to_vec()));
    assert_eq!((servers(&node, chunk), losses(&node)), (vec![1, 2], 0));
}

// Nobody has read the other one as a whole; what it lacks may be here.
#[tokio::test(start_paused = true)]
async fn r3_a_replica_that_does_not_stay_whole_is_mended_less_and_less_often() {
    let (node, chunk) = settled(3, &[1, 2, 3]).await;
    node.disks.lock().weak.insert((1, chunk));
    node.until("it is recovered", |n| intents(n) == 1 && n.chunk(chunk).intent.is_none()).await;
    // After 1, 3, 7, 15 and 31 pauses.
    tokio::time::sleep(40 * limits::MEND_PAUSE).await;
    assert_eq!((intents(&node), losses(&node), servers(&node, chunk)), (6, 0, vec![1, 2]));
    assert_eq!(cells(&node, 2, chunk), WHOLE);
    node.disks.lock().weak.clear();
    tokio::time::sleep(25 * limits::MEND_PAUSE).await;
    assert_eq!((cells(&node, 1, chunk), intents(&node)), (WHOLE.to_vec(), 7));
}

/// The first server's block has rotted, the other one is away, and the chunk is to be recovered.
async fn recovered_without_the_other() -> (Node, ChunkId) {
    let (mut node, chunk) = settled(2, &[1, 2, 3]).await;
    rot(&node, 1, chunk, 1);
    node.disconnect(2);
    let start = StartIntent { chunk, version: ChunkVersion(1), grant: None, kind: IntentKind::Recover };
    node.apply(|w| {
        w.apply(Command::StartIntent(start));
    });
    tokio::time::sleep(limits::LOSS_PATIENCE / 2).await;
    assert!(node.chunk(chunk).intent.is_some(), "the other one may have it whole");
    (node, chunk)
}

#[tokio::test(start_paused = true)]
async fn p1_who_restarts_with_the_last_whole_copy_of_a_block_is_waited_for() {
    let (mut node, chunk) = recovered_without_the_other().await;
    node.connect(2, 2, &[]);
    node.ready(chunk).await;
    assert_eq!((cells(&node, 1, chunk), cells(&node, 2, chunk)), (WHOLE.to_vec(), WHOLE.to_vec()));
    assert_eq!(servers(&node, chunk), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn p5_who_stays_away_with_it_is_not_waited_for_without_end() {
    let (node, chunk) = recovered_without_the_other().await;
    tokio::time::sleep(limits::LOSS_PATIENCE / 2).await;
    node.ready(chunk).await;
    assert_eq!((cells(&node, 1, chunk)[1], servers(&node, chunk)), ((2, false), vec![1]));
}

#[tokio::test(start_paused = true)]
async fn r3_damage_under_a_grant_waits_for_its_end() {
    let (node, chunk) = settled(2, &[1, 2, 3]).await;
    let session = node.world.lock().open(2);
    let inode = node.chunk(chunk).inode;
    let mut grant = None;
    node.apply(|w| grant = Some(w.take(session, inode, 0)));
    let grant = grant.expect("taken");
    node.handle.session_seen(session);
    rot(&node, 1, chunk, 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!((node.chunk(chunk).version, intents(&node)), (ChunkVersion(1), 0));
    node.apply(|w| {
        w.end(session, &[end(&grant)]);
    });
    node.until("it is recovered", |n| n.chunk(chunk).version == ChunkVersion(2)).await;
    assert_eq!(cells(&node, 1, chunk), WHOLE);
}

#[test]
fn what_stays_damaged_is_tried_again_only_if_something_has_changed() {
    let mut world = World::new(2);
    let session = world.open(1);
    let (_, chunk) = world.file(session, "f", 1);
    let (one, two, now) = (ServerId(1), ServerId(2), Instant::now());
    let later = now + limits::MEND_PAUSE;
    let mut damages = Damages::default();
    damages.take_in(now, one, &[(chunk, 1)]);
    damages.take_in(now, two, &[(chunk, 1)]);
    let row = world.chunk(chunk);
    assert_eq!(damages.judge(now, &row, chunk), Verdict::Mend);
    damages.begin(now, &row, chunk);
    assert_eq!(damages.judge(now, &row, chunk), Verdict::Wait);
    assert_eq!(damages.judge(later, &row, chunk), Verdict::Mend, "S6: the record was refused");
    let row = Chunk { version: ChunkVersion(2), ..row };
    assert_eq!(damages.judge(later, &row, chunk), Verdict::Hopeless);
    let mut moved = row.clone();
    moved.replicas[1].server = ServerId(3);
    assert_eq!(damages.judge(later, &moved, chunk), Verdict::Mend, "another holder has come");
    damages.take_in(later, one, &[(chunk, 2)]);
    assert_eq!(damages.judge(later, &row, chunk), Verdict::Mend, "there is more damage");
    damages.take_in(later, one, &[(chunk, 1)]);
    assert_eq!(damages.judge(later, &row, chunk), Verdict::Hopeless);
    damages.take_in(later, one, &[]);
    damages.take_in(later, one, &[(chunk, 1)]);
    assert_eq!(damages.judge(later, &row, chunk), Verdict::Mend, "it had been mended, and is damaged again");
    let alone = Chunk { replicas: row.replicas[..1].to_vec(), ..row };
    assert_eq!(Damages::default().judge(later, &alone, chunk), Verdict::Hopeless, "who should help");
}
