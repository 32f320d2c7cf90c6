//! The same over real sockets and real folders: gRPC with its limits, and the start of the process.

use super::cluster::{GRANT, cluster_id, pattern, settings, until};
use crate::clock::BootClock;
use crate::config::Config;
use crate::listen;
use crate::peers::Peers;
use crate::peers::tonic::TonicPeers;
use crate::server::{ChunkServer, Parts};
use crate::service::status::cluster_from_wire;
use crate::store::file::FileDisk;
use crate::store::{ChunkStore, OpenOptions};
use bytes::Bytes;
use caribou_proto::chunk::v1::{ReadRequest, Status, WriteFragment};
use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::ServerId;
use futures::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

struct Real {
    server: Arc<ChunkServer>,
    holder: Holder,
    _folder: tempfile::TempDir,
}

async fn real(id: u64, connections: usize) -> Real {
    let folder = tempfile::tempdir().unwrap();
    let options = OpenOptions {
        disks: vec![Arc::new(FileDisk::open(folder.path()).unwrap())],
        new_uuid: Box::new(|| uuid::Uuid::new_v4().into_bytes()),
        now_unix_ms: 0,
        deadline: Duration::from_secs(30),
    };
    let store = ChunkStore::open(options).await.unwrap();
    store.adopt(cluster_from_wire(&cluster_id()).unwrap(), ServerId(id)).await.unwrap();
    let listener = listen::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let holder = Holder { server_id: id, incarnation: store.incarnation().0, address: address.clone() };
    let clock: Arc<BootClock> = Arc::default();
    let peers = Arc::new(TonicPeers::new(Duration::from_secs(5)));
    let server = ChunkServer::new(Parts { store, clock, peers, settings: settings(&address) });
    server.lease.extend(crate::clock::Clock::now_ns(&BootClock), Duration::from_secs(600));
    tokio::spawn(listen::serve(server.clone(), listener, connections));
    Real { server, holder, _folder: folder }
}

#[tokio::test]
async fn a_chain_over_grpc_writes_syncs_and_reads_back_and_stops_cleanly() {
    let servers = [real(1, 16).await, real(2, 16).await, real(3, 16).await];
    let chain: Vec<Holder> = servers.iter().map(|real| real.holder.clone()).collect();
    let peers = TonicPeers::new(Duration::from_secs(5));
    let (fragments, receiver) = mpsc::channel(16);
    let mut acks = peers.write(&chain[0].address, receiver).await.unwrap();
    let data = Bytes::from(pattern(1 << 20, 1));
    let crc = crc32c::crc32c(&data);
    let sender = tokio::spawn({
        let (chain, data) = (chain.clone(), data.clone());
        async move {
            for id in 1..=48u64 {
                let fragment = WriteFragment {
                    cluster: Some(cluster_id()),
                    id,
                    chunk: id % 3,
                    version: 1,
                    grant: GRANT,
                    create: true,
                    chain: chain.clone(),
                    offset: u32::try_from(id / 3).unwrap() << 20,
                    data: data.clone(),
                    crc,
                    sync: id > 45,
                    ..WriteFragment::default()
                };
                fragments.send(fragment).await.unwrap();
            }
            fragments
        }
    });
    for _ in 1..=48 {
        let ack = acks.next().await.unwrap().unwrap();
        assert_eq!(ack.status(), Status::Ok, "{}", ack.detail);
        assert_eq!(ack.incarnations.len(), 3);
    }
    let fragments = sender.await.unwrap();
    for holder in &chain {
        let (requests, receiver) = mpsc::channel(16);
        let mut replies = peers.read(&holder.address, receiver).await.unwrap();
        for id in 3..48u64 {
            let request = ReadRequest {
                cluster: Some(cluster_id()),
                id,
                chunk: id % 3,
                version: 1,
                offset: u32::try_from(id / 3).unwrap() << 20,
                length: 1 << 20,
                ..ReadRequest::default()
            };
            requests.send(request).await.unwrap();
            let reply = replies.next().await.unwrap().unwrap();
            assert_eq!((reply.status(), reply.crc), (Status::Ok, crc), "{}", reply.detail);
            assert!(reply.data == data);
        }
    }
    for real in &servers {
        real.server.close().await;
    }
    assert!(acks.next().await.is_none_or(|ack| ack.is_err()), "the stream ends with the server");
    drop(fragments);
}

#[tokio::test]
async fn connections_beyond_the_cap_are_closed() {
    let real = real(1, 2).await;
    let peers = TonicPeers::new(Duration::from_secs(5));
    let mut held = Vec::new();
    for _ in 0..2 {
        let (requests, receiver) = mpsc::channel(1);
        held.push((requests, peers.read(&real.holder.address, receiver).await.unwrap()));
    }
    let (_requests, receiver) = mpsc::channel(1);
    assert!(peers.read(&real.holder.address, receiver).await.is_err());
    held.clear();
    for _ in 0..1000 {
        let (_requests, receiver) = mpsc::channel(1);
        if peers.read(&real.holder.address, receiver).await.is_ok() {
            return;
        }
    }
    panic!("a place is not given back");
}

#[tokio::test]
async fn a_server_that_dies_breaks_the_link() {
    let (head, tail) = (real(1, 16).await, real(2, 16).await);
    let peers = TonicPeers::new(Duration::from_secs(5));
    let (fragments, receiver) = mpsc::channel(16);
    let mut acks = peers.write(&head.holder.address, receiver).await.unwrap();
    let fragment = |id| WriteFragment {
        cluster: Some(cluster_id()),
        id,
        chunk: 1,
        version: 1,
        grant: GRANT,
        create: true,
        chain: vec![head.holder.clone(), tail.holder.clone()],
        data: Bytes::from_static(b"abc"),
        crc: crc32c::crc32c(b"abc"),
        ..WriteFragment::default()
    };
    fragments.send(fragment(1)).await.unwrap();
    assert_eq!(acks.next().await.unwrap().unwrap().status(), Status::Ok);
    tail.server.close().await;
    for id in 2..4 {
        fragments.send(fragment(id)).await.unwrap();
        let ack = acks.next().await.unwrap().unwrap();
        assert_eq!((ack.status(), ack.failed_server), (Status::Downstream, 2), "{}", ack.detail);
    }
}

#[tokio::test]
async fn a_busy_port_and_a_missing_folder_are_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let config = Config { listen, data: vec![folder.path().to_owned()], ..Config::default() };
    let error = crate::run(config.clone()).await.unwrap_err().to_string();
    assert!(error.contains("cannot listen") && !error.contains('\n'), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    drop(taken);
    let missing = folder.path().join("missing");
    let error = crate::run(Config { data: vec![missing.clone()], ..config.clone() }).await.unwrap_err().to_string();
    assert!(error.contains("missing") && !missing.exists(), "{error}");
    std::fs::write(folder.path().join("letter.txt"), "hello").unwrap();
    let error = crate::run(config).await.unwrap_err().to_string();
    assert!(error.contains("not empty"), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
}

#[tokio::test]
async fn boot_time_moves_on() {
    let clock = BootClock;
    let first = crate::clock::Clock::now_ns(&clock);
    until("a nanosecond passed", || crate::clock::Clock::now_ns(&clock) > first).await;
}
