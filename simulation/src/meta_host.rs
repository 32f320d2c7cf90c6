//! A metadata node as a machine: a folder, an address, and a power switch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_meta_raft::config::LimitsConfig;
use caribou_meta_raft::embedded::Embedded;
use caribou_meta_raft::folder_image;
use caribou_meta_raft::raft::{Blocking, RaftConfig, RaftNode, StateView, Surroundings};
use caribou_proto::ids::NodeId;
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::clock::SimClock;
use crate::net::Net;

/// How long a write of the log takes.
const SYNC_TIME_MS: std::ops::Range<u64> = 0..6;
/// Small enough that a run sees snapshots and purges.
const SNAPSHOT_AFTER_BYTES: u64 = 64 << 10;
const LOG_KEEP_BYTES: u64 = 32 << 10;
/// Far more than there is to keep: what has to leave depends on numbers that RocksDB draws for itself, and a query that finds its rows in memory
/// takes another way than one that does not. It is no memory before it is used.
const CACHE_BYTES: usize = 256 << 20;

/// See the module.
pub struct MetaHost {
    pub id: u64,
    pub address: String,
    root: PathBuf,
    folder: PathBuf,
    boots: u32,
    node: Option<Embedded>,
    rng: Arc<Mutex<StdRng>>,
}

impl MetaHost {
    /// A machine that is off.
    pub fn new(id: u64, root: &Path, rng: StdRng) -> Self {
        let folder = root.join(format!("meta{id}-0"));
        let (address, root) = (format!("meta{id}:1"), root.to_owned());
        Self { id, address, root, folder, boots: 0, node: None, rng: Arc::new(Mutex::new(rng)) }
    }

    pub fn is_up(&self) -> bool {
        self.node.is_some()
    }

    pub fn raft(&self) -> Option<&RaftNode> {
        self.node.as_ref().map(Embedded::raft)
    }

    /// The term in which this node leads, if it does and says so.
    pub fn leads(&self) -> Option<u64> {
        let leader = self.raft()?.leader().borrow().clone();
        leader.ready.then_some(leader.term)
    }

    /// What it has applied, if it is up.
    pub fn view(&self) -> Option<StateView> {
        self.raft().map(RaftNode::view)
    }

    /// How far it has applied, and the hash of all that.
    pub fn state(&self) -> Option<(u64, u64)> {
        let raft = self.raft()?;
        Some((*raft.applied().borrow(), raft.view().state_hash().ok()?))
    }

    pub async fn start(&mut self, net: &Arc<Net>, clock: &SimClock) -> Result<()> {
        assert!(self.node.is_none(), "a running node is not started");
        let mut config = RaftConfig::new(NodeId(self.id), &self.folder);
        config.snapshot_after_bytes = SNAPSHOT_AFTER_BYTES;
        config.log_keep_bytes = LOG_KEEP_BYTES;
        (config.block_cache_bytes, config.write_buffer_bytes) = (CACHE_BYTES, 8 << 20);
        config.merges_beside = false;
        config.log_tail_bytes = 64 << 10;
        // Before it is up: it may speak to others as soon as its Raft runs.
        let life = net.add(&self.address);
        let (net_of, own, rng) = (Arc::clone(net), life.clone(), Arc::clone(&self.rng));
        let sync_time = move || Duration::from_millis(rng.lock().random_range(SYNC_TIME_MS));
        let clock = clock.clone();
        let surroundings = Surroundings {
            dial: Arc::new(move |to| Ok(net_of.line(&own, to))),
            now_ns: Arc::new(move || clock.now_ns()),
            blocking: Blocking::Inline { sync_time: Arc::new(sync_time) },
        };
        std::fs::create_dir_all(&self.folder)?;
        let started = Embedded::start(config, LimitsConfig::default(), surroundings, Arc::new(|_| {})).await;
        let node = started.with_context(|| format!("metadata node {} does not start", self.id))?;
        net.serve(&life, node.routes());
        self.node = Some(node);
        self.boots += 1;
        Ok(())
    }

    /// The power goes: the disk keeps what has been written to it at this moment, everything else is gone. What is left of the node is to be
    /// ended. `None` if it was off.
    pub fn cut(&mut self, net: &Net) -> Result<Option<Rest>> {
        let Some(node) = self.node.take() else { return Ok(None) };
        net.remove(&self.address);
        let picture = self.root.join(format!("meta{}-{}", self.id, self.boots));
        folder_image::take(&self.folder, &picture).with_context(|| self.folder.display().to_string())?;
        let folder = std::mem::replace(&mut self.folder, picture);
        Ok(Some(Rest { node, folder }))
    }

    /// Goes down for good.
    pub async fn end(&mut self, net: &Net) {
        net.remove(&self.address);
        if let Some(node) = self.node.take() {
            node.end().await;
        }
    }

    /// Why the node must stop, if it must.
    pub fn failed(&mut self) -> Option<String> {
        self.node.as_mut()?.failed().map(|reason| reason.to_string())
    }
}

/// A node after its power went, which can do no harm any more.
pub struct Rest {
    node: Embedded,
    folder: PathBuf,
}

impl Rest {
    pub async fn end(self) {
        self.node.end().await;
        // What still looks at the old state keeps its folder for a moment; then it stays until the run is over.
        if let Err(error) = std::fs::remove_dir_all(&self.folder) {
            tracing::debug!(%error, folder = %self.folder.display(), "kept");
        }
    }
}
