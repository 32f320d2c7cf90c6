//! A real store is not found fault with; what a broken one, a client or a metadata node could do is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_chunkd::store::disk::{Disk, OpenMode};
use caribou_chunkd::store::memory::MemoryDisk;
use caribou_chunkd::store::{ChunkStore, ClusterIdentity, OpenOptions, Prepare, Write};
use caribou_meta_raft::fsm::command::IntentKind;
use caribou_meta_raft::fsm::tables::chunks::{Chunk, Grant, Intent, Replica};
use caribou_proto::chunk::v1::{Registered, ToServer, WriteFragment, to_server};
use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::{BLOCK_BYTES, ChunkId, ChunkVersion, GrantId, Incarnation, InodeId, ServerId, SessionId};
use caribou_proto::meta::v1::mutation::Op;
use caribou_proto::meta::v1::{
    ClientMessage, Hello, Mutation, Outcome, Reply, ReplyBody, Request, ServerMessage, WriteEnd, WrittenChunk,
    client_message, server_message,
};

use super::disk::WatchedDisk;
use super::header::DATA_AT;
use super::{removals, write_ends};
use crate::clock::SimClock;
use crate::findings::Findings;

const ADDRESS: &str = "chunk1:1";
const SERVER: ServerId = ServerId(1);
const CHUNK: ChunkId = ChunkId(7);
const FILE: &str = "chunks/07/0000000000000007.chunk";
/// The call of a client, and its session.
const CALL: u64 = 4;
const SESSION: u64 = 3;

/// A chunk server's store behind the eye, and its disk.
struct Server {
    findings: Arc<Findings>,
    store: Arc<ChunkStore>,
    disk: Arc<dyn Disk>,
}

fn findings() -> Arc<Findings> {
    Arc::new(Findings::new(SimClock::start()))
}

impl Server {
    async fn start() -> Self {
        let findings = findings();
        let memory = Arc::new(MemoryDisk::new("disk1"));
        let disk: Arc<dyn Disk> = Arc::new(WatchedDisk::new(memory, ADDRESS, &findings));
        let mut uuid = [0_u8; 16];
        let new_uuid = Box::new(move || {
            uuid[0] += 1;
            uuid
        });
        let options =
            OpenOptions { disks: vec![disk.clone()], new_uuid, now_unix_ms: 1, deadline: Duration::from_secs(5) };
        let store = ChunkStore::open(options).await.expect("it opens");
        store.adopt(ClusterIdentity { uuid: [9; 16], generation: 1, nonce: 1 }, SERVER).await.expect("it registers");
        let registered = Registered { server_id: SERVER.0, ..Registered::default() };
        removals::told(&findings, ADDRESS, &ToServer { body: Some(to_server::Body::Registered(registered)) });
        Self { findings, store, disk }
    }

    fn arrives(&self, version: u64, grant: u64, data: &'static [u8]) -> WriteFragment {
        let holder = Holder { server_id: SERVER.0, ..Holder::default() };
        let fragment = WriteFragment {
            chunk: CHUNK.0,
            version,
            grant,
            data: Bytes::from_static(data),
            chain: vec![holder],
            ..WriteFragment::default()
        };
        self.findings.fencing.fragments.lock().arrived(ADDRESS, &fragment);
        fragment
    }

    async fn writes(&self, version: u64, grant: u64, data: &'static [u8]) {
        let WriteFragment { offset, data, .. } = self.arrives(version, grant, data);
        let crc = crc32c::crc32c(&data);
        let (version, grant) = (ChunkVersion(version), GrantId(grant));
        let write = Write { chunk: CHUNK, version, grant, create: true, offset, data, crc, tail: true };
        self.store.write(write).await.expect("it is written");
    }

    async fn is_prepared(&self, version: u64, old_grant: u64) {
        let (version, old_grant) = (ChunkVersion(version), GrantId(old_grant));
        let prepare = Prepare { chunk: CHUNK, version, join: false, old_grant };
        self.store.prepare(prepare).await.expect("it is prepared");
    }

    /// As a store would that does not check.
    fn breaks_the_rule(&self, data: &[u8]) {
        let file = self.disk.open(FILE, OpenMode::Existing).expect("the chunk's file");
        file.write_at(data, DATA_AT).expect("written");
    }
}

fn the_only_finding(findings: &Findings) -> String {
    let found = findings.violations();
    assert!(found.len() == 1 && found[0].contains("P3"), "{found:?}");
    found[0].clone()
}

#[tokio::test(start_paused = true)]
async fn what_a_store_does_is_right() {
    let server = Server::start().await;
    server.writes(1, 5, b"first").await;
    server.writes(1, 6, b"second").await;
    server.is_prepared(2, 6).await;
    let block = Some(Bytes::from(vec![7; BLOCK_BYTES as usize]));
    server.store.install_block(CHUNK, ChunkVersion(2), 3, block).await.expect("installed");
    server.store.install_block(CHUNK, ChunkVersion(2), 0, None).await.expect("installed");
    server.store.cut(CHUNK, ChunkVersion(2), 4 * BLOCK_BYTES).await.expect("cut");
    server.store.complete(CHUNK, ChunkVersion(2)).await.expect("completed");
    server.writes(2, 7, b"third").await;
    assert!(server.findings.is_clean(), "{:?}", server.findings.violations());
}

#[tokio::test(start_paused = true)]
async fn bytes_that_a_prepare_has_fenced_are_found() {
    let server = Server::start().await;
    server.writes(1, 5, b"first").await;
    server.is_prepared(2, 5).await;
    server.arrives(1, 5, b"late");
    server.breaks_the_rule(b"late");
    assert!(the_only_finding(&server.findings).contains("has changed 4 bytes at 0 of chunk 7"));
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_lower_grant_are_found() {
    let server = Server::start().await;
    server.arrives(1, 5, b"late");
    server.writes(1, 6, b"first").await;
    server.breaks_the_rule(b"late");
    the_only_finding(&server.findings);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_nobody_has_sent_are_found() {
    let server = Server::start().await;
    server.writes(1, 5, b"first").await;
    // As a copy that goes on after its round was given up.
    server.breaks_the_rule(&vec![7; BLOCK_BYTES as usize]);
    the_only_finding(&server.findings);
}

fn row(version: u64, grant: Option<u64>) -> Chunk {
    let grant = grant.map(|id| Grant { id: GrantId(id), session: SessionId(SESSION), recalled: false });
    Chunk {
        inode: InodeId(2),
        index: 0,
        class: 1,
        version: ChunkVersion(version),
        replicas: vec![Replica { server: SERVER, incarnation: Incarnation(1) }],
        new: false,
        last_grant: GrantId(9),
        unkept: None,
        grant,
        intent: None,
        hold: None,
    }
}

fn now_it_has(findings: &Findings, row: Chunk) {
    findings.places.set(BTreeMap::from([(CHUNK, row)]));
}

#[tokio::test(start_paused = true)]
async fn bytes_of_a_grant_that_has_ended_are_found_before_anybody_else_has_written() {
    let server = Server::start().await;
    now_it_has(&server.findings, row(1, Some(5)));
    server.writes(1, 5, b"first").await;
    assert!(server.findings.is_clean());
    now_it_has(&server.findings, row(2, None));
    server.writes(1, 5, b"left out of a recovery").await;
    assert!(server.findings.is_clean(), "nobody reads version 1 any more");
    now_it_has(&server.findings, row(1, None));
    server.writes(1, 5, b"after its end").await;
    assert!(the_only_finding(&server.findings).contains("the chunk's grant is None"));
}

/// Whether a replica that is complete at version 1 may go while the newest row is this one.
async fn may_go(row: Option<Chunk>) -> bool {
    let server = Server::start().await;
    server.writes(1, 5, b"first").await;
    row.into_iter().for_each(|row| now_it_has(&server.findings, row));
    server.store.delete(CHUNK, ChunkVersion(1), 1).await.expect("deleted");
    let found = server.findings.violations();
    assert!(found.iter().all(|what| what.contains("R3: chunk1:1 has removed its replica of chunk 7")), "{found:?}");
    found.is_empty()
}

#[tokio::test(start_paused = true)]
async fn a_replica_that_goes_while_it_is_counted_on_is_found() {
    let other = Replica { server: ServerId(2), incarnation: Incarnation(1) };
    let intent = Intent { kind: IntentKind::Bump, version: ChunkVersion(2), cut: 0, ended: None };
    assert!(may_go(None).await, "the chunk is gone");
    assert!(may_go(Some(row(2, None))).await, "it is counted on at another version");
    assert!(may_go(Some(Chunk { replicas: vec![other], ..row(1, None) })).await, "on another server");
    assert!(may_go(Some(Chunk { intent: Some(intent), ..row(1, None) })).await, "a recovery will see");
    assert!(!may_go(Some(row(1, None))).await);
    assert!(!may_go(Some(row(1, Some(5)))).await);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_complete_may_go() {
    let server = Server::start().await;
    server.writes(1, 5, b"first").await;
    server.is_prepared(2, 5).await;
    now_it_has(&server.findings, row(2, None));
    server.store.delete(CHUNK, ChunkVersion(2), 1).await.expect("deleted");
    assert!(server.findings.is_clean(), "{:?}", server.findings.violations());
}

fn hello(findings: &Findings) {
    let hello = Hello { session_id: SESSION, ..Hello::default() };
    write_ends::sent(findings, CALL, &ClientMessage { body: Some(client_message::Body::Hello(hello)) });
}

fn asks(findings: &Findings, seq: u64) {
    let written = WrittenChunk { index: 0, chunk: CHUNK.0, version: 1, grant: 5, ..WrittenChunk::default() };
    let op = Op::WriteEnd(WriteEnd { inode: 2, length: 9, chunks: vec![written], ..WriteEnd::default() });
    let request = Request { seq, mutation: Some(Mutation { op: Some(op) }), ..Request::default() };
    write_ends::sent(findings, CALL, &ClientMessage { body: Some(client_message::Body::Request(request)) });
}

fn is_answered(findings: &Findings, seq: u64, lost: &[u32]) {
    let body = ReplyBody { lost: lost.to_vec(), ..ReplyBody::default() };
    let reply = Reply { seq, outcome: Outcome::Executed as i32, body: Some(body), ..Reply::default() };
    write_ends::answered(findings, CALL, &ServerMessage { body: Some(server_message::Body::Reply(reply)) });
}

#[tokio::test(start_paused = true)]
async fn a_write_end_that_counts_after_its_grant_is_found() {
    let findings = findings();
    hello(&findings);
    now_it_has(&findings, row(1, Some(6)));
    asks(&findings, 1);
    is_answered(&findings, 1, &[0]);
    assert!(findings.is_clean(), "it is told that it has lost its grant");
    asks(&findings, 2);
    is_answered(&findings, 2, &[]);
    the_only_finding(&findings);
}

#[tokio::test(start_paused = true)]
async fn a_write_end_that_is_sent_again_may_have_counted_before() {
    let findings = findings();
    hello(&findings);
    now_it_has(&findings, row(1, Some(5)));
    asks(&findings, 1);
    now_it_has(&findings, row(2, None));
    asks(&findings, 1);
    is_answered(&findings, 1, &[]);
    assert!(findings.is_clean(), "{:?}", findings.violations());
}
