//! A leader's loops on tables in memory, with chunk servers that are a few maps: for the tests of this folder, on tokio's paused clock.

mod servers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use caribou_proto::cluster::v1::{ClusterId, MetaNode};
use caribou_proto::ids::{ChunkId, ServerId, SessionId};
use futures::future::BoxFuture;
use parking_lot::Mutex;

use super::control::Host;
use super::deps::{Deps, LeaderLease, NotLeader, Proposer, View};
use super::handle::{Leader, LeaderHandle};
use crate::fsm::command::*;
use crate::fsm::ops::chunk::world::World;
use crate::fsm::reply::Reply;
use crate::fsm::tables::Tables;
use crate::fsm::tables::chunks::{self, Chunk};
use crate::fsm::tables::memory::MemoryTables;
use servers::serve;
pub(crate) use servers::{Disks, Replica, dial, from_server, registration};

/// A node that leads: its state, its loops, its servers.
pub(crate) struct Node {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) handle: LeaderHandle,
    host: Arc<TestHost>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) disks: Disks,
    connections: HashMap<u64, tokio::task::JoinHandle<()>>,
}

pub(crate) struct Lease(AtomicBool);

impl Lease {
    pub(crate) fn set(&self, valid: bool) {
        self.0.store(valid, Ordering::Release);
    }
}

impl LeaderLease for Lease {
    fn is_valid(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

struct Log {
    world: Arc<Mutex<World>>,
    handle: OnceLock<LeaderHandle>,
}

impl Proposer for Log {
    fn propose(&self, commands: Vec<Command>) -> BoxFuture<'static, Result<Vec<Reply>, NotLeader>> {
        let mut world = self.world.lock();
        let mut replies = Vec::new();
        for command in commands {
            replies.push(world.apply(command));
            if let Some(handle) = self.handle.get() {
                handle.effects(world.effects.clone());
            }
        }
        Box::pin(async move { Ok(replies) })
    }
}

impl View for Log {
    fn tables(&self) -> Box<dyn Tables + '_> {
        let tables: MemoryTables = self.world.lock().tables.clone();
        Box::new(tables)
    }

    fn applied_index(&self) -> u64 {
        self.world.lock().log.len() as u64
    }
}

pub(crate) struct TestHost {
    leader: Mutex<Option<LeaderHandle>>,
}

impl Host for TestHost {
    fn leader(&self) -> Option<LeaderHandle> {
        self.leader.lock().clone()
    }

    fn cluster(&self) -> Option<ClusterId> {
        Some(cluster())
    }

    fn leader_hint(&self) -> (u64, String) {
        (2, "10.0.0.2:7000".to_owned())
    }

    fn nodes(&self) -> Vec<MetaNode> {
        vec![MetaNode { node_id: 2, address: "10.0.0.2:7000".to_owned(), voter: true }]
    }
}

pub(crate) fn cluster() -> ClusterId {
    ClusterId { uuid: vec![7; 16].into(), generation: 1, nonce: 9 }
}

impl Node {
    /// A fresh cluster; its four servers are known and not attached.
    pub(crate) fn new(goal: u8) -> Self {
        Self::lead(World::new(goal), 1, Disks::default())
    }

    fn lead(world: World, term: u64, disks: Disks) -> Self {
        let world = Arc::new(Mutex::new(world));
        let log = Arc::new(Log { world: world.clone(), handle: OnceLock::new() });
        let lease = Arc::new(Lease(AtomicBool::new(true)));
        let deps = Deps { proposer: log.clone(), view: log.clone(), lease: lease.clone() };
        let (handle, _task) = Leader::start(term, 1, deps);
        assert!(log.handle.set(handle.clone()).is_ok());
        let host = Arc::new(TestHost { leader: Mutex::new(Some(handle.clone())) });
        Self { world, handle, host, lease, disks, connections: HashMap::new() }
    }

    /// The leader dies; another one takes over with the same state. Servers have to attach anew.
    pub(crate) fn fail_over(self) -> Self {
        self.handle.stop();
        for connection in self.connections.values() {
            connection.abort();
        }
        let old = std::mem::replace(&mut *self.world.lock(), World::new(1));
        Self::lead(old, self.handle.term() + 1, self.disks)
    }

    pub(crate) fn host(&self) -> Arc<dyn Host> {
        self.host.clone()
    }

    pub(crate) fn step_down(&self) {
        *self.host.leader.lock() = None;
        self.handle.stop();
    }

    /// Attaches a server that answers everything.
    pub(crate) fn connect(&mut self, server: u64, incarnation: u64, dirty: &[ChunkId]) {
        self.disconnect(server);
        let task = tokio::spawn(serve(self.host(), self.disks.clone(), server, incarnation, dirty.to_vec()));
        self.connections.insert(server, task);
    }

    pub(crate) fn disconnect(&mut self, server: u64) {
        if let Some(task) = self.connections.remove(&server) {
            task.abort();
        }
    }

    pub(crate) fn is_connected(&self, server: u64) -> bool {
        self.connections.contains_key(&server)
    }

    pub(crate) fn connect_all(&mut self) {
        for server in 1..=4 {
            self.connect(server, 1, &[]);
        }
    }

    pub(crate) fn apply(&self, act: impl FnOnce(&mut World)) {
        let mut world = self.world.lock();
        act(&mut world);
        let effects = world.effects.clone();
        drop(world);
        self.handle.effects(effects);
    }

    pub(crate) fn chunk(&self, id: ChunkId) -> Chunk {
        self.world.lock().chunk(id)
    }

    pub(crate) fn put(&self, server: u64, chunk: ChunkId, replica: Replica) {
        self.disks.lock().replicas.insert((server, chunk), replica);
    }

    pub(crate) fn replica(&self, server: u64, chunk: ChunkId) -> Option<Replica> {
        self.disks.lock().replicas.get(&(server, chunk)).cloned()
    }

    /// A file of one chunk at rest on servers 1 and 2, with these blocks on both.
    pub(crate) fn file(
        &self,
        session: SessionId,
        name: &str,
        values: &[u32],
    ) -> (caribou_proto::ids::InodeId, ChunkId) {
        let length = values.len() as u64 * u64::from(caribou_proto::ids::BLOCK_BYTES);
        let (inode, chunk) = self.world.lock().file(session, name, length);
        for server in [1, 2] {
            self.put(server, chunk, Replica::whole(1, values));
        }
        (inode, chunk)
    }

    pub(crate) fn told(&self) -> Vec<(u64, String)> {
        self.disks.lock().told.clone()
    }

    /// Lets time pass until the condition holds; fails after a simulated minute.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&Self) -> bool) -> Duration {
        let start = tokio::time::Instant::now();
        while !holds(self) {
            assert!(
                start.elapsed() < Duration::from_secs(60),
                "it does not come to pass: {what}; told: {:?}",
                self.told()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        start.elapsed()
    }

    pub(crate) async fn ready(&self, chunk: ChunkId) -> Duration {
        self.until("the chunk is ready", |n| {
            chunks::get(&n.world.lock().tables, chunk).unwrap().unwrap().intent.is_none()
        })
        .await
    }

    pub(crate) async fn attached(&self, server: u64) {
        self.until("the server has a lease", |n| n.handle.leases_open(ServerId(server))).await;
    }
}

impl LeaderHandle {
    pub(crate) fn leases_open(&self, server: ServerId) -> bool {
        self.shared_for_tests().leases.is_open(server)
    }
}
