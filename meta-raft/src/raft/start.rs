//! Opens a data folder and brings Raft up on it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use caribou_failpoints::{self as failpoints, Point};
use openraft::{SnapshotPolicy, StepDownPolicy};
use parking_lot::Mutex;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::watch;

use super::api::{EventSink, LeaderState, StartError};
use super::config::{RAFT_THREADS, RaftConfig, SNAPSHOT_INSTALL_TIMEOUT};
use super::files;
use super::identity::{ClusterIdentity, DirLock, Identity};
use super::log_store::LogStore;
use super::network::Factory;
use super::network::peers::Peers;
use super::network::server::Server;
use super::node::Inner;
use super::proposer::{self, Proposer};
use super::reads::Reads;
use super::snapshot::SnapshotStore;
use super::snapshot::receive::{Gathering, Progress};
use super::state::StateStore;
use super::state_machine::StateMachine;
use super::surroundings::{Blocking, Surroundings};
use super::types::Raft;
use super::{catch_up, leadership, upkeep};
use crate::fsm::tables::meta;

/// How long `stop` waits for tasks that are in the middle of something.
pub(super) const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// The library's own thresholds count entries; ours count bytes, so these are out of reach (STACK, openraft 3).
const NEVER_BY_COUNT: u64 = 1 << 40;
/// Entries of one AppendEntries message; bytes bound it first (`MAX_READ_BYTES`).
const MAX_PAYLOAD_ENTRIES: u64 = 4096;

/// The settings of STACK, openraft 1–4.
fn library_config(config: &RaftConfig) -> Result<openraft::Config, StartError> {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let library = openraft::Config {
        cluster_name: "caribou".to_owned(),
        heartbeat_interval: ms(config.heartbeat),
        election_timeout_min: ms(config.election_timeout_min),
        election_timeout_max: ms(config.election_timeout_max),
        enable_pre_vote: Some(true),
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: NEVER_BY_COUNT,
        max_in_snapshot_log_to_keep: NEVER_BY_COUNT,
        max_payload_entries: MAX_PAYLOAD_ENTRIES,
        install_snapshot_timeout: ms(SNAPSHOT_INSTALL_TIMEOUT),
        // A hand-over that the library begins by itself would not revoke the read lease first (`reads`).
        removed_leader_step_down: StepDownPolicy::Never,
        ..Default::default()
    };
    library.validate().map_err(|e| StartError::Raft(e.to_string()))
}

/// What was found in the data folder.
struct Opened {
    identity: Arc<Identity>,
    log: LogStore,
    state: Arc<StateStore>,
    snapshots: Arc<SnapshotStore>,
    lock: DirLock,
}

/// Checks whose folder it is before anything in it is changed, then opens the stores. Blocks.
fn open(config: &RaftConfig, blocking: Blocking) -> Result<Opened, StartError> {
    let dir = &config.dir;
    let io = |source| StartError::Io { path: dir.clone(), source };
    let store = |path: &Path, e: String| StartError::Store { path: path.to_owned(), reason: e };
    // Looked at before anything is created or locked: another node's folder stays as it is.
    Identity::load(dir, config.node_id)?;
    files::create_dir(dir).map_err(io)?;
    let lock = DirLock::take(dir)?;
    let identity = Arc::new(Identity::load(dir, config.node_id)?);
    failpoints::pass(Point::StartLocked);
    let log_dir = dir.join("log");
    // The log has its first file before the node can take part: one that is gone may have held a vote.
    if identity.member_of().is_some() && !LogStore::is_there(&log_dir) {
        return Err(StartError::NoLog { path: log_dir });
    }
    let mut log = LogStore::open(&log_dir, config.log_tail_bytes, config.segment_bytes(), blocking)
        .map_err(|e| store(&log_dir, e.to_string()))?;
    failpoints::pass(Point::StartLogOpened);
    if identity.member_of().is_none() && !log.handle().is_pristine() {
        return Err(StartError::NoIdentity { path: dir.clone() });
    }
    let state_dir = dir.join("state");
    let state = Arc::new(StateStore::open(&state_dir, config).map_err(|e| store(&state_dir, e.to_string()))?);
    failpoints::pass(Point::StartStateOpened);
    let found = meta::cluster(&state.view()).map_err(|e| store(&state_dir, e.to_string()))?;
    let found = found.map(|c| ClusterIdentity { uuid: c.uuid, generation: c.generation, nonce: c.nonce });
    if let Some(found) = found.filter(|found| identity.member_of() != Some(*found)) {
        let expected = identity.member_of().map_or_else(|| "none".to_owned(), |c| c.to_string());
        return Err(StartError::OtherCluster { path: state_dir, found: found.to_string(), expected });
    }
    if let Some(applied) = state.applied().log_id {
        // The library saves a vote before it takes in any entry or snapshot.
        if log.handle().is_pristine() {
            return Err(StartError::NoLog { path: log_dir });
        }
        log.drop_conflicting(applied).map_err(|e| store(&log_dir, e.to_string()))?;
    } else if log.handle().is_pristine() {
        identity.forget_part();
    }
    let snapshot_dir = dir.join("snapshots");
    let snapshots = SnapshotStore::open(&snapshot_dir, &state).map_err(|e| store(&snapshot_dir, e.to_string()))?;
    failpoints::pass(Point::StartSnapshotsOpened);
    // A crash within the installation of a snapshot leaves a state without its own checkpoint: nothing older may be sent to others.
    let have = snapshots.current().and_then(|c| c.meta().last_log_id);
    if log.handle().needs_snapshot(have, state.applied().log_id) {
        snapshots.build(&state).map_err(|e| store(&snapshot_dir, e.to_string()))?;
    }
    Ok(Opened { identity, log, state, snapshots: Arc::new(snapshots), lock })
}

fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().worker_threads(RAFT_THREADS).thread_name("raft").enable_all().build()
}

/// Waits until all of its tasks and threads have ended, for [`STOP_TIMEOUT`] at most. From a thread of its own: a runtime must not be waited
/// for inside another.
pub(super) fn end(runtime: Runtime) {
    let started = std::time::Instant::now();
    let ended = std::thread::spawn(move || runtime.shutdown_timeout(STOP_TIMEOUT)).join();
    if ended.is_err() || started.elapsed() >= STOP_TIMEOUT {
        tracing::warn!("Raft's threads did not stop in time; one may still be at work on the store");
    }
}

pub(super) async fn start(
    config: RaftConfig,
    surroundings: Surroundings,
    events: EventSink,
) -> Result<Inner, StartError> {
    let library = library_config(&config)?;
    let (settings, place) = (config.clone(), surroundings.blocking.clone());
    let opened = surroundings.blocking.run(move || open(&settings, place)).await;
    let opened = opened.map_err(|e| StartError::Raft(e.to_string()))??;
    if opened.identity.cluster().is_some() {
        tokio::time::sleep(config.restart_wait()).await;
    }
    if let Blocking::Inline { .. } = surroundings.blocking {
        return run(config, surroundings, library, opened, events).await;
    }
    let runtime = runtime().map_err(|source| StartError::Io { path: config.dir.clone(), source })?;
    let started = runtime.spawn(run(config, surroundings, library, opened, events)).await;
    match started.map_err(|e| StartError::Raft(e.to_string())).flatten() {
        Ok(inner) => {
            *inner.runtime.lock() = Some(runtime);
            Ok(inner)
        }
        Err(e) => {
            end(runtime);
            Err(e)
        }
    }
}

/// On Raft's own runtime if it has one, so that everything the library spawns stays there.
async fn run(
    config: RaftConfig,
    surroundings: Surroundings,
    mut library: openraft::Config,
    opened: Opened,
    events: EventSink,
) -> Result<Inner, StartError> {
    let Opened { identity, log, state, snapshots, lock } = opened;
    let (applied_tx, applied) = watch::channel(0);
    let (leader_tx, leader) = watch::channel(LeaderState::default());
    let (fatal_tx, fatal) = watch::channel(None);
    let log_handle = log.handle();
    let Surroundings { blocking, now_ns, .. } = surroundings.clone();
    let (machine_state, place) = (Arc::clone(&state), blocking.clone());
    let machine =
        StateMachine::new(machine_state, Arc::clone(&snapshots), log_handle.clone(), events, applied_tx, place);
    let peers = Arc::new(Peers::new(Arc::clone(&identity), surroundings));
    let last_log = log_handle.last_index();
    let behind = catch_up::is_behind(last_log, state.applied_index());
    library.enable_elect = !behind;
    let raft = Raft::new(config.node_id.0, Arc::new(library), Factory::new(Arc::clone(&peers)), log, machine)
        .await
        .map_err(|e| StartError::Raft(e.to_string()))?;
    let reads = Arc::new(Reads::new(config.read_lease(), leader.clone()));
    let proposer = Proposer::start(proposer::Parts {
        raft: raft.clone(),
        state: Arc::clone(&state),
        reads: Arc::clone(&reads),
        leader: leader.clone(),
        now_ns: Arc::clone(&now_ns),
    });
    tokio::spawn(leadership::run(leadership::Parts {
        raft: raft.clone(),
        state: Arc::clone(&state),
        identity: Arc::clone(&identity),
        leader: leader_tx,
        fatal: fatal_tx,
        now_ns,
    }));
    let gathering = Gathering::new(state.incoming());
    tokio::spawn(upkeep::run(raft.clone(), log_handle.clone(), config, applied.clone()));
    tokio::spawn(catch_up::flush_regularly(Arc::clone(&state), log_handle.clone(), applied.clone(), blocking.clone()));
    if behind {
        tokio::spawn(catch_up::stand_again(raft.clone(), last_log, applied.clone()));
    }
    let progress = Arc::new(Progress::default());
    let server = Server::new(raft.clone(), Arc::clone(&identity), gathering, Arc::clone(&progress), &peers);
    failpoints::pass(Point::StartRaftUp);
    Ok(Inner {
        identity,
        raft,
        proposer,
        reads,
        leader,
        applied,
        fatal,
        peers,
        server,
        progress,
        log: log_handle,
        state,
        runtime: Mutex::new(None),
        blocking,
        exclusive: tokio::sync::Mutex::new(()),
        _lock: lock,
    })
}
