//! A cluster with its folder and mounts, taken down however a scenario ends; leftovers of a crashed run are cleaned by the next.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use caribou_cli::cmd::status::ClusterStatus;
use caribou_cli::local::{self, LocalCluster, Options, Part};
use rustix::process::Signal;

use crate::args::Setting;
use crate::nemesis::power;
use crate::network::{Host, Network};
use crate::wait;

/// How long a process may take to stand still.
pub const STOP_PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(1);

/// Prefix of every folder that a lab makes.
const PREFIX: &str = "caribou-lab-";
/// Lines of each log that are shown after a failure.
const TAIL_LINES: usize = 40;
/// A follower that is fewer entries behind the leader has caught up: some are always on their way.
const NEAR_ENTRIES: u64 = 100;

/// A cluster under test.
pub struct Lab {
    pub cluster: LocalCluster,
    folder: PathBuf,
    keep: bool,
    /// `finish` has taken it down.
    finished: bool,
    mounts: BTreeMap<PathBuf, Mounted>,
    /// Loop-mounted file systems below the folder.
    volumes: Vec<PathBuf>,
    /// Servers with a network namespace of their own, and what connects them.
    hosts: BTreeMap<(Part, usize), Host>,
    network: Option<Network>,
}

/// How a mount was made.
#[derive(Debug, Clone)]
struct Mounted {
    options: Vec<String>,
    host: Option<Host>,
}

impl Lab {
    /// A cluster with its data in plain folders.
    pub async fn up(setting: &Setting, options: &Options) -> Result<Self> {
        let folder = make_folder(setting)?;
        Self::with(setting, folder, options, Grounds::default()).await
    }

    /// A cluster where each node's data lies on its own loop-mounted file system, so that its power can be cut. Needs root.
    pub async fn up_on_volumes(setting: &Setting, options: &Options) -> Result<Self> {
        let folder = make_folder(setting)?;
        match Grounds::volumes(&folder, options) {
            Ok(grounds) => Self::with(setting, folder, options, grounds).await,
            Err(error) => {
                clean(&folder);
                Err(error)
            }
        }
    }

    /// A cluster where, in addition, each server and each mount is a host of its own: a network namespace with its own address. Needs root.
    pub async fn up_on_hosts(setting: &Setting, options: &Options) -> Result<Self> {
        let folder = make_folder(setting)?;
        match Grounds::volumes(&folder, options).and_then(|grounds| grounds.with_hosts(options)) {
            Ok(grounds) => Self::with(setting, folder, options, grounds).await,
            Err(error) => {
                clean(&folder);
                Err(error)
            }
        }
    }

    async fn with(setting: &Setting, folder: PathBuf, options: &Options, grounds: Grounds) -> Result<Self> {
        let mut options = options.clone();
        if !grounds.volumes.is_empty() {
            options.data_of = |dir, part, number| vec![dir.join(format!("{}{number}", part.name())).join("data")];
        }
        for (place, host) in &grounds.hosts {
            options.hosts.insert(*place, local::Host { address: host.address(), through: host.through() });
        }
        if grounds.network.is_some() {
            // Nobody but these hosts reaches them.
            for config in [&mut options.meta_config, &mut options.chunk_config] {
                config.insert_str(0, "insecure_listen = true\n");
            }
        }
        let cluster = LocalCluster::create(&folder.join("cluster"), setting.binaries.clone(), &options).await;
        match cluster {
            Ok(cluster) => Ok(Self {
                cluster,
                folder,
                keep: setting.keep,
                finished: false,
                mounts: BTreeMap::new(),
                volumes: grounds.volumes,
                hosts: grounds.hosts,
                network: grounds.network,
            }),
            Err(error) => {
                if !setting.keep {
                    clean(&folder);
                }
                Err(error)
            }
        }
    }

    /// One more mount of the cluster.
    pub async fn mount(&mut self, options: &[&str]) -> Result<PathBuf> {
        let path = self.folder.join(format!("mnt{}", self.mounts.len() + 1));
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let options = options.iter().map(|&o| o.to_owned()).collect();
        let host = self.network.as_mut().map(Network::add).transpose()?;
        self.mounts.insert(path.clone(), Mounted { options, host });
        self.mount_again(&path).await?;
        Ok(path)
    }

    /// A mount that was taken away comes back at its place.
    pub async fn mount_again(&mut self, path: &Path) -> Result<()> {
        let mounted = self.mounts.get(path).with_context(|| format!("{} was never mounted", path.display()))?;
        let through = mounted.host.as_ref().map(Host::through).unwrap_or_default();
        self.cluster.mount_through(&through, path, &mounted.options).await
    }

    /// The host of a server, if the lab has hosts.
    pub fn host(&self, part: Part, number: usize) -> Option<&Host> {
        self.hosts.get(&(part, number))
    }

    /// The addresses of all clients: mounts and the harness itself. Empty if the lab has no hosts.
    pub fn client_ips(&self) -> Vec<String> {
        let mounts = self.mounts.values().filter_map(|mounted| mounted.host.as_ref()).map(|host| host.ip().to_owned());
        mounts.chain(self.network.as_ref().map(Network::harness)).collect()
    }

    /// Where everything of the lab is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// An ext4 of its own, to compare with. Needs root.
    pub fn local_volume(&self) -> Result<PathBuf> {
        let path = self.folder.join("ext4");
        power::make_volume(&path)?;
        Ok(path)
    }

    /// SIGKILL for the leader; returns its number.
    pub async fn kill_leader(&mut self) -> Result<usize> {
        let leader = self.leader().await?;
        self.cluster.signal(Part::Meta, leader, Signal::KILL)?;
        Ok(leader)
    }

    /// The leader's number, waiting for one if need be.
    pub async fn leader(&self) -> Result<usize> {
        self.cluster.wait_for(Duration::from_secs(20), "a ready leader", |s| s.leader().is_some()).await?;
        self.cluster.leader().await.context("a leader that was there a moment ago")
    }

    /// Waits until every metadata node answers and lags hardly behind the leader.
    pub async fn wait_caught_up(&self, patience: Duration) -> Result<()> {
        let near = |lag: Option<u64>| lag.is_some_and(|entries| entries < NEAR_ENTRIES);
        let caught_up =
            move |s: &ClusterStatus| s.nodes.iter().all(|node| node.health == "ok" && near(node.lag_entries));
        self.cluster.wait_for(patience, "cluster whose nodes have all caught up", caught_up).await
    }

    /// Waits until all metadata nodes have the same state: it does not come before everything is applied everywhere.
    pub async fn wait_equal_states(&self, patience: Duration) -> Result<()> {
        self.cluster
            .wait_for(patience, "equal state hashes", |s| {
                let first = &s.nodes[0];
                s.nodes.iter().all(|n| n.applied_index == first.applied_index && n.state_hash == first.state_hash)
            })
            .await
    }

    /// Cuts the power of all servers at once: un-synced data are gone, processes killed, file systems mounted again. First nobody runs any
    /// more, then the file systems go: a machine without power answers nothing, least of all that its disk has failed.
    pub fn cut_all_power(&mut self, parts: &[(Part, usize)]) -> Result<()> {
        let nodes: Vec<_> = parts.iter().flat_map(|(part, count)| (1..=*count).map(|number| (*part, number))).collect();
        self.cut_power(&nodes)
    }

    /// The same for some of them.
    pub fn cut_power(&mut self, nodes: &[(Part, usize)]) -> Result<()> {
        for (part, number) in nodes {
            self.cluster.signal(*part, *number, Signal::STOP)?;
        }
        // A thread in the middle of a system call stops at its end.
        for (part, number) in nodes {
            let process = self.cluster.layout().nodes(*part)[number - 1].process;
            let stands_still = || process.is_none_or(|process| !process.is_alive() || process.is_paused());
            let has_stopped = wait::until_blocking(STOP_PATIENCE, LOOK, stands_still);
            ensure!(has_stopped, "{} {number} goes on after SIGSTOP", part.name());
        }
        for (part, number) in nodes {
            power::cut(&self.volume(*part, *number)?)?;
        }
        for (part, number) in nodes {
            self.cluster.signal(*part, *number, Signal::KILL)?;
            power::remount(&self.volume(*part, *number)?)?;
        }
        Ok(())
    }

    /// Where a server's own file system is mounted.
    pub fn volume(&self, part: Part, number: usize) -> Result<PathBuf> {
        let name = format!("{}{number}", part.name());
        self.volumes.iter().find(|v| v.ends_with(&name)).cloned().with_context(|| format!("{name} has no volume"))
    }

    /// Takes everything down and removes the folder, unless it shall be kept after a failure.
    pub fn finish(mut self, failed: bool) -> Result<()> {
        self.finished = true;
        let down = self.cluster.down();
        if down.is_err() {
            self.cluster.kill_all();
        }
        if failed || down.is_err() {
            self.tell_logs();
        }
        if failed && self.keep {
            println!("kept: {}", self.folder.display());
        } else {
            clean(&self.folder);
        }
        down
    }

    /// The ends of all logs, on standard error: after a failure nothing else is left of the run.
    fn tell_logs(&self) {
        for entry in std::fs::read_dir(self.folder.join("cluster")).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|e| e == "log") {
                eprintln!("--- the end of {}:\n{}", path.display(), caribou_cli::local::tail(&path, TAIL_LINES));
            }
        }
    }
}

/// What a cluster stands on.
#[derive(Debug, Default)]
struct Grounds {
    volumes: Vec<PathBuf>,
    hosts: BTreeMap<(Part, usize), Host>,
    network: Option<Network>,
}

impl Grounds {
    fn volumes(folder: &Path, options: &Options) -> Result<Self> {
        let mut volumes = Vec::new();
        for (part, number) in servers(options) {
            let path = folder.join("cluster").join(format!("{}{number}", part.name()));
            power::make_volume(&path)?;
            volumes.push(path);
        }
        Ok(Self { volumes, ..Self::default() })
    }

    fn with_hosts(mut self, options: &Options) -> Result<Self> {
        let mut network = Network::new()?;
        for server in servers(options) {
            self.hosts.insert(server, network.add()?);
        }
        self.network = Some(network);
        Ok(self)
    }
}

fn servers(options: &Options) -> Vec<(Part, usize)> {
    let of = |part: Part, count: usize| (1..=count).map(move |number| (part, number));
    of(Part::Meta, options.meta).chain(of(Part::Chunk, options.chunk)).collect()
}

impl Drop for Lab {
    /// After an error; `finish` has stopped everything before.
    fn drop(&mut self) {
        if self.folder.exists() && !self.finished {
            thaw_below(&self.folder);
            self.cluster.kill_all();
            self.tell_logs();
            if !self.keep {
                clean(&self.folder);
            }
        }
    }
}

fn make_folder(setting: &Setting) -> Result<PathBuf> {
    clean_leftovers(&setting.dir);
    let folder = tempfile::Builder::new().prefix(&format!("{PREFIX}{}-", std::process::id())).tempdir_in(&setting.dir);
    Ok(folder.with_context(|| setting.dir.display().to_string())?.keep())
}

/// Folders of runs whose process is gone.
fn clean_leftovers(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').next()) else { continue };
        let kept = entry.path().join("kept").exists();
        if !kept && !Path::new("/proc").join(pid).exists() {
            clean(&entry.path());
        }
    }
}

/// Whoever waits for a frozen file system cannot be killed.
fn thaw_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let volumes = mounts.lines().filter(|line| line.contains(" - ext4 ")).filter_map(|line| line.split(' ').nth(4));
    for volume in volumes.map(Path::new).filter(|volume| volume.starts_with(folder)) {
        // Fails for those that are not frozen.
        let _ = power::thaw(volume);
    }
}

/// Processes, mounts, loop devices and files below a lab's folder.
fn clean(folder: &Path) {
    thaw_below(folder);
    if let Ok(binaries) = caribou_cli::local::Binaries::find(None)
        && let Ok(mut cluster) = LocalCluster::open(&folder.join("cluster"), binaries)
    {
        cluster.kill_all();
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let below = mounts.lines().filter_map(|l| l.split(' ').nth(4)).filter(|m| Path::new(m).starts_with(folder));
    for mount in below.collect::<Vec<_>>().into_iter().rev() {
        caribou_cli::local::detach(Path::new(mount));
    }
    if let Err(error) = std::fs::remove_dir_all(folder) {
        tracing::warn!(folder = %folder.display(), %error, "a lab's folder could not be removed");
    }
}
