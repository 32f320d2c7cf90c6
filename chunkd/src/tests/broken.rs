//! Chains that break: who is told, and that nothing is ever applied after a lost fragment (W4).

use super::cluster::*;
use super::recovery::{fix, prepare};
use caribou_proto::chunk::v1::{Status, WriteFragment};
use std::time::Duration;

#[tokio::test(start_paused = true)]
async fn a_missing_member_is_named_and_the_grant_stays_broken_after_it_is_back() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1], 1, 0, b"first")).await;
    cluster.net.remove("chunk-2");
    let ack = writer.write(cluster.fragment(&[0, 1], 2, 0, b"second")).await;
    assert_eq!((ack.status(), ack.failed_server), (Status::Downstream, cluster.nodes[1].id()));
    cluster.net.add_chunk_server("chunk-2", &cluster.nodes[1].server);
    let ack = writer.write(cluster.fragment(&[0, 1], 3, 0, b"third")).await;
    assert_eq!(ack.status(), Status::Downstream, "W4");
    assert_eq!(cluster.read(1, 1, 0, 5).await.data, "first", "nothing after the lost fragment was applied");
    assert_eq!(cluster.read(0, 1, 0, 5).await.status(), Status::NotYet, "R1: the tail never had it");
    // V1: at the next version everything goes on.
    prepare(&cluster, 0, 2).await;
    prepare(&cluster, 1, 2).await;
    fix(&cluster, 0, 2, Vec::new()).await;
    fix(&cluster, 1, 2, vec![super::recovery::from(&cluster, 0, 2, 0, 1)]).await;
    let next =
        WriteFragment { version: 2, grant: GRANT + 1, create: false, ..cluster.fragment(&[0, 1], 4, 0, b"forth") };
    writer.put(next).await;
    assert_eq!(cluster.read(1, 2, 0, 5).await.data, "forth");
}

#[tokio::test(start_paused = true)]
async fn what_was_under_way_on_a_cut_line_fails_and_nothing_slips_through_on_the_next() {
    let cluster = Cluster::start(3).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1, 2], 1, 0, b"1")).await;
    cluster.net.block("chunk-2", true);
    writer.send(cluster.fragment(&[0, 1, 2], 2, 1, b"2"));
    writer.send(cluster.fragment(&[0, 1, 2], 3, 2, b"3"));
    // Time passes, so both are on the line.
    tokio::time::advance(Duration::from_millis(50)).await;
    cluster.net.cut("chunk-2");
    writer.send(cluster.fragment(&[0, 1, 2], 4, 3, b"4"));
    for id in 2..=4 {
        assert_eq!(writer.ack(id).await.status(), Status::Downstream, "fragment {id}");
    }
    for member in [1, 2] {
        assert_eq!(cluster.read(member, 1, 0, 4).await.data, "1\0\0\0".as_bytes(), "member {member}");
    }
    // Another chunk is not concerned: the next link carries it.
    let other = WriteFragment { chunk: CHUNK + 1, ..cluster.fragment(&[0, 1, 2], 5, 0, b"other") };
    writer.put(other).await;
}

#[tokio::test(start_paused = true)]
async fn a_failure_in_the_middle_is_passed_up_and_poisons_every_member_before_it() {
    let cluster = Cluster::start(3).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1, 2], 1, 0, b"first")).await;
    cluster.net.remove("chunk-3");
    let ack = writer.write(cluster.fragment(&[0, 1, 2], 2, 0, b"x")).await;
    assert_eq!((ack.status(), ack.failed_server), (Status::Downstream, cluster.nodes[2].id()));
    cluster.net.add_chunk_server("chunk-3", &cluster.nodes[2].server);
    // Even past the head: its predecessor's stream is not the only guard.
    let mut second = cluster.writer(1);
    let past = WriteFragment { position: 1, ..cluster.fragment(&[0, 1, 2], 9, 0, b"past") };
    assert_eq!(second.write(past).await.status(), Status::Downstream);
    assert_eq!(cluster.read(2, 1, 0, 5).await.data, "first");
}

#[tokio::test(start_paused = true)]
async fn a_refusal_behind_breaks_the_grant_and_later_fragments_are_not_applied_there() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    // The head may create, the tail has had the chunk deleted: its tombstone refuses (ADR 0001.9).
    let body = caribou_proto::chunk::v1::command::Body::Delete(caribou_proto::chunk::v1::Delete { up_to_version: 1 });
    let mut direct = cluster.writer(1);
    direct.put(cluster.fragment(&[1], 1, 0, b"gone")).await;
    let result = cluster.leader.command(cluster.nodes[1].id(), CHUNK, body).await;
    assert_eq!(result.status(), Status::Ok, "{}", result.detail);
    for id in 2..=4 {
        let ack = writer.write(cluster.fragment(&[0, 1], id, 0, b"late")).await;
        assert_eq!((ack.status(), ack.failed_server), (Status::NoReplica, cluster.nodes[1].id()));
    }
    assert_eq!(cluster.read(1, 1, 0, 4).await.status(), Status::NoReplica);
}

#[tokio::test(start_paused = true)]
async fn a_silent_member_is_given_up_after_the_ack_timeout_for_that_chunk_alone() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    cluster.net.block("chunk-2", true);
    let before = tokio::time::Instant::now();
    let ack = writer.write(cluster.fragment(&[0, 1], 1, 0, b"stuck")).await;
    assert_eq!((ack.status(), ack.failed_server), (Status::Downstream, cluster.nodes[1].id()));
    assert!(before.elapsed() >= ACK_TIMEOUT);
    writer.send(WriteFragment { chunk: CHUNK + 1, ..cluster.fragment(&[0, 1], 2, 0, b"other") });
    cluster.net.block("chunk-2", false);
    assert_eq!(writer.ack(2).await.status(), Status::Ok, "the same link goes on");
    assert_eq!(writer.write(cluster.fragment(&[0, 1], 3, 0, b"again")).await.status(), Status::Downstream);
}

#[tokio::test(start_paused = true)]
async fn a_failed_disk_in_the_chain_fails_the_fragment_with_its_server() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1], 1, 0, b"good")).await;
    let hook = |call: &str| {
        if call.contains("sync") { Err(std::io::Error::other("a broken disk")) } else { Ok(()) }
    };
    cluster.nodes[1].disk.set_hook(Some(std::sync::Arc::new(hook)));
    let ack = writer.write(WriteFragment { sync: true, ..cluster.fragment(&[0, 1], 2, 0, b"lost") }).await;
    assert_eq!((ack.status(), ack.failed_server), (Status::DiskFailed, cluster.nodes[1].id()), "W6");
    cluster.nodes[1].disk.set_hook(None);
    let ack = writer.write(WriteFragment { sync: true, ..cluster.fragment(&[0, 1], 3, 0, b"") }).await;
    assert_eq!(ack.status(), Status::DiskFailed, "a failed fsync is never retried");
}

#[tokio::test(start_paused = true)]
async fn an_idle_link_is_closed_and_the_next_write_opens_another() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1], 1, 0, b"early")).await;
    tokio::time::sleep(crate::limits::LINK_IDLE * 2).await;
    writer.put(cluster.fragment(&[0, 1], 2, 0, b"later")).await;
    assert_eq!(cluster.read(1, 1, 0, 5).await.data, "later");
}
