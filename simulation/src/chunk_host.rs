//! A chunk server as a machine: a disk in memory, an address, and a power switch.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_chunkd::clock::Clock;
use caribou_chunkd::config::Config;
use caribou_chunkd::peers::{Answers, Opening, PeerError, Peers};
use caribou_chunkd::store::disk::Disk;
use caribou_chunkd::store::memory::MemoryDisk;
use caribou_chunkd::store::{ChunkStore, OpenOptions};
use caribou_chunkd::{ChunkServer, Parts, Settings};
use caribou_proto::chunk::v1::chunk_data_client::ChunkDataClient;
use caribou_proto::chunk::v1::control_service_client::ControlServiceClient;
use caribou_proto::chunk::v1::{FromServer, ReadReply, ReadRequest, ToServer, WriteAck, WriteFragment};
use caribou_proto::ids::{ChunkId, ServerId};
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::clock::SimClock;
use crate::fencing::disk::WatchedDisk;
use crate::findings::Findings;
use crate::hearing;
use crate::net::{Life, Net};

/// How long a job on a disk may take before the disk counts as broken.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long it takes.
const JOB_TIME_MS: std::ops::Range<u64> = 0..4;
/// Calls that change nothing. Their failures take sound replicas away, whose bytes are gone then as they must be.
const READS: [&str; 6] = ["open", "read", "list", "len", "space", "lock"];
/// How long what was deleted is kept, and how often that is looked at: a run is to see it go.
const QUARANTINE: Duration = Duration::from_secs(20);
const QUARANTINE_SCAN: Duration = Duration::from_secs(5);
/// Where data begin in a replica's file (docs/on-disk-format.md).
const DATA_AT: u64 = 64 << 10;

/// See the module.
pub struct ChunkHost {
    pub address: String,
    /// Known once it has registered.
    server_id: Option<ServerId>,
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
    pub fn new(id: u64, mut rng: StdRng) -> Self {
        let times = Mutex::new(StdRng::seed_from_u64(rng.random()));
        let job_time = move || Duration::from_millis(times.lock().random_range(JOB_TIME_MS));
        let disk = Arc::new(MemoryDisk::new(&format!("disk{id}")).paced(Arc::new(job_time)));
        Self { address: format!("chunk{id}:1"), server_id: None, disk, running: None, rng }
    }

    pub fn is_up(&self) -> bool {
        self.running.is_some()
    }

    /// Whether it follows a leader.
    pub fn is_attached(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.server.has_lease())
    }

    /// Its number at the leader, once it has registered.
    pub fn server_id(&self) -> Option<ServerId> {
        self.store().and_then(|store| store.server_id()).or(self.server_id)
    }

    /// Its store, if it is up.
    pub fn store(&self) -> Option<&Arc<ChunkStore>> {
        self.running.as_ref().map(|running| running.server.store())
    }

    /// Its power will go within the so many-th call of its disk from now on, in the middle of whatever it does then; `struck` is set, nothing more
    /// leaves the machine, and it is to be brought down.
    pub fn arm(&self, calls: u64, struck: Struck) {
        let left = AtomicU64::new(calls);
        self.disk.set_hook(Some(Arc::new(move |_| {
            if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                struck.strike();
            }
            if struck.has_struck() { Err(io::Error::other("the power is off")) } else { Ok(()) }
        })));
    }

    /// Calls of its disk that change something fail after so many more of them, each from there on or that one alone, while the server goes on.
    /// Whether one has failed is told by what is returned.
    pub fn fail_disk(&self, calls: u64, once: bool) -> Arc<AtomicBool> {
        let (made, has_failed) = (AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
        let told = Arc::clone(&has_failed);
        self.disk.set_hook(Some(Arc::new(move |call| {
            if READS.contains(&call) {
                return Ok(());
            }
            let number = made.fetch_add(1, Ordering::Relaxed);
            if number < calls || (once && number > calls) {
                return Ok(());
            }
            told.store(true, Ordering::Relaxed);
            Err(io::Error::from_raw_os_error(libc::EIO))
        })));
        has_failed
    }

    pub fn disarm(&self) {
        self.disk.set_hook(None);
    }

    /// A bit of a replica flips, behind its server's back; on which disk.
    pub fn flip(&self, chunk: ChunkId, offset: u32, bit: u32) -> &str {
        let file = format!("chunks/{:02x}/{:016x}.chunk", chunk.0 % 256, chunk.0);
        self.disk.damage(&file, DATA_AT + u64::from(offset), 1 << bit);
        self.disk.path()
    }

    /// # Errors
    /// When the disk refuses, which it must not unless it has no power.
    pub async fn start(&mut self, net: &Arc<Net>, clock: &SimClock, meta: Vec<String>) -> Result<()> {
        assert!(self.running.is_none(), "a running server is not started");
        let mut uuid: [u8; 16] = self.rng.random();
        let new_uuid = Box::new(move || {
            uuid[0] = uuid[0].wrapping_add(1);
            uuid
        });
        let now_unix_ms = Clock::unix_ms(clock);
        let disk: Arc<dyn Disk> = Arc::new(WatchedDisk::new(self.disk.clone(), &self.address, net.findings()));
        let options = OpenOptions { disks: vec![disk], new_uuid, now_unix_ms, deadline: DEADLINE };
        let store =
            ChunkStore::open(options).await.with_context(|| format!("{} does not open its disk", self.address))?;
        let mut config = Config { advertise: self.address.clone(), ..Config::default() };
        (config.store.quarantine, config.store.quarantine_scan) = (QUARANTINE, QUARANTINE_SCAN);
        let life = net.add(&self.address);
        let peers = SimPeers { net: Arc::clone(net), own: life.clone() };
        let server = ChunkServer::new(Parts {
            store,
            clock: Arc::new(clock.clone()),
            peers: Arc::new(peers),
            settings: Settings::of(&config),
        });
        net.serve(&life, server.routes());
        let (follows, keeps) = (server.clone(), server.clone());
        let follow = tokio::spawn(async move {
            if let Err(refusal) = follows.follow_leader(meta).await {
                hearing::violation(format!("a chunk server was refused: {refusal}"));
            }
        });
        self.running = Some(Running { server, tasks: vec![follow, tokio::spawn(keeps.keep_house())] });
        Ok(())
    }

    /// Goes down, or loses what its disk has not synced though it is down already. False if it was off.
    pub fn crash(&mut self, net: &Net, crash: Crash) -> bool {
        self.server_id = self.server_id();
        net.remove(&self.address);
        // The old one fails every call from now on.
        self.disk = Arc::new(match crash {
            Crash::Kill => self.disk.restart(),
            Crash::Power => self.disk.power_cut(self.rng.random()),
        });
        let Some(running) = self.running.take() else { return false };
        running.tasks.iter().for_each(JoinHandle::abort);
        true
    }
}

/// The end of a machine's power, from within its own disk.
#[derive(Clone)]
pub struct Struck {
    net: Arc<Net>,
    address: String,
    server_id: Option<ServerId>,
    findings: Arc<Findings>,
    has_struck: Arc<AtomicBool>,
}

impl Struck {
    pub fn new(net: &Arc<Net>, host: &ChunkHost, findings: &Arc<Findings>) -> Self {
        Self {
            net: Arc::clone(net),
            address: host.address.clone(),
            server_id: host.server_id(),
            findings: Arc::clone(findings),
            has_struck: Arc::default(),
        }
    }

    pub fn has_struck(&self) -> bool {
        self.has_struck.load(Ordering::Relaxed)
    }

    fn strike(&self) {
        self.has_struck.store(true, Ordering::Relaxed);
        self.net.remove(&self.address);
        self.server_id.into_iter().for_each(|server| self.findings.places.power_cut(server));
    }
}

/// The way to others.
struct SimPeers {
    net: Arc<Net>,
    own: Life,
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
