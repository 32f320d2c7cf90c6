//! Metadata nodes as processes: started, watched, ended, started again.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use caribou_proto::admin::v1::admin_service_client::AdminServiceClient;
use caribou_proto::admin::v1::{InitRequest, StatusReply, StatusRequest};
use caribou_proto::cluster::v1::MetaNode;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// The longest that anything here may take.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether something has come about.
pub(crate) const BEAT: Duration = Duration::from_millis(20);
/// Lines of each node's log that a failure shows.
const LINES_SHOWN: usize = 40;

/// Three metadata nodes. They are killed when it is dropped, and if that is because a test has failed, the ends of their logs are shown.
pub(crate) struct Cluster {
    dir: TempDir,
    addresses: BTreeMap<u64, SocketAddr>,
    running: BTreeMap<u64, Child>,
}

impl Cluster {
    /// Three nodes that run and know nothing.
    pub(crate) async fn empty(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("meta.toml"), config).unwrap();
        // All at once, so that no two get the same port.
        let listeners = [1, 2, 3].map(|id| (id, TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()));
        let addresses: BTreeMap<u64, SocketAddr> =
            listeners.iter().map(|(id, listener)| (*id, listener.local_addr().unwrap())).collect();
        drop(listeners);
        let mut cluster = Self { dir, addresses, running: BTreeMap::new() };
        for id in [1, 2, 3] {
            fs::create_dir(cluster.data(id)).unwrap();
            cluster.spawn(id);
        }
        for id in [1, 2, 3] {
            cluster.listens(id).await;
        }
        cluster
    }

    /// The same, initialised.
    pub(crate) async fn start(config: &str) -> Self {
        let cluster = Self::empty(config).await;
        cluster.eventually("cluster that can be initialised", async || cluster.init().await.then_some(())).await;
        cluster
    }

    /// Asks node 1 to make a cluster of all, once.
    pub(crate) async fn init(&self) -> bool {
        let members = self.addresses.iter().map(|(id, address)| MetaNode {
            node_id: *id,
            address: address.to_string(),
            voter: true,
        });
        let request = InitRequest { nodes: members.collect(), default_goal: 1 };
        match connect(self.addresses[&1]).await {
            Some(mut first) => first.init(request).await.is_ok(),
            None => false,
        }
    }

    pub(crate) fn addresses(&self) -> Vec<String> {
        self.addresses.values().map(SocketAddr::to_string).collect()
    }

    /// Starts a node, on what its folder holds.
    pub(crate) fn spawn(&mut self, id: u64) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_file(id)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_caribou-meta"));
        command.arg("--config").arg(self.dir.path().join("meta.toml")).arg("--data").arg(self.data(id));
        command.args(["--node-id", &id.to_string(), "--listen", &self.addresses[&id].to_string()]);
        command.env(caribou_failpoints::FILE, self.order_file(id));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        assert!(self.running.insert(id, child).is_none(), "node {id} runs already");
    }

    /// Waits until a node accepts connections.
    pub(crate) async fn listens(&self, id: u64) {
        self.eventually("connection", async || connect(self.addresses[&id]).await).await;
    }

    /// Sends a signal to a running node.
    pub(crate) fn signal(&self, id: u64, signal: Signal) {
        kill_process(Pid::from_child(&self.running[&id]), signal).unwrap();
    }

    /// How a node has ended, if it has.
    pub(crate) fn has_ended(&mut self, id: u64) -> Option<ExitStatus> {
        let status = self.running.get_mut(&id).expect("it has been started").try_wait().unwrap()?;
        self.running.remove(&id);
        Some(status)
    }

    /// Waits for a node's end.
    pub(crate) async fn ended(&mut self, id: u64) -> ExitStatus {
        let mut beat = tokio::time::interval(BEAT);
        let ended = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(status) = self.has_ended(id) {
                    return status;
                }
                beat.tick().await;
            }
        })
        .await;
        ended.unwrap_or_else(|_| panic!("node {id} did not end within {PATIENCE:?}"))
    }

    /// What the node reads to learn where it is to die; it need not be there.
    pub(crate) fn order_file(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id}.kill"))
    }

    /// All that a node has logged.
    pub(crate) fn log(&self, id: u64) -> String {
        fs::read_to_string(self.log_file(id)).unwrap_or_default()
    }

    fn log_file(&self, id: u64) -> PathBuf {
        self.dir.path().join(format!("{id}.log"))
    }

    fn data(&self, id: u64) -> PathBuf {
        self.dir.path().join(id.to_string())
    }

    /// The numbers of the running nodes.
    pub(crate) fn running(&self) -> Vec<u64> {
        self.running.keys().copied().collect()
    }

    /// What a node says of itself, if it answers.
    pub(crate) async fn status(&self, id: u64) -> Option<StatusReply> {
        Some(self.admin(id).await?.status(StatusRequest {}).await.ok()?.into_inner())
    }

    /// The door for operators, if the node listens.
    pub(crate) async fn admin(&self, id: u64) -> Option<AdminServiceClient<Channel>> {
        connect(self.addresses[&id]).await
    }

    /// The ready leader of a term above `term`; all others that run have everything.
    pub(crate) async fn leader(&self, term: u64) -> StatusReply {
        let running = self.running();
        self.eventually("ready leader", async || {
            for id in &running {
                let Some(status) = self.status(*id).await else { continue };
                let view = status.leader.as_ref().filter(|_| status.ready && status.term > term);
                let caught_up = view.map(|view| view.followers.iter().filter(|f| f.lag_entries == 0).count());
                if caught_up.is_some_and(|count| count + 1 >= running.len()) {
                    return Some(status);
                }
            }
            None
        })
        .await
    }

    /// Asks until there is an answer.
    pub(crate) async fn eventually<T, F: Future<Output = Option<T>>>(&self, what: &str, ask: impl Fn() -> F) -> T {
        let asking = async {
            let mut beat = tokio::time::interval(BEAT);
            loop {
                if let Some(answer) = ask().await {
                    return answer;
                }
                beat.tick().await;
            }
        };
        tokio::time::timeout(PATIENCE, asking).await.unwrap_or_else(|_| panic!("no {what} within {PATIENCE:?}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.running.values_mut() {
            // Fails when it has ended, which is what we want.
            let _ = process.kill();
            let _ = process.wait();
        }
        if std::thread::panicking() {
            for id in self.addresses.keys() {
                let log = self.log(*id);
                let lines: Vec<&str> = log.lines().collect();
                eprintln!("node {id}:\n{}", lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n"));
            }
        }
    }
}

async fn connect(address: SocketAddr) -> Option<AdminServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap().timeout(PATIENCE);
    Some(AdminServiceClient::new(endpoint.connect().await.ok()?))
}
