//! Reads: exact version, acknowledged bytes only (R1), under the lease (F2).

use super::cluster::*;
use super::leader::TTL_MS;
use super::recovery::prepare;
use caribou_proto::chunk::v1::{ReadRequest, Status, WriteFragment};
use futures::StreamExt;
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn the_head_does_not_serve_what_the_tail_has_not_acknowledged() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1], 1, 0, &[1; 70_000])).await;
    cluster.net.block("chunk-2", true);
    writer.send(cluster.fragment(&[0, 1], 2, 0, b"new"));
    tokio::time::advance(Duration::from_millis(20)).await;
    assert_eq!(cluster.read(0, 1, 0, 3).await.status(), Status::NotYet);
    assert_eq!(cluster.read(0, 1, 66_000, 3).await.data, [1; 3].as_slice(), "other blocks are served");
    assert_eq!(cluster.read(1, 1, 0, 3).await.data, [1; 3].as_slice(), "the tail serves what it has");
    cluster.net.block("chunk-2", false);
    assert_eq!(writer.ack(2).await.status(), Status::Ok);
    for member in [0, 1] {
        assert_eq!(cluster.read(member, 1, 0, 3).await.data, "new");
    }
}

#[tokio::test(start_paused = true)]
async fn without_the_leader_reads_end_with_the_lease_and_recovery_reads_go_on() {
    let cluster = Cluster::start(1).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, b"data")).await;
    cluster.leader.answer_heartbeats(false);
    until("the lease ran out", || !cluster.nodes[0].server.has_lease()).await;
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::NoLease);
    let holder = cluster.nodes[0].holder();
    let recovery = ReadRequest {
        recovery: true,
        length: 65_536,
        server_id: holder.server_id,
        incarnation: holder.incarnation,
        ..request()
    };
    let reply = cluster.ask(0, recovery.clone()).await;
    assert_eq!(
        (reply.status(), &reply.data[..4], &reply.written[..]),
        (Status::Ok, b"data".as_slice(), [1].as_slice())
    );
    let other = ReadRequest { incarnation: holder.incarnation + 1, ..recovery.clone() };
    assert_eq!(cluster.ask(0, other).await.status(), Status::WrongIncarnation, "F3");
    assert_eq!(cluster.ask(0, ReadRequest { length: 5, ..recovery }).await.status(), Status::Invalid);
    cluster.leader.answer_heartbeats(true);
    until("the lease is back", || cluster.nodes[0].server.has_lease()).await;
    assert_eq!(cluster.read(0, 1, 0, 4).await.data, "data");
}

#[tokio::test(start_paused = true)]
async fn the_lease_runs_from_the_sending_of_the_heartbeat() {
    let cluster = Cluster::start(1).await;
    // From now on nothing that the server says arrives.
    cluster.net.block("meta-1", true);
    let before = tokio::time::Instant::now();
    until("the lease ran out", || !cluster.nodes[0].server.has_lease()).await;
    assert!(before.elapsed() <= Duration::from_millis(TTL_MS + 2), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn reads_name_the_exact_version_and_stay_within_bounds() {
    let cluster = Cluster::start(1).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, b"data")).await;
    assert_eq!(cluster.read(0, 2, 0, 4).await.status(), Status::WrongVersion);
    assert_eq!(cluster.read(0, 1, 0, 0).await.status(), Status::Invalid);
    assert_eq!(cluster.read(0, 1, 0, (1 << 20) + 1).await.status(), Status::Invalid);
    assert_eq!(cluster.read(0, 1, (64 << 20) - 1, 2).await.status(), Status::Invalid);
    assert_eq!(cluster.ask(0, ReadRequest { cluster: None, ..request() }).await.status(), Status::ForeignCluster);
    assert_eq!(cluster.ask(0, ReadRequest { chunk: 5, ..request() }).await.status(), Status::NoReplica);
    prepare(&cluster, 0, 2).await;
    for version in [1, 2] {
        assert_eq!(
            cluster.read(0, version, 0, 4).await.status(),
            Status::WrongVersion,
            "V1: incomplete serves nothing"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_answers_many_reads() {
    let cluster = Cluster::start(1).await;
    let mut writer = cluster.writer(0);
    let data = pattern(1 << 20, 5);
    writer.put(cluster.fragment(&[0], 1, 0, &data)).await;
    let requests =
        (0..200u32).map(|id| ReadRequest { id: u64::from(id), offset: id * 5000, length: 5000, ..request() });
    let replies: Vec<_> = cluster.nodes[0].server.read(futures::stream::iter(requests)).collect().await;
    assert_eq!(replies.len(), 200);
    for reply in replies {
        let start = usize::try_from(reply.id).unwrap() * 5000;
        assert_eq!(reply.data, data[start..start + 5000]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_broken_fragment_stays_unread_at_the_head() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1], 1, 0, b"old")).await;
    cluster.net.remove("chunk-2");
    assert_eq!(writer.write(cluster.fragment(&[0, 1], 2, 0, b"new")).await.status(), Status::Downstream);
    assert_eq!(cluster.read(0, 1, 0, 3).await.status(), Status::NotYet, "a recovery may take it back");
    let sync = WriteFragment { sync: true, ..cluster.fragment(&[0, 1], 3, 0, b"") };
    assert_eq!(writer.write(sync).await.status(), Status::Downstream);
}
