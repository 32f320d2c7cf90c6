//! Chunk servers with disks in memory on a network within the process, a leader that they follow, and a client's two streams.

use super::leader::Leader;
use crate::clock::TokioClock;
use crate::config::Config;
use crate::peers::local::LocalNet;
use crate::server::{ChunkServer, Parts, Settings};
use crate::store::memory::MemoryDisk;
use crate::store::{ChunkStore, OpenOptions};
use bytes::Bytes;
use caribou_proto::chunk::v1::{ReadReply, ReadRequest, Status, WriteAck, WriteFragment};
use caribou_proto::cluster::v1::{ClusterId, Holder};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// The chunk that tests write.
pub(super) const CHUNK: u64 = (1 << 48) | 7;
/// Its first grant.
pub(super) const GRANT: u64 = (1 << 48) | 100;
/// How long chains wait in tests.
pub(super) const ACK_TIMEOUT: Duration = Duration::from_secs(10);

pub(super) fn cluster_id() -> ClusterId {
    ClusterId { uuid: Bytes::from_static(&[9; 16]), generation: 1, nonce: 77 }
}

pub(super) struct Node {
    pub(super) server: Arc<ChunkServer>,
    pub(super) disk: Arc<MemoryDisk>,
    pub(super) address: String,
}

impl Node {
    pub(super) fn id(&self) -> u64 {
        self.server.store().server_id().expect("registered").0
    }
    pub(super) fn holder(&self) -> Holder {
        Holder { server_id: self.id(), incarnation: self.server.store().incarnation().0, address: self.address.clone() }
    }
}

pub(super) struct Cluster {
    pub(super) net: Arc<LocalNet>,
    pub(super) leader: Arc<Leader>,
    pub(super) nodes: Vec<Node>,
}

impl Cluster {
    /// Servers that are registered and have their lease.
    pub(super) async fn start(servers: usize) -> Self {
        // RUST_LOG=debug shows what a failing case did.
        let filter = tracing_subscriber::EnvFilter::from_default_env();
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter(filter).try_init();
        let net = LocalNet::new();
        let leader = Leader::start(&net, "meta-1", cluster_id(), 1);
        let mut cluster = Self { net, leader, nodes: Vec::new() };
        for index in 0..servers {
            let disk = Arc::new(MemoryDisk::new(&format!("disk-{}", index + 1)));
            let node = cluster.boot(index, disk, &["meta-1"]).await;
            until("registered", || node.server.has_lease()).await;
            cluster.nodes.push(node);
        }
        cluster
    }

    /// Opens a server on a disk and lets it look for its leader.
    pub(super) async fn boot(&self, index: usize, disk: Arc<MemoryDisk>, meta: &[&str]) -> Node {
        let address = format!("chunk-{}", index + 1);
        let server = ChunkServer::new(Parts {
            store: open(&disk, index).await,
            clock: Arc::new(TokioClock::default()),
            peers: Arc::new(self.net.clone()),
            settings: settings(&address),
        });
        self.net.add_chunk_server(&address, &server);
        tokio::spawn(server.clone().follow_leader(meta.iter().map(|&meta| meta.to_owned()).collect()));
        Node { server, disk, address }
    }

    pub(super) fn chain(&self, members: &[usize]) -> Vec<Holder> {
        members.iter().map(|&member| self.nodes[member].holder()).collect()
    }

    /// A fragment for the head of a chain: chunk `CHUNK`, version 1, grant `GRANT`, may create.
    pub(super) fn fragment(&self, members: &[usize], id: u64, offset: u32, data: &[u8]) -> WriteFragment {
        WriteFragment {
            cluster: Some(cluster_id()),
            id,
            chunk: CHUNK,
            version: 1,
            grant: GRANT,
            create: true,
            chain: self.chain(members),
            position: 0,
            offset,
            data: Bytes::copy_from_slice(data),
            crc: crc32c::crc32c(data),
            sync: false,
        }
    }

    pub(super) fn writer(&self, member: usize) -> Writer {
        let (fragments, receiver) = mpsc::channel(1024);
        let acks = self.nodes[member].server.write(ReceiverStream::new(receiver));
        Writer { fragments, acks, early: HashMap::new() }
    }

    /// One read at one server.
    pub(super) async fn read(&self, member: usize, version: u64, offset: u32, length: u32) -> ReadReply {
        self.ask(member, ReadRequest { version, offset, length, ..request() }).await
    }

    pub(super) async fn ask(&self, member: usize, request: ReadRequest) -> ReadReply {
        ask(&self.nodes[member].server, request).await
    }
}

pub(super) fn request() -> ReadRequest {
    ReadRequest { cluster: Some(cluster_id()), id: 1, chunk: CHUNK, version: 1, length: 1, ..ReadRequest::default() }
}

pub(super) async fn ask(server: &Arc<ChunkServer>, request: ReadRequest) -> ReadReply {
    let id = request.id;
    let mut replies = server.read(futures::stream::once(async move { request }));
    let reply = replies.next().await.expect("every read is answered");
    assert_eq!(reply.id, id);
    assert_eq!(reply.crc, crc32c::crc32c(&reply.data));
    reply
}

pub(super) async fn open(disk: &Arc<MemoryDisk>, index: usize) -> Arc<ChunkStore> {
    let mut number = u8::try_from(index * 16).expect("few servers");
    let new_uuid = Box::new(move || {
        number += 1;
        [number; 16]
    });
    let options = OpenOptions { disks: vec![disk.clone()], new_uuid, now_unix_ms: 0, deadline: Duration::from_secs(5) };
    ChunkStore::open(options).await.expect("the folder is good")
}

pub(super) fn settings(address: &str) -> Settings {
    let mut config = Config { advertise: address.to_owned(), ..Config::default() };
    config.chain.ack_timeout = ACK_TIMEOUT;
    Settings::of(&config)
}

/// The writing client's side of a stream.
pub(super) struct Writer {
    pub(super) fragments: mpsc::Sender<WriteFragment>,
    acks: BoxStream<'static, WriteAck>,
    early: HashMap<u64, WriteAck>,
}

impl Writer {
    pub(super) fn send(&self, fragment: WriteFragment) {
        self.fragments.try_send(fragment).expect("the stream takes it");
    }

    /// The ack of one fragment, whatever comes before it.
    pub(super) async fn ack(&mut self, id: u64) -> WriteAck {
        loop {
            if let Some(ack) = self.early.remove(&id) {
                return ack;
            }
            let ack = self.acks.next().await.expect("every fragment is acknowledged");
            self.early.insert(ack.id, ack);
        }
    }

    pub(super) async fn write(&mut self, fragment: WriteFragment) -> WriteAck {
        let id = fragment.id;
        self.send(fragment);
        self.ack(id).await
    }

    /// Writes what has to succeed.
    pub(super) async fn put(&mut self, fragment: WriteFragment) -> WriteAck {
        let ack = self.write(fragment).await;
        assert_eq!(ack.status(), Status::Ok, "{}", ack.detail);
        ack
    }
}

/// Waits (in the test's time) until a condition holds.
pub(super) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..60_000 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("not within a minute: {what}");
}

pub(super) fn pattern(length: usize, seed: u8) -> Vec<u8> {
    (0..length).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed)).collect()
}
