//! A metadata node as a machine: a folder, an address, and a power switch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_meta_raft::config::LimitsConfig;
use caribou_meta_raft::embedded::Embedded;
use caribou_meta_raft::folder_image;
use caribou_meta_raft::raft::{Blocking, RaftConfig, RaftNode, Surroundings};
use caribou_proto::ids::NodeId;
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::clock::SimClock;
use crate::net::Net;

/// A write of the log takes between these.
const SYNC_TIME_US: std::ops::Range<u64> = 100..600;
/// Small enough that a run sees snapshots and purges.
const SNAPSHOT_AFTER_BYTES: u64 = 64 << 10;
const LOG_KEEP_BYTES: u64 = 32 << 10;

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

    /// Whether this node leads and says so.
    pub fn leads(&self) -> bool {
        self.raft().is_some_and(|raft| raft.leader().borrow().ready)
    }

    pub async fn start(&mut self, net: &Arc<Net>, clock: &SimClock) -> Result<()> {
        assert!(self.node.is_none(), "a running node is not started");
        let mut config = RaftConfig::new(NodeId(self.id), &self.folder);
        config.snapshot_after_bytes = SNAPSHOT_AFTER_BYTES;
        config.log_keep_bytes = LOG_KEEP_BYTES;
        (config.block_cache_bytes, config.write_buffer_bytes) = (8 << 20, 8 << 20);
        config.log_tail_bytes = 64 << 10;
        let (net_of, own, rng) = (Arc::clone(net), self.address.clone(), Arc::clone(&self.rng));
        let sync_time = move || Duration::from_micros(rng.lock().random_range(SYNC_TIME_US));
        let clock = clock.clone();
        let surroundings = Surroundings {
            dial: Arc::new(move |to| Ok(net_of.line(&own, to))),
            now_ns: Arc::new(move || clock.now_ns()),
            blocking: Blocking::Inline { sync_time: Arc::new(sync_time) },
        };
        std::fs::create_dir_all(&self.folder)?;
        // Before it is up: it may speak to others as soon as its Raft runs.
        net.add(&self.address, None);
        let started = Embedded::start(config, LimitsConfig::default(), surroundings, Arc::new(|_| {})).await;
        let node = started.with_context(|| format!("metadata node {} does not start", self.id))?;
        net.add(&self.address, Some(node.routes()));
        self.node = Some(node);
        self.boots += 1;
        Ok(())
    }

    /// The power goes: the disk keeps what has been written to it at this moment, everything else is gone.
    pub async fn crash(&mut self, net: &Net) -> Result<()> {
        let Some(node) = self.node.take() else { return Ok(()) };
        net.remove(&self.address);
        let picture = self.root.join(format!("meta{}-{}", self.id, self.boots));
        folder_image::take(&self.folder, &picture).with_context(|| self.folder.display().to_string())?;
        let old = std::mem::replace(&mut self.folder, picture);
        node.end().await;
        // What still looks at the old state keeps its folder for a moment; then it stays until the run is over.
        if let Err(error) = std::fs::remove_dir_all(&old) {
            tracing::debug!(%error, folder = %old.display(), "kept");
        }
        Ok(())
    }

    /// Why the node must stop, if it must.
    pub fn failed(&mut self) -> Option<String> {
        self.node.as_mut()?.failed().map(|reason| reason.to_string())
    }
}
