//! A chunk server as a machine: a disk in memory, an address, and a power switch.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_chunkd::clock::TokioClock;
use caribou_chunkd::config::Config;
use caribou_chunkd::peers::{Answers, Opening, PeerError, Peers};
use caribou_chunkd::store::memory::MemoryDisk;
use caribou_chunkd::store::{ChunkStore, OpenOptions};
use caribou_chunkd::{ChunkServer, Parts, Settings};
use caribou_proto::chunk::v1::chunk_data_client::ChunkDataClient;
use caribou_proto::chunk::v1::control_service_client::ControlServiceClient;
use caribou_proto::chunk::v1::{FromServer, ReadReply, ReadRequest, ToServer, WriteAck, WriteFragment};
use futures::{FutureExt as _, StreamExt as _};
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::clock::SimClock;
use crate::net::Net;

/// How long a job on a disk may take: disks in memory take none.
const DEADLINE: Duration = Duration::from_secs(5);

/// See the module.
pub struct ChunkHost {
    pub address: String,
    disk: Arc<MemoryDisk>,
    running: Option<Running>,
    rng: StdRng,
}

struct Running {
    server: Arc<ChunkServer>,
    tasks: Vec<JoinHandle<()>>,
}

/// How a machine goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process dies; what it has written is there.
    Kill,
    /// The power goes: of what was not synced, some sectors are there and some are not.
    Power,
}

impl ChunkHost {
    /// A machine that is off, with an empty disk.
    pub fn new(id: u64, rng: StdRng) -> Self {
        let disk = Arc::new(MemoryDisk::new(&format!("disk{id}")));
        Self { address: format!("chunk{id}:1"), disk, running: None, rng }
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it follows a leader.
    pub fn is_attached(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.server.has_lease())
    }

    pub async fn start(&mut self, net: &Arc<Net>, clock: &SimClock, meta: Vec<String>) -> Result<()> {
        assert!(self.running.is_none(), "a running server is not started");
        let mut uuid: [u8; 16] = self.rng.random();
        let new_uuid = Box::new(move || {
            uuid[0] = uuid[0].wrapping_add(1);
            uuid
        });
        let now_unix_ms = u64::try_from(clock.now_ns() / 1_000_000)?;
        let options = OpenOptions { disks: vec![self.disk.clone()], new_uuid, now_unix_ms, deadline: DEADLINE };
        let store =
            ChunkStore::open(options).await.with_context(|| format!("{} does not open its disk", self.address))?;
        let config = Config { advertise: self.address.clone(), ..Config::default() };
        let peers = SimPeers { net: Arc::clone(net), own: self.address.clone() };
        let server = ChunkServer::new(Parts {
            store,
            clock: Arc::new(TokioClock::default()),
            peers: Arc::new(peers),
            settings: Settings::of(&config),
        });
        net.add(&self.address, Some(server.routes()));
        let (follows, keeps) = (server.clone(), server.clone());
        let follow = tokio::spawn(async move {
            if let Err(refusal) = follows.follow_leader(meta).await {
                tracing::error!(%refusal, "a chunk server was refused");
            }
        });
        self.running = Some(Running { server, tasks: vec![follow, tokio::spawn(keeps.keep_house())] });
        Ok(())
    }

    pub fn crash(&mut self, net: &Net, crash: Crash) {
        let Some(running) = self.running.take() else { return };
        net.remove(&self.address);
        // The old one fails every call from now on.
        self.disk = Arc::new(match crash {
            Crash::Kill => self.disk.restart(),
            Crash::Power => self.disk.power_cut(self.rng.random()),
        });
        running.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// The way to others.
struct SimPeers {
    net: Arc<Net>,
    own: String,
}

impl Peers for SimPeers {
    fn write(&self, address: &str, fragments: mpsc::Receiver<WriteFragment>) -> Opening<WriteAck> {
        let mut client = ChunkDataClient::new(self.net.line(&self.own, address));
        async move { Ok(answers(client.write(ReceiverStream::new(fragments)).await.map_err(ended)?.into_inner())) }
            .boxed()
    }

    fn read(&self, address: &str, requests: mpsc::Receiver<ReadRequest>) -> Opening<ReadReply> {
        let mut client = ChunkDataClient::new(self.net.line(&self.own, address));
        async move { Ok(answers(client.read(ReceiverStream::new(requests)).await.map_err(ended)?.into_inner())) }
            .boxed()
    }

    fn attach(&self, address: &str, messages: mpsc::Receiver<FromServer>) -> Opening<ToServer> {
        let mut client = ControlServiceClient::new(self.net.line(&self.own, address));
        async move { Ok(answers(client.attach(ReceiverStream::new(messages)).await.map_err(ended)?.into_inner())) }
            .boxed()
    }
}

fn answers<T: Send + 'static>(answers: Streaming<T>) -> Answers<T> {
    answers.map(|answer| answer.map_err(ended)).boxed()
}

fn ended(status: Status) -> PeerError {
    PeerError(status.to_string())
}
