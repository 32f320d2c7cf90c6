//! Chunk servers that are a few maps: what they have on disk, how they answer, and what they say of it in heartbeats.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{
    Command as WireCommand, CommandResult, DamagedChunk, Disk, FromServer, Heartbeat, Inventory, Prepared, Register,
    Status, StrayChunk, ToServer, from_server, to_server,
};
use caribou_proto::ids::{BLOCK_STATE_BYTES, BLOCKS_PER_CHUNK, ChunkId};
use futures::StreamExt;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::cluster;
use crate::leader::control::{self, Host};

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
    /// Replicas that have refused a write for want of space: as in the store, the next Prepare fences them and is refused.
    pub(crate) full: BTreeSet<(u64, ChunkId)>,
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
    let answers = control::serve(host, ReceiverStream::new(receiver).map(Ok));
    (sender, answers.map(|answer| answer.unwrap()))
}

pub(super) async fn serve(host: Arc<dyn Host>, disks: Disks, server: u64, incarnation: u64, dirty: Vec<ChunkId>) {
    loop {
        let (sender, mut answers) = dial(host.clone());
        let register = registration(server, incarnation, &dirty);
        sender.send(from_server(from_server::Body::Register(register))).await.unwrap();
        let mut beat = tokio::time::interval(Duration::from_millis(250));
        let mut stamp = 0;
        let mut held: Vec<WireCommand> = Vec::new();
        let mut compared = Compared::default();
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
                        let mut disks = disks.lock();
                        disks.told.push((server, format!("inventory of {}", inventory.chunks.len())));
                        compared.take(&disks, server, inventory);
                    }
                    Some(_) => {}
                    None => break,
                },
                _ = beat.tick() => {
                    stamp += 1;
                    let damaged_chunks = damaged(&disks, server);
                    let (lost_chunks, stray_chunks) = compared.told(&disks.lock(), server);
                    let disks = vec![disk()];
                    let heartbeat = Heartbeat { stamp, disks, lost_chunks, damaged_chunks, stray_chunks };
                    if sender.send(from_server(from_server::Body::Heartbeat(heartbeat))).await.is_err() {
                        break;
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What a server makes of what the leader counts on; as in the store, what is not so any more is not told.
#[derive(Default)]
struct Compared {
    /// With the versions that were meant.
    lost: Vec<(u64, u64)>,
    strays: BTreeSet<ChunkId>,
}

impl Compared {
    fn take(&mut self, disks: &DiskWorld, server: u64, inventory: Inventory) {
        let Inventory { first, chunks, versions, from, up_to, under_way } = inventory;
        if first {
            *self = Self::default();
        }
        let counted: BTreeSet<ChunkId> = chunks.iter().chain(&under_way).copied().map(ChunkId).collect();
        let here = disks.replicas.keys().filter(|key| key.0 == server).map(|key| key.1);
        self.strays.extend(here.filter(|chunk| (from..=up_to).contains(&chunk.0) && !counted.contains(chunk)));
        self.lost.extend(chunks.into_iter().zip(versions));
        self.forget(disks, server);
    }

    fn forget(&mut self, disks: &DiskWorld, server: u64) {
        let replica = |chunk: u64| disks.replicas.get(&(server, ChunkId(chunk)));
        self.lost.retain(|(chunk, version)| replica(*chunk).is_none_or(|replica| replica.completed < *version));
        self.strays.retain(|chunk| replica(chunk.0).is_some());
    }

    fn told(&mut self, disks: &DiskWorld, server: u64) -> (Vec<u64>, Vec<StrayChunk>) {
        self.forget(disks, server);
        let lost = self.lost.iter().map(|(chunk, _)| *chunk).collect();
        let version = |chunk: &ChunkId| disks.replicas[&(server, *chunk)].version;
        (lost, self.strays.iter().map(|chunk| StrayChunk { chunk: chunk.0, version: version(chunk) }).collect())
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
            if disks.full.remove(&key) {
                return fail(Status::NoSpace);
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
