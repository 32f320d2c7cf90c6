//! A leader's loops on tables in memory, with chunk servers that are a few maps: for the tests of this folder, on tokio's paused clock.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{
    Command as WireCommand, CommandResult, DamagedChunk, Disk, FromServer, Heartbeat, Prepared, Register, Status,
    ToServer, from_server, to_server,
};
use caribou_proto::cluster::v1::{ClusterId, MetaNode};
use caribou_proto::ids::{BLOCK_STATE_BYTES, BLOCKS_PER_CHUNK, ChunkId, ServerId, SessionId};
use futures::StreamExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::control::Host;
use super::deps::{Deps, LeaderLease, NotLeader, Proposer, View};
use super::handle::{Leader, LeaderHandle};
use crate::fsm::command::*;
use crate::fsm::ops::chunk::world::World;
use crate::fsm::reply::Reply;
use crate::fsm::tables::Tables;
use crate::fsm::tables::chunks::{self, Chunk};
use crate::fsm::tables::memory::MemoryTables;

/// A node that leads: its state, its loops, its servers.
pub(crate) struct Node {
    pub(crate) world: Arc<Mutex<World>>,
    pub(crate) handle: LeaderHandle,
    host: Arc<TestHost>,
    pub(crate) lease: Arc<Lease>,
    pub(crate) disks: Disks,
    connections: HashMap<u64, tokio::task::JoinHandle<()>>,
}

/// What all servers have on disk: `(server, chunk) → replica`.
pub(crate) type Disks = Arc<Mutex<DiskWorld>>;

#[derive(Default)]
pub(crate) struct DiskWorld {
    pub(crate) replicas: BTreeMap<(u64, ChunkId), Replica>,
    /// Everything that servers were told, in order.
    pub(crate) told: Vec<(u64, String)>,
    /// Commands of this kind wait at these servers.
    pub(crate) mute: Vec<(u64, &'static str)>,
    /// Heartbeats answered, by server.
    pub(crate) leases: BTreeMap<u64, u64>,
    /// Replicas that their servers know to be damaged.
    pub(crate) found: BTreeSet<(u64, ChunkId)>,
    /// Replicas whose first block does not stay whole, whatever is written there.
    pub(crate) weak: BTreeSet<(u64, ChunkId)>,
}

/// One replica of a few blocks; a block is a value, whole or torn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Replica {
    pub(crate) version: u64,
    pub(crate) complete: bool,
    pub(crate) completed: u64,
    pub(crate) clean: bool,
    /// M16: not clean, but its page cache lives.
    pub(crate) same_boot: bool,
    pub(crate) cells: BTreeMap<u32, (u32, bool)>,
    /// What a power cut leaves.
    pub(crate) synced: BTreeMap<u32, (u32, bool)>,
}

impl Replica {
    pub(crate) fn whole(version: u64, values: &[u32]) -> Self {
        let cells: BTreeMap<u32, (u32, bool)> =
            (0u32..).zip(values).map(|(block, value)| (block, (*value, true))).collect();
        Self {
            version,
            complete: true,
            completed: version,
            clean: true,
            same_boot: false,
            synced: cells.clone(),
            cells,
        }
    }
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

pub(crate) fn registration(server: u64, incarnation: u64, dirty: &[ChunkId]) -> Register {
    Register {
        cluster: Some(cluster()),
        server_uuid: vec![server as u8; 16].into(),
        server_id: 0,
        incarnation,
        data_address: format!("127.0.0.1:{}", 9000 + server),
        disks: vec![disk()],
        unclean: !dirty.is_empty(),
        dirty_chunks: dirty.iter().map(|c| c.0).collect(),
    }
}

fn disk() -> Disk {
    Disk { total_bytes: 100 << 30, free_bytes: 50 << 30, ..Disk::default() }
}

pub(crate) fn from_server(body: from_server::Body) -> FromServer {
    FromServer { body: Some(body) }
}

/// Opens a control stream; the sender, and the messages of the leader.
pub(crate) fn dial(host: Arc<dyn Host>) -> (mpsc::Sender<FromServer>, impl futures::Stream<Item = ToServer> + Unpin) {
    let (sender, receiver) = mpsc::channel(64);
    let answers = super::control::serve(host, ReceiverStream::new(receiver).map(Ok));
    (sender, answers.map(|answer| answer.unwrap()))
}

async fn serve(host: Arc<dyn Host>, disks: Disks, server: u64, incarnation: u64, dirty: Vec<ChunkId>) {
    loop {
        let (sender, mut answers) = dial(host.clone());
        let register = registration(server, incarnation, &dirty);
        sender.send(from_server(from_server::Body::Register(register))).await.unwrap();
        let mut beat = tokio::time::interval(Duration::from_millis(250));
        let mut stamp = 0;
        let mut held: Vec<WireCommand> = Vec::new();
        let mut lost: Vec<(u64, u64)> = Vec::new();
        let lacks = |(chunk, version): &(u64, u64)| {
            let disks = disks.lock();
            disks.replicas.get(&(server, ChunkId(*chunk))).is_none_or(|replica| replica.completed < *version)
        };
        let mut look = tokio::time::interval(Duration::from_millis(10));
        loop {
            tokio::select! {
                _ = look.tick() => {
                    for command in std::mem::take(&mut held) {
                        match carry_out(&disks, (server, incarnation), command.clone()) {
                            Some(result) => sender.send(from_server(from_server::Body::Result(result))).await.unwrap(),
                            None => held.push(command),
                        }
                    }
                }
                answer = answers.next() => match answer.and_then(|a| a.body) {
                    Some(to_server::Body::Command(command)) => {
                        disks.lock().told.push((server, text(&command)));
                        held.push(command.clone());
                        if let Some(result) = carry_out(&disks, (server, incarnation), command) {
                            held.pop();
                            sender.send(from_server(from_server::Body::Result(result))).await.unwrap();
                        }
                    }
                    Some(to_server::Body::Heartbeat(_)) => {
                        let mut disks = disks.lock();
                        *disks.leases.entry(server).or_insert(0) += 1;
                        disks.told.push((server, "lease".to_owned()));
                    }
                    Some(to_server::Body::Inventory(inventory)) => {
                        disks.lock().told.push((server, format!("inventory of {}", inventory.chunks.len())));
                        if inventory.first {
                            lost.clear();
                        }
                        lost.extend(inventory.chunks.into_iter().zip(inventory.versions).filter(lacks));
                    }
                    Some(_) => {}
                    None => break,
                },
                _ = beat.tick() => {
                    stamp += 1;
                    lost.retain(lacks);
                    let lost_chunks = lost.iter().map(|(chunk, _)| *chunk).collect();
                    let damaged_chunks = damaged(&disks, server);
                    let disks = vec![disk()];
                    let heartbeat = Heartbeat { stamp, disks, lost_chunks, damaged_chunks, ..Heartbeat::default() };
                    if sender.send(from_server(from_server::Body::Heartbeat(heartbeat))).await.is_err() {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a server says of damage; as in the store, what has been mended is not known to be damaged any more.
fn damaged(disks: &Disks, server: u64) -> Vec<DamagedChunk> {
    let mut disks = disks.lock();
    let DiskWorld { replicas, found, weak, .. } = &mut *disks;
    for key in weak.iter().filter(|key| key.0 == server) {
        if let Some(cell) = replicas.get_mut(key).and_then(|replica| replica.cells.get_mut(&0)) {
            cell.1 = false;
            found.insert(*key);
        }
    }
    let torn = |key: &(u64, ChunkId)| {
        replicas.get(key).map_or(0, |replica| replica.cells.values().filter(|cell| !cell.1).count() as u32)
    };
    found.retain(|key| key.0 != server || torn(key) > 0);
    let named = found.iter().filter(|key| key.0 == server);
    named.map(|key| DamagedChunk { chunk: key.1.0, blocks: torn(key) }).collect()
}

fn text(command: &WireCommand) -> String {
    match command.body.as_ref().unwrap() {
        Body::Prepare(p) => format!("prepare {}{}", p.version, if p.join { " join" } else { "" }),
        Body::Fix(f) => format!("fix {}", f.version),
        Body::Delete(d) => format!("delete {}", d.up_to_version),
    }
}

/// `None`: it is not answered now.
fn carry_out(disks: &Disks, (server, incarnation): (u64, u64), command: WireCommand) -> Option<CommandResult> {
    let mut disks = disks.lock();
    let key = (server, ChunkId(command.chunk));
    let ok = CommandResult { id: command.id, status: Status::Ok as i32, ..Default::default() };
    let fail = |status: Status| Some(CommandResult { status: status as i32, ..ok.clone() });
    let told = text(&command);
    if disks.mute.iter().any(|(muted, kind)| *muted == server && told.starts_with(kind)) {
        return None;
    }
    match command.body.unwrap() {
        Body::Prepare(prepare) => {
            let before = disks.replicas.get(&key).cloned();
            let mut prepared = Prepared { incarnation, clean: true, ..Default::default() };
            if let Some(replica) = &before {
                if replica.version > prepare.version {
                    return fail(Status::WrongVersion);
                }
                prepared.found = true;
                prepared.had_version = replica.completed;
                prepared.clean = replica.clean;
                prepared.same_boot = replica.same_boot;
                prepared.blocks = table(replica).into();
            }
            // As the store has it: what is complete at this version stays so.
            let confirmed = before.as_ref().is_some_and(|r| r.complete && r.version == prepare.version);
            if !confirmed && (before.is_some() || prepare.join) {
                let empty = Replica { complete: false, completed: 0, ..Replica::whole(0, &[]) };
                let replica = Replica { version: prepare.version, complete: false, ..before.unwrap_or(empty) };
                disks.replicas.insert(key, replica);
            }
            Some(CommandResult { prepared: Some(prepared), ..ok })
        }
        Body::Fix(fix) => {
            let Some(mut replica) = disks.replicas.get(&key).cloned() else { return fail(Status::NoReplica) };
            if replica.version != fix.version {
                return fail(Status::WrongVersion);
            }
            if replica.complete {
                return Some(ok);
            }
            for fetch in &fix.fetches {
                let source = fetch.source.as_ref().unwrap().server_id;
                let Some(source) = disks.replicas.get(&(source, key.1)).cloned() else {
                    return fail(Status::Downstream);
                };
                for block in fetch.blocks.iter().flat_map(|r| r.first..r.first + r.count) {
                    match source.cells.get(&block) {
                        Some((_, false)) => return fail(Status::Downstream),
                        Some(cell) => drop(replica.cells.insert(block, *cell)),
                        None => drop(replica.cells.remove(&block)),
                    }
                }
            }
            if let Some(cut) = fix.cut_length {
                replica.cells.retain(|block, _| *block < cut.div_ceil(caribou_proto::ids::BLOCK_BYTES));
            }
            if fix.resum_damaged {
                replica.cells.values_mut().for_each(|cell| cell.1 = true);
            }
            (replica.complete, replica.completed, replica.clean, replica.same_boot) = (true, fix.version, true, false);
            replica.synced = replica.cells.clone();
            disks.replicas.insert(key, replica);
            Some(ok)
        }
        Body::Delete(delete) => {
            if disks.replicas.get(&key).is_some_and(|r| r.version > delete.up_to_version) {
                return fail(Status::WrongVersion);
            }
            disks.replicas.remove(&key);
            Some(ok)
        }
    }
}

fn table(replica: &Replica) -> Vec<u8> {
    let mut table = vec![0u8; BLOCKS_PER_CHUNK as usize * BLOCK_STATE_BYTES];
    for (block, (value, whole)) in &replica.cells {
        let at = *block as usize * BLOCK_STATE_BYTES;
        table[at] = 1 | if *whole { 2 } else { 0 };
        table[at + 1..at + 5].copy_from_slice(&value.to_le_bytes());
    }
    table
}
