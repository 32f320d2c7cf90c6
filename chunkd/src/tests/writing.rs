//! Writes down chains that work, and writes that are refused (W2, W3, W6, F1, F3).

use super::cluster::*;
use crate::limits;
use caribou_proto::chunk::v1::{Status, WriteFragment};
use futures::FutureExt;

#[tokio::test(start_paused = true)]
async fn chains_of_one_two_and_three_members_write_sync_and_read_back() {
    for members in [vec![0], vec![0, 1], vec![2, 0, 1]] {
        let cluster = Cluster::start(3).await;
        let mut writer = cluster.writer(members[0]);
        let incarnations: Vec<u64> = cluster.chain(&members).iter().map(|holder| holder.incarnation).collect();
        let (first, second) = (pattern(100_000, 1), pattern(70_000, 2));
        let ack = writer.put(cluster.fragment(&members, 1, 10, &first)).await;
        assert_eq!(ack.incarnations, incarnations);
        let syncs: Vec<u64> = members.iter().map(|&member| cluster.nodes[member].disk.syncs()).collect();
        let ack = writer.put(WriteFragment { sync: true, ..cluster.fragment(&members, 2, 300_000, &second) }).await;
        assert_eq!(ack.incarnations, incarnations);
        for (&member, before) in members.iter().zip(syncs) {
            assert!(cluster.nodes[member].disk.syncs() > before, "W6: every member synced");
        }
        for &member in &members {
            let reply = cluster.read(member, 1, 0, 400_000).await;
            assert_eq!(reply.status(), Status::Ok, "{}", reply.detail);
            assert_eq!(reply.data[..10], [0; 10]);
            assert_eq!(reply.data[10..100_010], first);
            assert!(reply.data[100_010..300_000].iter().all(|byte| *byte == 0), "a hole is zeros");
            assert_eq!(reply.data[300_000..370_000], second);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_sync_without_data_covers_what_was_written_before() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1], 1, 0, b"abc")).await;
    let before = cluster.nodes[1].disk.syncs();
    writer.put(WriteFragment { sync: true, ..cluster.fragment(&[0, 1], 2, 0, b"") }).await;
    assert!(cluster.nodes[1].disk.syncs() > before);
    let old = WriteFragment { sync: true, grant: GRANT - 1, ..cluster.fragment(&[0, 1], 3, 0, b"") };
    assert_eq!(writer.write(old).await.status(), Status::OldGrant);
    let elsewhere = WriteFragment { sync: true, chunk: CHUNK + 1, ..cluster.fragment(&[0, 1], 4, 0, b"") };
    assert_eq!(writer.write(elsewhere).await.status(), Status::NoReplica);
}

#[tokio::test(start_paused = true)]
async fn many_chunks_share_a_stream_and_each_keeps_its_order() {
    let cluster = Cluster::start(3).await;
    let mut writer = cluster.writer(0);
    let mut id = 0;
    for round in 0..20u8 {
        for chunk in 0..10 {
            id += 1;
            let fragment = cluster.fragment(&[0, 1, 2], id, 5, &[round; 3000]);
            writer.send(WriteFragment { chunk: CHUNK + chunk, ..fragment });
        }
    }
    for id in 1..=id {
        assert_eq!(writer.ack(id).await.status(), Status::Ok);
    }
    for chunk in 0..10 {
        for member in 0..3 {
            let request =
                caribou_proto::chunk::v1::ReadRequest { chunk: CHUNK + chunk, offset: 5, length: 3000, ..request() };
            assert!(cluster.ask(member, request).await.data.iter().all(|byte| *byte == 19), "the last round won");
        }
    }
    assert_eq!(cluster.nodes[0].server.streams.counts(), (0, 0), "nothing is kept about chunks at rest");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_for_this_server_is_refused_and_leaves_no_trace() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    let good = |id| cluster.fragment(&[0, 1], id, 0, b"good");
    let mut foreign = cluster_id();
    foreign.uuid = vec![1; 16].into();
    let refused = WriteFragment { cluster: Some(foreign), ..good(1) };
    assert_eq!(writer.write(refused).await.status(), Status::ForeignCluster);
    assert_eq!(writer.write(WriteFragment { cluster: None, ..good(2) }).await.status(), Status::ForeignCluster);
    let mut chain = cluster.chain(&[0, 1]);
    chain[0].incarnation += 1;
    assert_eq!(writer.write(WriteFragment { chain, ..good(3) }).await.status(), Status::WrongIncarnation);
    let elsewhere = WriteFragment { position: 1, ..good(4) };
    assert_eq!(writer.write(elsewhere).await.status(), Status::WrongIncarnation);
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::NoReplica);
    // F3 behind the head: the head has written, the chain fails, and says where.
    let mut chain = cluster.chain(&[0, 1]);
    chain[1].incarnation += 1;
    let ack = writer.write(WriteFragment { chunk: CHUNK + 1, chain, ..good(5) }).await;
    assert_eq!((ack.status(), ack.failed_server), (Status::WrongIncarnation, cluster.nodes[1].id()));
    writer.put(good(6)).await;
}

#[tokio::test(start_paused = true)]
async fn another_generation_of_the_cluster_is_refused_and_breaks_the_grant() {
    let cluster = Cluster::start(1).await;
    let mut writer = cluster.writer(0);
    let good = |id| cluster.fragment(&[0], id, 0, b"good");
    let later = caribou_proto::cluster::v1::ClusterId { generation: 2, ..cluster_id() };
    assert_eq!(writer.write(WriteFragment { cluster: Some(later), ..good(1) }).await.status(), Status::ForeignCluster);
    assert_eq!(writer.write(good(2)).await.status(), Status::ForeignCluster, "W4: no gap");
    writer.put(WriteFragment { grant: GRANT + 1, ..good(3) }).await;
}

#[tokio::test(start_paused = true)]
async fn versions_grants_and_create_tokens_are_checked() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    let good = |id, chunk| WriteFragment { chunk: CHUNK + chunk, ..cluster.fragment(&[0, 1], id, 0, b"good") };
    let missing = WriteFragment { create: false, ..good(1, 0) };
    assert_eq!(writer.write(missing).await.status(), Status::NoReplica, "W2");
    writer.put(good(2, 1)).await;
    let other_version = WriteFragment { version: 2, grant: GRANT + 1, ..good(3, 1) };
    assert_eq!(writer.write(other_version).await.status(), Status::WrongVersion);
    let next = WriteFragment { grant: GRANT + 2, create: false, ..good(4, 1) };
    // The refused version broke nothing of version 1 … except that lower orders than it stay refused.
    assert_eq!(writer.write(next).await.status(), Status::WrongVersion);
    writer.put(good(5, 2)).await;
    writer.put(WriteFragment { grant: GRANT + 5, create: false, ..good(6, 2) }).await;
    assert_eq!(writer.write(good(7, 2)).await.status(), Status::OldGrant, "F3");
    writer.put(WriteFragment { grant: GRANT + 5, create: false, ..good(8, 2) }).await;
}

#[tokio::test(start_paused = true)]
async fn malformed_and_damaged_fragments_are_refused() {
    let cluster = Cluster::start(1).await;
    let mut writer = cluster.writer(0);
    let mut id = 0;
    let mut next = |data: &[u8]| {
        id += 1;
        WriteFragment { chunk: CHUNK + id, ..cluster.fragment(&[0], id, 0, data) }
    };
    let damaged = WriteFragment { crc: 1, ..next(b"abc") };
    let beyond = WriteFragment { offset: (64 << 20) - 2, ..next(b"abc") };
    let empty = next(b"");
    let large = next(&vec![0; (1 << 20) + 1]);
    let mut long = next(b"abc");
    long.chain = vec![long.chain[0].clone(); limits::CHAIN_MEMBERS + 1];
    let mut outside = next(b"abc");
    outside.position = 1;
    assert_eq!(writer.write(damaged).await.status(), Status::Corrupt);
    for fragment in [beyond, empty, large, long, outside] {
        assert_eq!(writer.write(fragment).await.status(), Status::Invalid);
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_takes_no_more_than_its_share_while_the_chain_is_stuck() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    cluster.net.block("chunk-2", true);
    let data = pattern(1 << 20, 3);
    for id in 1..=60u32 {
        let fragment = cluster.fragment(&[0, 1], u64::from(id), (id - 1) << 20, &data);
        writer.send(fragment);
    }
    let share = (limits::STREAM_WRITE_BYTES >> 20) as usize;
    // What was taken left the channel; one more is held while it waits for its share.
    until("the share is used up", || writer.fragments.capacity() == 1024 - 60 + share + 1).await;
    assert!(writer.ack(1).now_or_never().is_none());
    cluster.net.block("chunk-2", false);
    for id in 1..=60 {
        assert_eq!(writer.ack(id).await.status(), Status::Ok);
    }
}

#[tokio::test(start_paused = true)]
async fn full_queues_do_not_wait_for_each_other_in_a_circle() {
    let cluster = Cluster::start(3).await;
    let chains = [[0, 1, 2], [1, 2, 0], [2, 0, 1]];
    for address in ["chunk-1", "chunk-2", "chunk-3"] {
        cluster.net.block(address, true);
    }
    let data = pattern(1 << 20, 3);
    let mut writers = Vec::new();
    for (number, chain) in chains.iter().enumerate() {
        let writer = cluster.writer(chain[0]);
        for id in 1..=60u32 {
            let fragment = cluster.fragment(chain, u64::from(id), (id - 1) << 20, &data);
            writer.send(WriteFragment { chunk: CHUNK + number as u64, ..fragment });
        }
        writers.push(writer);
    }
    // Every head has taken all that it may.
    until("all are stuck", || writers.iter().all(|writer| writer.fragments.capacity() > 1024 - 60 + 32)).await;
    for address in ["chunk-1", "chunk-2", "chunk-3"] {
        cluster.net.block(address, false);
    }
    for writer in &mut writers {
        for id in 1..=60 {
            assert_eq!(writer.ack(id).await.status(), Status::Ok);
        }
    }
}
