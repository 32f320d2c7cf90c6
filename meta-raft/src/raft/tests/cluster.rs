//! Brings nodes up, kills and restarts them. A crash is a copy of the folder taken while the stores are still open: what was only in
//! memory is not in it.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::ids::NodeId;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;

use crate::folder_image;
use crate::fsm::command::Command;
use crate::fsm::reply::Reply;
use crate::listen::{self, Doors};
use crate::raft::{LeaderState, ProposeError, RaftConfig, RaftNode, StartError};

/// The longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Settings small enough that a test reaches snapshots and purges.
pub(crate) fn config(id: u64, dir: &Path) -> RaftConfig {
    let mut config = RaftConfig::new(NodeId(id), dir);
    (config.block_cache_bytes, config.write_buffer_bytes) = (8 << 20, 8 << 20);
    config.log_tail_bytes = 1 << 20;
    // Eight engineers' compilers may share the machine's cores with this.
    config.heartbeat = Duration::from_millis(50);
    config.election_timeout_min = Duration::from_millis(200);
    config.election_timeout_max = Duration::from_millis(400);
    config
}

/// One running node: Raft and its server.
pub(crate) struct Running {
    pub(crate) node: RaftNode,
    server: Option<Runtime>,
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            // Before the node: what it serves holds its stores.
            std::thread::spawn(move || server.shutdown_timeout(PATIENCE)).join().unwrap();
        }
    }
}

impl Running {
    pub(crate) async fn start(config: RaftConfig, address: SocketAddr) -> Result<Self, StartError> {
        let node = RaftNode::start(config, Arc::new(|_| {})).await?;
        let server = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (clients, _) = mpsc::channel(1);
        let (peers, arriving) = mpsc::channel(1);
        drop(node.serve(arriving));
        let listener = TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        server.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            listen::accept(listener, 100, &Doors { clients, peers }).await;
        });
        Ok(Self { node, server: Some(server) })
    }

    /// Ends the process without warning, as far as others see; the node's stores stay open until the caller drops it.
    async fn halt(mut self) -> RaftNode {
        let server = self.server.take().unwrap();
        tokio::task::spawn_blocking(move || server.shutdown_timeout(Duration::from_secs(5))).await.unwrap();
        self.node.stop().await;
        self.node.clone()
    }
}

/// Folders, addresses and the nodes that run.
pub(crate) struct Cluster {
    dir: TempDir,
    folders: BTreeMap<u64, PathBuf>,
    pub(crate) addresses: BTreeMap<u64, SocketAddr>,
    pub(crate) running: BTreeMap<u64, Running>,
    tune: fn(&mut RaftConfig),
}

impl Cluster {
    /// Nodes 1 to `count`, running and empty.
    pub(crate) async fn empty(count: u64, tune: fn(&mut RaftConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        // All at once, so that no two get the same port.
        let listeners: Vec<TcpListener> =
            (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let addresses = (1..).zip(&listeners).map(|(id, l)| (id, l.local_addr().unwrap())).collect();
        drop(listeners);
        let folders = (1..=count).map(|id| (id, dir.path().join(id.to_string()))).collect();
        let mut cluster = Self { dir, folders, addresses, running: BTreeMap::new(), tune };
        for id in 1..=count {
            cluster.start(id).await;
        }
        cluster
    }

    /// Three nodes, initialised, with a ready leader.
    pub(crate) async fn three(tune: fn(&mut RaftConfig)) -> Self {
        let cluster = Self::empty(3, tune).await;
        cluster.node(1).init(cluster.nodes(), 2).await.unwrap();
        cluster.leader().await;
        cluster
    }

    pub(crate) fn nodes(&self) -> Vec<(NodeId, String)> {
        self.addresses.iter().map(|(id, a)| (NodeId(*id), a.to_string())).collect()
    }

    pub(crate) fn node(&self, id: u64) -> &RaftNode {
        &self.running[&id].node
    }

    pub(crate) fn config(&self, id: u64) -> RaftConfig {
        let mut config = config(id, &self.folders[&id]);
        (self.tune)(&mut config);
        config
    }

    pub(crate) async fn start(&mut self, id: u64) {
        let running = Running::start(self.config(id), self.addresses[&id]).await.unwrap();
        self.running.insert(id, running);
    }

    /// kill -9: what is on disk at this moment is all that the next start finds.
    pub(crate) async fn crash(&mut self, id: u64) {
        let node = self.running.remove(&id).unwrap().halt().await;
        let copy = self.dir.path().join(format!("{id}-{}", uuid::Uuid::new_v4()));
        let old = std::mem::replace(self.folders.get_mut(&id).unwrap(), copy.clone());
        tokio::task::spawn_blocking(move || {
            folder_image::take(&old, &copy).unwrap();
            drop(node);
        })
        .await
        .unwrap();
    }

    /// The ready leader's number.
    pub(crate) async fn leader(&self) -> u64 {
        eventually("a ready leader", async || {
            self.running.iter().find(|(_, r)| r.node.leader().borrow().ready).map(|(id, _)| *id)
        })
        .await
    }

    /// Proposes through whichever node leads until it is answered. Only for commands that may be carried out twice.
    pub(crate) async fn propose(&self, command: Command) -> Reply {
        eventually("a reply", async || {
            let leader = self.leader().await;
            match self.node(leader).propose(vec![command.clone()]).await {
                Ok(mut replies) => replies.pop(),
                Err(ProposeError::NotLeader(_) | ProposeError::Unavailable) => None,
                Err(e) => panic!("{e}"),
            }
        })
        .await
    }

    /// Waits until all running nodes have applied the same entries, and checks that their states are the same.
    pub(crate) async fn assert_equal_states(&self) {
        let hashes = eventually("equal applied indices", async || {
            let views: Vec<_> = self
                .running
                .values()
                .map(|r| (*r.node.applied().borrow(), r.node.view().state_hash().unwrap()))
                .collect();
            let leader = self.node(self.leader().await).status().last_log_index;
            views.iter().all(|(index, _)| *index == leader).then_some(views)
        })
        .await;
        assert!(hashes.windows(2).all(|w| w[0] == w[1]), "{hashes:?}");
    }
}

/// A new session's first command; each key makes one session.
pub(crate) fn open_session(key: u64) -> Command {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&key.to_be_bytes());
    Command::OpenSession { key: bytes, name: format!("client {key}") }
}

/// Asks until there is an answer.
pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asking = async {
        let mut beat = tokio::time::interval(Duration::from_millis(10));
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            beat.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"))
}

/// The next leader in a term above `term`.
pub(crate) async fn leader_after(cluster: &Cluster, term: u64) -> (u64, LeaderState) {
    eventually("a new leader", async || {
        cluster.running.iter().find_map(|(id, r)| {
            let state = r.node.leader().borrow().clone();
            (state.ready && state.term > term).then_some((*id, state))
        })
    })
    .await
}
