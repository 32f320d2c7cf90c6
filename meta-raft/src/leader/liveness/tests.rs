//! The gate of read leases: what a server that comes back is told first, and what it need not wait for (M3, docs/adr/0008).

use std::collections::HashMap;
use std::time::Duration;

use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{ToServer, to_server};
use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, InodeId, ROOT_INODE, ServerId, SessionId};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Liveness;
use crate::fsm::command::{ClientOp, Command};
use crate::fsm::ops::chunk::world::World;
use crate::fsm::reply::{GrantState, Reply};
use crate::fsm::tables::{Txn, garbage};
use crate::leader::context::Cx;
use crate::leader::garbage::Collector;
use crate::leader::limits;
use crate::leader::links::{Link, Links, Room};
use crate::leader::recovery::Recovery;
use crate::leader::shared::Shared;
use crate::leader::testing::Node;

/// The server that comes back.
const BACK: ServerId = ServerId(2);

/// A file `f` of one chunk, at rest on servers 1 and 2.
fn file(world: &mut World) -> (SessionId, InodeId, ChunkId) {
    let session = world.open(1);
    let (inode, chunk) = world.file(session, "f", 100);
    (session, inode, chunk)
}

/// The chunk goes on without that server: a recovery leaves it out.
fn go_on(world: &mut World, (session, inode, chunk): (SessionId, InodeId, ChunkId)) {
    let grant = world.take(session, inode, 0);
    assert_eq!(world.report(session, inode, &grant), GrantState::Pending);
    assert_eq!(world.ready(chunk, &[(1, 1, true)]), Reply::Done);
    assert_eq!(garbage::get(&world.tables, BACK, chunk).unwrap(), Some(ChunkVersion(2)));
}

fn gone_on(world: &mut World) -> (SessionId, InodeId, ChunkId) {
    let file = file(world);
    go_on(world, file);
    file
}

/// Deletions for that server of so many chunks that are gone, from this id on.
fn gone(world: &mut World, first: u64, count: usize) {
    let mut txn = Txn::new(&world.tables);
    for id in (first..).take(count) {
        garbage::put(&mut txn, BACK, ChunkId(id), ChunkVersion(1)).unwrap();
    }
    txn.keep(|_, _, _| {});
    let changes = txn.finish();
    world.tables.commit(changes);
}

/// That server's new stream, which has room for one message, and that is taken.
struct Rig {
    world: World,
    liveness: Liveness,
    garbage: Collector,
    links: Links,
    shared: Shared,
    stream: mpsc::Receiver<ToServer>,
}

impl Rig {
    fn new(world: World) -> Self {
        let (outbox, stream) = mpsc::channel(1);
        outbox.try_send(ToServer { body: None }).unwrap();
        let link = Link {
            stream: 1,
            incarnation: Incarnation(1),
            outbox,
            ended: CancellationToken::new(),
            room: Room::default(),
            heard: Instant::now(),
            pending: HashMap::new(),
        };
        let mut links = Links::new(1, 1);
        links.attach(BACK, link);
        let (liveness, garbage) = (Liveness::default(), Collector::default());
        let mut rig = Self { world, liveness, garbage, links, shared: Shared::default(), stream };
        rig.with(|liveness, garbage, cx| {
            liveness.attached(cx, BACK, 1, Vec::new());
            garbage.server_attached(cx.now, BACK);
        });
        rig
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Liveness, &mut Collector, &mut Cx<'_>) -> T) -> T {
        let (now, mut proposals) = (Instant::now(), Vec::new());
        let mut cx = Cx {
            now,
            since: now,
            tables: &self.world.tables,
            applied: 1,
            links: &mut self.links,
            shared: &self.shared,
            proposals: &mut proposals,
        };
        act(&mut self.liveness, &mut self.garbage, &mut cx)
    }

    /// Looks at the gate once; whether it is open now.
    fn look(&mut self) -> bool {
        self.with(|liveness, garbage, cx| liveness.open_gates(cx, garbage, &Recovery::default())).unwrap();
        self.shared.leases.is_open(BACK)
    }

    /// Takes the next message off the stream: chunk and version of a Delete.
    fn told(&mut self) -> Option<(ChunkId, ChunkVersion)> {
        match self.stream.try_recv().ok()?.body? {
            to_server::Body::Command(command) => match command.body? {
                Body::Delete(delete) => Some((ChunkId(command.chunk), ChunkVersion(delete.up_to_version))),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }
}

fn left(node: &Node) -> usize {
    garbage::page(&node.world.lock().tables, BACK, None, usize::MAX).unwrap().len()
}

#[test]
fn m3_a_stale_replica_of_a_chunk_that_lives_holds_the_lease_back_until_its_deletion_is_on_the_stream() {
    let mut world = World::new(2);
    let (_, _, chunk) = gone_on(&mut world);
    let mut rig = Rig::new(world);
    assert!(!rig.look(), "there is no room for it");
    assert!(!rig.look());
    assert_eq!(rig.told(), None, "that is what was in the way");
    assert!(rig.look());
    assert_eq!(rig.told(), Some((chunk, ChunkVersion(2))));
}

#[test]
fn m3_one_of_a_file_that_is_unlinked_does_so_while_somebody_may_have_it_open() {
    let mut world = World::new(2);
    let (session, inode, chunk) = gone_on(&mut world);
    world.client(session, ClientOp::Unlink { parent: ROOT_INODE, name: b"f".to_vec() }).unwrap();
    let mut rig = Rig::new(world);
    assert!(!rig.look(), "S7");
    assert_eq!(rig.world.apply(Command::PurgeOrphans { inodes: vec![inode] }), Reply::Progress { finished: true });
    assert!(garbage::get(&rig.world.tables, BACK, chunk).unwrap().is_some());
    assert!(rig.look(), "there is still no room for it");
}

#[test]
fn what_was_cut_off_holds_no_lease_back() {
    let mut world = World::new(2);
    let (session, inode, chunk) = gone_on(&mut world);
    world.truncate(session, inode, 0);
    assert!(!world.exists(chunk) && garbage::get(&world.tables, BACK, chunk).unwrap().is_some());
    assert!(Rig::new(world).look());
}

#[test]
fn a_search_that_begins_anew_finds_what_was_added_behind_it() {
    let mut world = World::new(2);
    let file = file(&mut world);
    let (_, _, chunk) = file;
    // One more than a look gets through with.
    gone(&mut world, chunk.0 + 1000, limits::GATE_PAGES * limits::PAGE + 1);
    let mut rig = Rig::new(world);
    assert_eq!(rig.told(), None, "there is room now");
    assert!(!rig.look());
    assert_eq!(rig.told(), None, "nothing was stale");
    go_on(&mut rig.world, file);
    rig.garbage.look_again(BACK);
    assert!(!rig.look() && rig.look());
    assert_eq!(rig.told(), Some((chunk, ChunkVersion(2))));
}

#[tokio::test(start_paused = true)]
async fn deletions_of_chunks_that_are_gone_hold_no_lease_back() {
    let mut node = Node::new(2);
    gone(&mut node.world.lock(), 1, 2 * limits::GATE_PAGES * limits::PAGE);
    // None of them is carried out.
    node.disks.lock().mute.push((BACK.0, "delete"));
    node.connect(BACK.0, 1, &[]);
    let took = node.until("it has a lease", |n| n.handle.leases_open(BACK)).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn m3_stale_replicas_go_ahead_of_the_lease_and_of_what_is_gone() {
    let mut node = Node::new(2);
    gone(&mut node.world.lock(), 1, 2 * limits::DELETIONS);
    gone_on(&mut node.world.lock());
    node.disks.lock().mute.push((BACK.0, "delete"));
    node.connect(BACK.0, 1, &[]);
    let place = |n: &Node, what: &str| n.told().iter().position(|told| *told == (BACK.0, what.to_owned()));
    let all = ["delete 2", "lease", "delete 1"];
    node.until("it is told all three", |n| all.into_iter().all(|what| place(n, what).is_some())).await;
    let stale = place(&node, "delete 2");
    assert!(stale < place(&node, "lease") && stale < place(&node, "delete 1"));
    node.disks.lock().mute.clear();
    node.until("nothing is left", |n| left(n) == 0).await;
}

/// What the Ready that is on its way will add to the garbage counts.
#[tokio::test(start_paused = true)]
async fn adr7_a_server_that_comes_back_before_the_ready_that_leaves_it_out_waits_for_it() {
    let mut node = Node::new(2);
    gone(&mut node.world.lock(), 1, 2 * limits::DELETIONS);
    node.disks.lock().mute.push((BACK.0, "delete"));
    for server in [1, BACK.0] {
        node.connect(server, 1, &[]);
        node.attached(server).await;
    }
    let session = node.world.lock().open(1);
    let (inode, _) = node.file(session, "f", &[1, 2]);
    tokio::time::sleep(Duration::from_secs(3)).await;
    node.disconnect(BACK.0);
    node.disks.lock().mute.push((1, "fix"));
    node.apply(|w| {
        let grant = w.take(session, inode, 0);
        assert_eq!(w.report(session, inode, &grant), GrantState::Pending);
    });
    node.until("the plan is made without it", |n| n.told().contains(&(1, "fix 2".to_owned()))).await;
    let before = node.told().len();
    node.connect(BACK.0, 1, &[]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!node.handle.leases_open(BACK), "the Ready has still to come");
    node.disks.lock().mute.retain(|(server, _)| *server == BACK.0);
    node.until("it has a lease", |n| n.told()[before..].contains(&(BACK.0, "lease".to_owned()))).await;
    let told = node.told();
    let place = |what: &str| told[before..].iter().position(|told| *told == (BACK.0, what.to_owned()));
    assert!(place("delete 2").is_some() && place("delete 2") < place("lease"));
}
