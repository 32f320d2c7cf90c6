//! The machines of a run: three or five metadata nodes, chunk servers, and the power switches of all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use caribou_proto::ids::NodeId;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::chunk_host::{ChunkHost, Crash};
use crate::clock::SimClock;
use crate::findings::Findings;
use crate::invariants::Invariants;
use crate::meta_host::MetaHost;
use crate::net::Net;
use crate::workload::COPIES;

/// How long anything may take once there are no more faults.
pub const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// See the module.
pub struct World {
    pub net: Arc<Net>,
    pub clock: SimClock,
    pub findings: Arc<Findings>,
    invariants: Arc<Invariants>,
    pub meta: Vec<MetaHost>,
    pub chunk: Vec<ChunkHost>,
}

impl World {
    /// Everything is up, initialised and serving.
    pub async fn start(root: &Path, rng: &mut StdRng, meta: u64, chunk: u64) -> Result<Self> {
        let clock = SimClock::start();
        let findings = Arc::new(Findings::new(clock.clone()));
        let fork = |rng: &mut StdRng| StdRng::seed_from_u64(rng.random());
        let mut world = Self {
            net: Net::new(rng.random()),
            invariants: Invariants::new(findings.clone()),
            meta: (1..=meta).map(|id| MetaHost::new(id, root, fork(rng))).collect(),
            chunk: (1..=chunk).map(|id| ChunkHost::new(id, fork(rng))).collect(),
            clock,
            findings,
        };
        for index in 0..world.meta.len() {
            world.start_meta(index).await?;
        }
        let nodes = world.meta.iter().map(|host| (NodeId(host.id), host.address.clone())).collect();
        let first = world.meta[0].raft().context("the first node is up")?;
        first.init(nodes, COPIES as u8).await.context("init")?;
        for index in 0..world.chunk.len() {
            world.start_chunk(index).await?;
        }
        world.settled().await?;
        Ok(world)
    }

    pub fn meta_addresses(&self) -> Vec<String> {
        self.meta.iter().map(|host| host.address.clone()).collect()
    }

    pub fn leader(&self) -> Option<usize> {
        self.meta.iter().position(MetaHost::leads)
    }

    pub async fn start_meta(&mut self, index: usize) -> Result<()> {
        let host = &mut self.meta[index];
        if !host.is_up() {
            host.start(&self.net, &self.clock).await?;
            self.invariants.watch(host.id, host.raft().context("it has just started")?);
        }
        Ok(())
    }

    pub async fn crash_meta(&mut self, index: usize) -> Result<()> {
        self.meta[index].crash(&self.net).await
    }

    pub async fn start_chunk(&mut self, index: usize) -> Result<()> {
        let meta = self.meta_addresses();
        if self.chunk[index].is_up() {
            return Ok(());
        }
        self.chunk[index].start(&self.net, &self.clock, meta).await
    }

    pub fn crash_chunk(&mut self, index: usize, crash: Crash) {
        if crash == Crash::Power {
            self.findings.power_cut(index);
        }
        self.chunk[index].crash(&self.net, crash);
    }

    /// Everything is up, and the lines are good.
    pub async fn heal(&mut self) -> Result<()> {
        self.net.heal();
        for index in 0..self.meta.len() {
            self.start_meta(index).await?;
        }
        for index in 0..self.chunk.len() {
            self.start_chunk(index).await?;
        }
        Ok(())
    }

    /// Returns once some node leads and all chunk servers follow it.
    pub async fn settled(&self) -> Result<()> {
        let settled = async {
            while self.leader().is_none() || !self.chunk.iter().all(ChunkHost::is_attached) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(PATIENCE, settled).await.is_err() {
            bail!("no leader that all chunk servers follow within {PATIENCE:?} although nothing is broken");
        }
        Ok(())
    }

    /// All nodes must come to the same state.
    pub async fn equal(&self) -> Result<()> {
        let states = || -> Vec<(u64, u64)> {
            let state = |host: &MetaHost| {
                let raft = host.raft()?;
                Some((*raft.applied().borrow(), raft.view().state_hash().ok()?))
            };
            self.meta.iter().filter_map(state).collect()
        };
        let equal = async {
            loop {
                let found = states();
                if found.len() == self.meta.len() && found.windows(2).all(|pair| pair[0] == pair[1]) {
                    return;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        if tokio::time::timeout(PATIENCE, equal).await.is_err() {
            self.findings.violation(format!("the nodes' states are not equal at the end: {:?}", states()));
            return Ok(());
        }
        let mut contents = Vec::new();
        for raft in self.meta.iter().filter_map(MetaHost::raft) {
            let view = raft.view();
            contents.push(view.content_hash()?);
            if let Err(error) = view.check_invariants() {
                self.findings.violation(format!("the state of node {} is inconsistent: {error}", raft.node_id()));
            }
        }
        self.findings.check(contents.windows(2).all(|pair| pair[0] == pair[1]), || {
            format!("the nodes' rows are not equal at the end, though their histories are: {contents:x?}")
        });
        Ok(())
    }

    /// A node that has stopped by itself: a broken invariant, or a failed store.
    pub fn look_for_failures(&mut self) {
        for host in &mut self.meta {
            if let Some(reason) = host.failed() {
                self.findings.violation(format!("metadata node {} has stopped: {reason}", host.id));
            }
        }
    }

    pub async fn end(&mut self) -> Result<()> {
        for host in &mut self.chunk {
            host.crash(&self.net, Crash::Kill);
        }
        for host in &mut self.meta {
            host.crash(&self.net).await?;
        }
        Ok(())
    }
}
