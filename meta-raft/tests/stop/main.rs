//! A leader that is told to stop (SIGTERM) serves on while it hands over. Real processes, since the signal is a process's.
//!
//! In a cluster that has had one leader only, nobody has a connection to it: its successor has to make one to say that it leads. A leader
//! that accepts none while it hands over never hears of it.

use std::fs::{self, File};
use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use caribou_proto::admin::v1::admin_service_client::AdminServiceClient;
use caribou_proto::admin::v1::{InitRequest, StatusReply, StatusRequest};
use caribou_proto::cluster::v1::MetaNode;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// The longest that anything here may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// A hand-over is given up after a second, which a busy machine may need for itself: one of so many has to be seen through.
const ATTEMPTS: usize = 5;
/// Nobody stands for election because the machine is slow: that would make the connections which must not be there.
const CONFIG: &str = "\
    [raft]\n\
    heartbeat = \"100ms\"\n\
    election_timeout_min = \"5s\"\n\
    election_timeout_max = \"8s\"\n\
    [storage]\n\
    block_cache = \"64MiB\"\n\
    write_buffer = \"16MiB\"\n";

#[tokio::test]
async fn a_leader_that_is_told_to_stop_hands_over() {
    let mut logs = Vec::new();
    for _ in 0..ATTEMPTS {
        let mut cluster = Cluster::start().await;
        let leader = cluster.leader(0).await;
        let log = cluster.stop(leader.node_id).await;
        if log.contains("handed the leadership over") {
            let next = cluster.leader(leader.term).await;
            assert_ne!(next.node_id, leader.node_id);
            return;
        }
        assert!(log.contains("the leadership could not be handed over"), "{log}");
        logs.push(log);
    }
    panic!("{ATTEMPTS} leaders could not hand over while they stopped; they said:\n{}", logs.join("\n"));
}

/// Three metadata nodes, initialised. They are killed when it is dropped.
struct Cluster {
    dir: TempDir,
    nodes: Vec<Node>,
}

struct Node {
    id: u64,
    address: SocketAddr,
    process: Child,
}

impl Cluster {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        // All at once, so that no two get the same port.
        let listeners = [1, 2, 3].map(|id| (id, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
        let addresses = listeners.map(|(id, listener)| (id, listener.local_addr().unwrap()));
        let nodes = addresses.map(|(id, address)| Node { id, address, process: spawn(dir.path(), id, address) });
        let cluster = Self { dir, nodes: nodes.into() };
        let members = cluster.nodes.iter().map(|node| MetaNode {
            node_id: node.id,
            address: node.address.to_string(),
            voter: true,
        });
        let request = InitRequest { nodes: members.collect(), default_goal: 1 };
        eventually("cluster that can be initialised", async || {
            let mut first = connect(cluster.nodes[0].address).await?;
            for other in &cluster.nodes[1..] {
                connect(other.address).await?;
            }
            first.init(request.clone()).await.ok()
        })
        .await;
        cluster
    }

    /// The ready leader of a term above `term`; all others that run have everything.
    async fn leader(&self, term: u64) -> StatusReply {
        let followers = self.nodes.len() - 1;
        eventually("ready leader", async || {
            for node in &self.nodes {
                let Some(status) = status(node.address).await else { continue };
                let view = status.leader.as_ref().filter(|_| status.ready && status.term > term);
                let caught_up = view.map(|view| view.followers.iter().filter(|f| f.lag_entries == 0).count());
                if caught_up.is_some_and(|count| count >= followers) {
                    return Some(status);
                }
            }
            None
        })
        .await
    }

    /// Tells a node to stop; what it has logged by its end.
    async fn stop(&mut self, id: u64) -> String {
        let at = self.nodes.iter().position(|node| node.id == id).unwrap();
        let mut node = self.nodes.remove(at);
        kill_process(Pid::from_child(&node.process), Signal::TERM).unwrap();
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                match node.process.try_wait().unwrap() {
                    Some(status) => break status,
                    None => {
                        beat.tick().await;
                    }
                }
            }
        });
        let log = || fs::read_to_string(log_of(self.dir.path(), id)).unwrap();
        let Ok(status) = ended.await else {
            node.end();
            panic!("node {id} did not end within {PATIENCE:?}:\n{}", log());
        };
        assert!(status.success(), "{status}:\n{}", log());
        log()
    }
}

impl Node {
    fn end(&mut self) {
        // Fails when it has ended, which is what we want.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.nodes.iter_mut().for_each(Node::end);
    }
}

fn log_of(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id}.log"))
}

fn spawn(dir: &Path, id: u64, address: SocketAddr) -> Child {
    let (config, data) = (dir.join(format!("{id}.toml")), dir.join(id.to_string()));
    fs::create_dir(&data).unwrap();
    fs::write(&config, CONFIG).unwrap();
    let log = File::create(log_of(dir, id)).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_caribou-meta"));
    command.arg("--config").arg(config).arg("--data").arg(data);
    command.args(["--node-id", &id.to_string(), "--listen", &address.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

async fn connect(address: SocketAddr) -> Option<AdminServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(PATIENCE);
    Some(AdminServiceClient::new(endpoint.connect().await.ok()?))
}

async fn status(address: SocketAddr) -> Option<StatusReply> {
    let mut client = connect(address).await?;
    Some(client.status(StatusRequest {}).await.ok()?.into_inner())
}

/// Asks until there is an answer.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, ask: impl Fn() -> F) -> T {
    let asking = async {
        let mut beat = tokio::time::interval(Duration::from_millis(20));
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            beat.tick().await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"))
}
