//! A local cluster: made, started, stopped, killed and restarted part by part.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use caribou_proto::admin::v1::InitRequest;
use caribou_proto::cluster::v1::MetaNode;
use rustix::process::Signal;

use super::layout::{Layout, MountEntry, Node, Part};
use super::plan::{self, Options};
use super::process::{self, Binaries, ProcessId};
use super::starter::Starter;
use crate::admin;
use crate::cmd::status::ClusterStatus;
use crate::failure::usage;

/// How long a part may take to listen after its start.
const START_PATIENCE: Duration = Duration::from_secs(20);
/// How long the cluster may take to have a leader and all its servers.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// How long a part may take to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(20);
/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(20);
/// Lines of a log that are shown when a part does not start.
const TAIL_LINES: usize = 5;

/// A cluster in a folder.
#[derive(Debug)]
pub struct LocalCluster {
    dir: PathBuf,
    binaries: Binaries,
    layout: Layout,
    starter: Starter,
}

impl LocalCluster {
    /// Makes folders and configuration, starts everything and initialises the cluster.
    pub async fn create(dir: &Path, binaries: Binaries, options: &Options) -> Result<Self> {
        if Layout::exists(dir) {
            return Err(usage(format!(
                "{} holds a local cluster already: start it with `caribou local up --dir` without other options, or choose another folder",
                dir.display()
            )));
        }
        std::fs::create_dir_all(dir).map_err(|e| usage(format!("{} cannot be made: {e}", dir.display())))?;
        let dir = std::fs::canonicalize(dir)?;
        let layout = plan::layout(&dir, options)?;
        let mut cluster = Self { dir, binaries, layout, starter: Starter::new()? };
        plan::write_configs(&cluster.layout, options)?;
        cluster.save()?;
        let result = async {
            cluster.start_all().await?;
            let nodes = cluster.layout.meta.iter();
            let nodes =
                nodes.map(|n| MetaNode { node_id: n.number as u64, address: n.address.clone(), voter: true }).collect();
            let first = cluster.layout.meta[0].address.clone();
            admin::init(&first, InitRequest { nodes, default_goal: options.goal }).await?;
            cluster.wait_ready(READY_PATIENCE).await
        };
        if let Err(error) = result.await {
            cluster.kill_all();
            return Err(error);
        }
        Ok(cluster)
    }

    /// A cluster that is there, as it is.
    pub fn open(dir: &Path, binaries: Binaries) -> Result<Self> {
        let layout = Layout::read(dir)?;
        Ok(Self { dir: std::fs::canonicalize(dir)?, binaries, layout, starter: Starter::new()? })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    pub fn meta_addresses(&self) -> Vec<String> {
        self.layout.meta_addresses()
    }

    /// Starts every server that is not running.
    pub async fn start_all(&mut self) -> Result<()> {
        for part in [Part::Meta, Part::Chunk] {
            for number in 1..=self.layout.nodes(part).len() {
                self.spawn(part, number)?;
            }
        }
        // Chunk servers answer on their port only once they have found a leader or not; metadata nodes at once.
        for number in 1..=self.layout.meta.len() {
            self.wait_listening(Part::Meta, number).await?;
        }
        Ok(())
    }

    /// Starts one server (again) and waits until it listens.
    pub async fn start(&mut self, part: Part, number: usize) -> Result<()> {
        self.spawn(part, number)?;
        self.wait_listening(part, number).await
    }

    /// Starts one server without waiting for it.
    pub fn spawn(&mut self, part: Part, number: usize) -> Result<()> {
        let program = self.binaries.path(match part {
            Part::Meta => "caribou-meta",
            Part::Chunk => "caribou-chunkd",
        });
        let node = self.node_mut(part, number)?;
        if node.process.is_some_and(ProcessId::is_alive) {
            return Ok(());
        }
        let args = ["--config".to_owned(), node.config.display().to_string()];
        let (through, log) = (node.through.clone(), node.log.clone());
        let process = self.starter.start(&through, &program, &args, &log)?;
        self.node_mut(part, number)?.process = Some(process);
        self.save()
    }

    /// Puts other words in front of a server's program, from its next start on.
    pub fn start_through(&mut self, part: Part, number: usize, words: Vec<String>) -> Result<()> {
        self.node_mut(part, number)?.through = words;
        self.save()
    }

    /// Sends a signal to one server and, for deadly ones, waits until it is gone.
    pub fn signal(&mut self, part: Part, number: usize, signal: Signal) -> Result<()> {
        let node = self.node_mut(part, number)?;
        let Some(id) = node.process else { bail!("{} {number} is not running", part.name()) };
        id.signal(signal)?;
        if signal == Signal::KILL || signal == Signal::TERM {
            if !id.wait_gone(STOP_PATIENCE) {
                bail!("{} {number} (pid {}) did not end within {STOP_PATIENCE:?}", part.name(), id.pid);
            }
            node.process = None;
            self.save()?;
        }
        Ok(())
    }

    /// Sends a signal to a mount's process.
    pub fn signal_mount(&self, path: &Path, signal: Signal) -> Result<()> {
        let mount = self.layout.mounts.iter().find(|mount| mount.path == path);
        let process = mount.and_then(|mount| mount.process);
        process.with_context(|| format!("{} is not mounted", path.display()))?.signal(signal)
    }

    /// The number of the metadata node that leads and is ready.
    pub async fn leader(&self) -> Option<usize> {
        let status = self.status().await;
        let leader = status.leader()?;
        usize::try_from(leader.node_id).ok()
    }

    pub async fn status(&self) -> ClusterStatus {
        ClusterStatus::of(&self.meta_addresses()).await
    }

    /// Waits for a ready leader and for all running chunk servers to be connected to it.
    pub async fn wait_ready(&self, patience: Duration) -> Result<()> {
        let running = self.layout.chunk.iter().filter(|n| n.process.is_some_and(ProcessId::is_alive)).count();
        self.wait_for(patience, "a ready leader with all chunk servers", move |s| {
            s.leader().is_some() && s.chunk_servers.iter().filter(|c| c.connected).count() >= running
        })
        .await
    }

    /// Waits until the status fulfils a condition.
    pub async fn wait_for(
        &self,
        patience: Duration,
        what: &str,
        condition: impl Fn(&ClusterStatus) -> bool,
    ) -> Result<()> {
        let end = Instant::now() + patience;
        loop {
            let status = self.status().await;
            if condition(&status) {
                return Ok(());
            }
            if let Some((part, node)) = self.dead_part() {
                bail!(
                    "{} {} has ended; the end of {}:\n{}",
                    part.name(),
                    node.number,
                    node.log.display(),
                    process::tail(&node.log, TAIL_LINES)
                );
            }
            if Instant::now() >= end {
                bail!("no {what} within {patience:?}; the cluster says {}", serde_json::to_string(&status)?);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A part that should run and does not.
    fn dead_part(&self) -> Option<(Part, &Node)> {
        [Part::Meta, Part::Chunk].into_iter().find_map(|part| {
            let dead = self.layout.nodes(part).iter().find(|n| n.process.is_some_and(|p| !p.is_alive()));
            dead.map(|node| (part, node))
        })
    }

    /// Mounts the file system; more options are passed on (`-o soft=5s`).
    pub async fn mount(&mut self, path: &Path, options: &[String]) -> Result<()> {
        self.mount_through(&[], path, options).await
    }

    /// The same, with words in front of the mounting program.
    pub async fn mount_through(&mut self, through: &[String], path: &Path, options: &[String]) -> Result<()> {
        let found = std::fs::canonicalize(path).map_err(|e| {
            usage(format!("the mount point {} cannot be used ({e}): make the folder first", path.display()))
        })?;
        let log = self.free_mount_log();
        let mut args = vec!["--meta".to_owned(), self.meta_addresses().join(","), found.display().to_string()];
        args.extend_from_slice(options);
        let process = self.starter.start(through, &self.binaries.path("caribou-mount"), &args, &log)?;
        self.layout.mounts.retain(|m| m.path != found);
        self.layout.mounts.push(MountEntry { path: found.clone(), log: log.clone(), process: Some(process) });
        self.save()?;
        let end = Instant::now() + START_PATIENCE;
        while !is_mounted(&found)? {
            if !process.is_alive() {
                bail!("the mount of {} failed:\n{}", found.display(), process::tail(&log, TAIL_LINES));
            }
            if Instant::now() >= end {
                bail!("{} was not mounted within {START_PATIENCE:?}; see {}", found.display(), log.display());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// The first that no mount writes to: one that comes back while the others stay goes on in its own.
    fn free_mount_log(&self) -> PathBuf {
        let mut named = (1..).map(|number| self.dir.join(format!("mount{number}.log")));
        let is_free = |log: &PathBuf| self.layout.mounts.iter().all(|mount| mount.log != *log);
        named.find(is_free).expect("there are more numbers than mounts")
    }

    /// Takes a mount off the list.
    fn take_mount(&mut self, path: &Path) -> Result<MountEntry> {
        let mounts = &mut self.layout.mounts;
        let found = mounts.iter().position(|m| m.path == path);
        Ok(mounts.remove(found.with_context(|| format!("{} is not mounted", path.display()))?))
    }

    /// Unmounts cleanly: everything buffered is synced first.
    pub fn unmount(&mut self, path: &Path) -> Result<()> {
        let mount = self.take_mount(path)?;
        let stopped = match mount.process {
            Some(id) => id.signal(Signal::TERM).is_ok() && id.wait_gone(STOP_PATIENCE),
            None => true,
        };
        self.save()?;
        if !stopped {
            bail!("the mount of {} did not end within {STOP_PATIENCE:?}; see {}", path.display(), mount.log.display());
        }
        if is_mounted(path)? {
            detach(path);
        }
        Ok(())
    }

    /// Kills one mount's process (its un-synced bytes are lost) and detaches the dead mount.
    pub fn kill_mount(&mut self, path: &Path) -> Result<()> {
        let mount = self.take_mount(path)?;
        if let Some(id) = mount.process {
            id.signal(Signal::KILL)?;
            id.wait_gone(STOP_PATIENCE);
        }
        detach(path);
        self.save()
    }

    /// Stops everything in order: mounts, chunk servers, metadata nodes.
    pub fn down(&mut self) -> Result<()> {
        let mut failures = Vec::new();
        for mount in self.layout.mounts.clone() {
            if let Err(error) = self.unmount(&mount.path) {
                failures.push(error.to_string());
                let _ = self.kill_mount(&mount.path);
            }
        }
        for part in [Part::Chunk, Part::Meta] {
            let running: Vec<ProcessId> = self.layout.nodes(part).iter().filter_map(|n| n.process).collect();
            for id in &running {
                id.signal(Signal::TERM)?;
            }
            for id in running {
                if !id.wait_gone(STOP_PATIENCE) {
                    failures.push(format!(
                        "a {} server (pid {}) did not end within {STOP_PATIENCE:?}, killed",
                        part.name(),
                        id.pid
                    ));
                    id.signal(Signal::KILL)?;
                    id.wait_gone(STOP_PATIENCE);
                }
            }
            self.layout.nodes_mut(part).iter_mut().for_each(|n| n.process = None);
        }
        self.save()?;
        if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
    }

    /// SIGKILL for every process at once; mounts are detached.
    pub fn kill_all(&mut self) {
        let parts = self.layout.meta.iter().chain(&self.layout.chunk).filter_map(|n| n.process);
        let all: Vec<ProcessId> = parts.chain(self.layout.mounts.iter().filter_map(|m| m.process)).collect();
        for id in &all {
            // A process that is gone already is what we want.
            let _ = id.signal(Signal::KILL);
        }
        for id in all {
            id.wait_gone(STOP_PATIENCE);
        }
        for mount in std::mem::take(&mut self.layout.mounts) {
            detach(&mount.path);
        }
        for part in [Part::Meta, Part::Chunk] {
            self.layout.nodes_mut(part).iter_mut().for_each(|n| n.process = None);
        }
        if let Err(error) = self.save() {
            tracing::warn!(%error, "the cluster's file could not be written");
        }
    }

    fn node_mut(&mut self, part: Part, number: usize) -> Result<&mut Node> {
        let count = self.layout.nodes(part).len();
        let wrong =
            || usage(format!("there is no {} {number}: this cluster has {} 1 to {count}", part.name(), part.name()));
        self.layout.nodes_mut(part).get_mut(number.wrapping_sub(1)).ok_or_else(wrong)
    }

    async fn wait_listening(&self, part: Part, number: usize) -> Result<()> {
        let node = &self.layout.nodes(part)[number - 1];
        let end = Instant::now() + START_PATIENCE;
        while tokio::net::TcpStream::connect(&node.address).await.is_err() {
            if !node.process.is_some_and(ProcessId::is_alive) {
                bail!(
                    "{} {number} has ended; the end of {}:\n{}",
                    part.name(),
                    node.log.display(),
                    process::tail(&node.log, TAIL_LINES)
                );
            }
            if Instant::now() >= end {
                bail!(
                    "{} {number} does not listen on {} after {START_PATIENCE:?}; see {}",
                    part.name(),
                    node.address,
                    node.log.display()
                );
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    fn save(&self) -> Result<()> {
        self.layout.write(&self.dir)
    }
}

/// Whether something is mounted exactly there.
pub fn is_mounted(path: &Path) -> Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let path = path.display().to_string();
    Ok(mounts.lines().any(|line| line.split(' ').nth(4) == Some(&path)))
}

/// Takes a mount away whose process is gone; one of a user who may not do that by fusermount3, which may.
pub fn detach(path: &Path) {
    // Both fail when it is not mounted any more, which is what we want.
    let gone = rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH);
    if gone == Err(rustix::io::Errno::PERM) {
        let mut helper = std::process::Command::new("fusermount3");
        let _ = helper.args(["-u", "-z", "--"]).arg(path).stderr(std::process::Stdio::null()).status();
    }
}
