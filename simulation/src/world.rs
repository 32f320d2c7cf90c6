//! The machines of a run: metadata nodes, chunk servers, and the power switches of all.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_proto::ids::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chunk_host::{ChunkHost, Crash, Struck};
use crate::clock::SimClock;
use crate::findings::Findings;
use crate::invariants::Invariants;
use crate::meta_host::MetaHost;
use crate::net::Net;

/// How long anything may take once there are no more faults.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How many machines of each kind there are, and copies of every chunk.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub meta: u64,
    pub chunk: u64,
    pub goal: u8,
}

impl Shape {
    /// Mostly three nodes and two copies. Nowhere are there fewer chunk servers than copies, here and there just as many.
    pub fn draw(rng: &mut StdRng) -> Self {
        let meta = if rng.random_ratio(1, 4) { 5 } else { 3 };
        let goal = [1, 2, 2, 2, 2, 2, 3, 3][rng.random_range(0..8)];
        let chunk = if rng.random_ratio(1, 3) { rng.random_range(4..=5) } else { 3 };
        Self { meta, chunk, goal }
    }
}

/// See the module.
pub struct World {
    pub net: Arc<Net>,
    pub clock: SimClock,
    pub findings: Arc<Findings>,
    invariants: Arc<Invariants>,
    pub meta: Vec<MetaHost>,
    pub chunk: Vec<ChunkHost>,
    /// Copies of every chunk.
    pub goal: usize,
    /// Chunk servers whose power will go, or has gone, in the middle of something.
    armed: BTreeMap<usize, Struck>,
    /// Chunk servers whose disks will fail, or have failed.
    failing: BTreeMap<usize, Failing>,
}

/// A disk that fails while its server goes on.
struct Failing {
    has_failed: Arc<AtomicBool>,
    is_counted: bool,
    /// How the server ends before it comes back: with what it had written, or only with what it had synced.
    end: Crash,
}

impl World {
    /// Everything is up, initialised and serving.
    ///
    /// # Errors
    /// When a machine does not come up.
    pub async fn start(root: &Path, rng: &mut StdRng, shape: Shape, findings: Arc<Findings>) -> Result<Self> {
        let fork = |rng: &mut StdRng| StdRng::seed_from_u64(rng.random());
        let mut world = Self {
            net: Net::new(rng.random(), findings.clone()),
            invariants: Invariants::new(findings.clone()),
            meta: (1..=shape.meta).map(|id| MetaHost::new(id, root, fork(rng))).collect(),
            chunk: (1..=shape.chunk).map(|id| ChunkHost::new(id, fork(rng))).collect(),
            goal: usize::from(shape.goal),
            armed: BTreeMap::new(),
            failing: BTreeMap::new(),
            clock: findings.clock().clone(),
            findings,
        };
        for index in 0..world.meta.len() {
            world.start_meta(index).await?;
        }
        let nodes = world.meta.iter().map(|host| (NodeId(host.id), host.address.clone())).collect();
        let first = world.meta[0].raft().context("the first node is up")?;
        first.init(nodes, shape.goal).await.context("init")?;
        for index in 0..world.chunk.len() {
            world.start_chunk(index).await?;
        }
        world.settled().await;
        Ok(world)
    }

    pub fn meta_addresses(&self) -> Vec<String> {
        self.meta.iter().map(|host| host.address.clone()).collect()
    }

    /// The node that leads: of several that say so, all but the one with the highest term are mistaken.
    pub fn leader(&self) -> Option<usize> {
        let leading = self.meta.iter().enumerate().filter_map(|(index, host)| Some((host.leads()?, index)));
        leading.max().map(|(_, index)| index)
    }

    pub async fn start_meta(&mut self, index: usize) -> Result<()> {
        let host = &mut self.meta[index];
        if !host.is_up() {
            host.start(&self.net, &self.clock).await?;
            let over = self.net.end_of(&host.address).context("it is up")?;
            let raft = host.raft().context("it has just started")?;
            self.findings.commands.node_is_up(&host.address, raft);
            self.invariants.watch(host.id, raft, over);
        }
        Ok(())
    }

    /// One that is armed may lose its power on the way.
    pub async fn start_chunk(&mut self, index: usize) -> Result<()> {
        let meta = self.meta_addresses();
        if self.chunk[index].is_up() {
            return Ok(());
        }
        let host = &mut self.chunk[index];
        let started = host.start(&self.net, &self.clock, meta).await;
        let wrong = host.store().and_then(|store| self.findings.commands.server_is_up(&host.address, store));
        wrong.into_iter().for_each(|what| self.findings.violation(what));
        if started.is_err() && self.bury_struck() > 0 { Ok(()) } else { started }
    }

    /// These machines go down at the same moment. False if all of them were off.
    pub async fn crash(&mut self, meta: &[usize], chunk: &[(usize, Crash)]) -> Result<bool> {
        self.look_for_failures();
        let mut was_up = false;
        for (index, crash) in chunk {
            was_up |= self.crash_chunk(*index, *crash);
        }
        self.findings.places.all();
        let mut rests = Vec::new();
        for index in meta {
            rests.extend(self.meta[*index].cut(&self.net)?);
        }
        was_up |= !rests.is_empty();
        for rest in rests {
            rest.end().await;
        }
        Ok(was_up)
    }

    fn crash_chunk(&mut self, index: usize, crash: Crash) -> bool {
        let has_struck = self.armed.remove(&index).is_some_and(|armed| armed.has_struck());
        self.good_again(index);
        let host = &mut self.chunk[index];
        if let (Crash::Power, false, Some(server)) = (crash, has_struck, host.server_id()) {
            self.findings.places.power_cut(server);
        }
        host.crash(&self.net, if has_struck { Crash::Power } else { crash })
    }

    /// A chunk server's power will go within the so many-th call of its disk.
    pub fn arm(&mut self, index: usize, calls: u64) {
        if self.failing.contains_key(&index) {
            return;
        }
        let host = &self.chunk[index];
        let armed = Struck::new(&self.net, host, &self.findings);
        host.arm(calls, armed.clone());
        self.armed.insert(index, armed);
    }

    /// Chunk servers whose power went go down; how many there were.
    pub fn bury_struck(&mut self) -> u64 {
        let struck: Vec<usize> =
            self.armed.iter().filter(|(_, armed)| armed.has_struck()).map(|(index, _)| *index).collect();
        for index in &struck {
            self.crash_chunk(*index, Crash::Power);
        }
        struck.len() as u64
    }

    /// See [`ChunkHost::fail_disk`]. Until everything is made good the server does without it.
    pub fn fail_disk(&mut self, index: usize, calls: u64, once: bool, end: Crash) {
        if self.armed.contains_key(&index) || self.failing.contains_key(&index) {
            return;
        }
        let has_failed = self.chunk[index].fail_disk(calls, once);
        self.chunk[index].server_id().into_iter().for_each(|server| self.findings.failing.add(server));
        self.failing.insert(index, Failing { has_failed, is_counted: false, end });
    }

    /// How many disks have failed since this was asked last.
    pub fn newly_failed(&mut self) -> u64 {
        let new = self.failing.values_mut().filter(|disk| !disk.is_counted && disk.has_failed.load(Ordering::Relaxed));
        new.map(|disk| disk.is_counted = true).count() as u64
    }

    /// Disks that have failed are good again, and their servers start anew.
    fn replace_failed(&mut self) {
        for index in self.failing.keys().copied().collect::<Vec<_>>() {
            let Some(disk) = self.good_again(index) else { continue };
            if disk.has_failed.load(Ordering::Relaxed) {
                self.crash_chunk(index, disk.end);
            } else {
                self.chunk[index].disarm();
            }
        }
    }

    fn good_again(&mut self, index: usize) -> Option<Failing> {
        let disk = self.failing.remove(&index)?;
        self.chunk[index].server_id().into_iter().for_each(|server| self.findings.failing.remove(server));
        Some(disk)
    }

    /// Everything is up, and the lines are good.
    pub async fn heal(&mut self) -> Result<()> {
        self.net.heal();
        self.bury_struck();
        for index in std::mem::take(&mut self.armed).into_keys() {
            self.chunk[index].disarm();
        }
        self.replace_failed();
        for index in 0..self.meta.len() {
            self.start_meta(index).await?;
        }
        for index in 0..self.chunk.len() {
            self.start_chunk(index).await?;
        }
        Ok(())
    }

    /// Waits until it holds; if it does not come to hold although nothing is broken, that is a finding.
    pub async fn wait_for(&self, patience: Duration, what: &str, mut holds: impl FnMut() -> bool) -> bool {
        let wait = async {
            while !holds() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        let is_there = tokio::time::timeout(patience, wait).await.is_ok();
        self.findings.check(is_there, || format!("liveness: {what} within {patience:?} although nothing is broken"));
        is_there
    }

    /// Returns once some node leads and all chunk servers follow it.
    pub async fn settled(&self) {
        let is_settled = || self.leader().is_some() && self.chunk.iter().all(ChunkHost::is_attached);
        self.wait_for(PATIENCE, "no leader that all chunk servers follow", is_settled).await;
    }

    /// A node that has stopped by itself: a broken invariant, or a failed store.
    pub fn look_for_failures(&mut self) {
        for host in &mut self.meta {
            if let Some(reason) = host.failed() {
                self.findings.violation(format!("metadata node {} has stopped: {reason}", host.id));
            }
        }
    }

    pub async fn end(&mut self) {
        for host in &mut self.chunk {
            host.crash(&self.net, Crash::Kill);
        }
        self.findings.places.all();
        for host in &mut self.meta {
            host.end(&self.net).await;
        }
    }
}
