//! A follower behind the purged log comes back by snapshot while work goes on.

use bytes::Bytes;
use caribou_proto::raft::v1 as wire;
use caribou_proto::raft::v1::raft_service_client::RaftServiceClient;
use caribou_proto::raft::v1::{snapshot_reply::Reply, snapshot_request::Part};
use tokio_stream::wrappers::ReceiverStream;

use super::cluster::{Cluster, eventually, leader_after, open_session};
use crate::fsm::tables::meta::{self, Counter};
use crate::raft::RaftConfig;
use crate::raft::network::peers;

fn small_log(config: &mut RaftConfig) {
    config.snapshot_after_bytes = 256 << 10;
    config.log_keep_bytes = 64 << 10;
}

/// Entries of some size: sessions with long names.
async fn fill(cluster: &Cluster, keys: std::ops::Range<u64>) {
    for key in keys {
        let mut command = open_session(key);
        if let crate::fsm::command::Command::OpenSession { name, .. } = &mut command {
            *name = "x".repeat(200);
        }
        let many: Vec<_> = (0..50).map(|i| with_key(&command, key * 1000 + i)).collect();
        eventually("replies", async || {
            let leader = cluster.leader().await;
            cluster.node(leader).propose(many.clone()).await.ok()
        })
        .await;
    }
}

fn with_key(command: &crate::fsm::command::Command, key: u64) -> crate::fsm::command::Command {
    let mut command = command.clone();
    if let crate::fsm::command::Command::OpenSession { key: bytes, .. } = &mut command {
        bytes[8..].copy_from_slice(&key.to_be_bytes());
    }
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_behind_the_log_comes_back_by_snapshot() {
    let mut cluster = Cluster::three(small_log).await;
    let leader = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    fill(&cluster, 0..5).await;
    cluster.crash(away).await;
    let had = cluster.node(leader).status().last_log_index;
    fill(&cluster, 5..80).await;
    let purged = eventually("a purged log", async || {
        let purged = cluster.node(cluster.leader().await).status().purged_index;
        (purged > had).then_some(purged)
    })
    .await;
    cluster.start(away).await;
    fill(&cluster, 80..100).await;
    cluster.assert_equal_states().await;
    let back = cluster.node(away).status();
    assert!(back.snapshot_index >= purged, "{back:?}");
    assert_eq!(meta::counter(&cluster.node(away).view(), Counter::LiveSessions).unwrap(), 100 * 50);
    // It crashes right after, and starts from what it was given.
    cluster.crash(away).await;
    cluster.start(away).await;
    cluster.assert_equal_states().await;
    // And it can lead.
    let leader = cluster.leader().await;
    if leader != away {
        let term = cluster.node(leader).leader().borrow().term;
        cluster.node(leader).transfer_leader(Some(caribou_proto::ids::NodeId(away))).await.unwrap();
        leader_after(&cluster, term).await;
    }
    fill(&cluster, 100..102).await;
    cluster.assert_equal_states().await;
}

/// The leader dies while the follower is being brought back, then the follower: whoever leads next goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn crashes_while_a_snapshot_travels_lose_nothing() {
    let mut cluster = Cluster::three(small_log).await;
    for round in 0..3 {
        let leader = cluster.leader().await;
        let away = (1..=3).find(|id| *id != leader).unwrap();
        cluster.crash(away).await;
        let had = cluster.node(leader).status().last_log_index;
        fill(&cluster, round * 100..round * 100 + 40).await;
        eventually("a purged log", async || (cluster.node(leader).status().purged_index > had).then_some(())).await;
        cluster.start(away).await;
        let first_part = round % 2 == 0;
        if first_part {
            cluster.crash(leader).await;
        } else {
            cluster.crash(away).await;
        }
        cluster.start(if first_part { leader } else { away }).await;
        cluster.assert_equal_states().await;
    }
    let leader = cluster.leader().await;
    assert_eq!(meta::counter(&cluster.node(leader).view(), Counter::LiveSessions).unwrap(), 3 * 40 * 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_stays_bounded_and_restarts_follow_it() {
    let mut cluster = Cluster::three(small_log).await;
    fill(&cluster, 0..120).await;
    let leader = cluster.leader().await;
    let bounded = 256 * 1024 + 2 * 64 * 1024 + 512 * 1024;
    eventually("a bounded log", async || (cluster.node(leader).status().log_bytes < bounded).then_some(())).await;
    for id in 1..=3 {
        cluster.crash(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await;
    }
    cluster.assert_equal_states().await;
    let leader = cluster.leader().await;
    assert_eq!(meta::counter(&cluster.node(leader).view(), Counter::LiveSessions).unwrap(), 120 * 50);
}

/// Speaks as the leader would, and breaks off in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_stream_is_resumed_and_its_progress_shows() {
    let cluster = Cluster::three(|_| {}).await;
    let leader = cluster.leader().await;
    let target = (1..=3).find(|id| *id != leader).unwrap();
    let node = cluster.node(target);
    let term = node.leader().borrow().term;
    let offer = wire::SnapshotOffer {
        header: Some(wire::Header {
            cluster: Some(node.cluster().unwrap().into()),
            from_node: leader,
            to_node: target,
        }),
        vote: Some(wire::Vote { term, node_id: leader, committed: true }),
        meta: Some(wire::SnapshotMeta {
            last_log_id: Some(wire::LogId { term, index: 1_000_000 }),
            membership: Some(wire::Membership::default()),
            ..Default::default()
        }),
        snapshot_id: "one".to_owned(),
        files: vec![wire::SnapshotFile { name: "000001.sst".to_owned(), bytes: 10 }],
    };
    let mut client = RaftServiceClient::new(peers::connect(&cluster.addresses[&target].to_string()).unwrap());
    for have in [0, 4] {
        let (requests, outgoing) = tokio::sync::mpsc::channel(4);
        let part = |part| wire::SnapshotRequest { part: Some(part) };
        requests.send(part(Part::Offer(offer.clone()))).await.unwrap();
        let mut replies = client.snapshot(ReceiverStream::new(outgoing)).await.unwrap().into_inner();
        let Some(Reply::Resume(resume)) = replies.message().await.unwrap().unwrap().reply else { panic!("no resume") };
        assert_eq!(resume.have_bytes, [have]);
        let data = Bytes::from_static(b"half");
        let crc32c = crc32c::crc32c(&data);
        requests.send(part(Part::Data(wire::SnapshotData { file: 0, offset: have, data, crc32c }))).await.unwrap();
        let Some(Reply::Received(r)) = replies.message().await.unwrap().unwrap().reply else { panic!("no progress") };
        assert_eq!(r.bytes, have + 4);
        let status = node.status();
        assert_eq!((status.installing_bytes, status.installing_total_bytes), (have + 4, 10));
        drop((requests, replies));
        eventually("the end of the stream", async || (node.status().installing_total_bytes == 0).then_some(())).await;
    }
    // A leader of an old term gets no further than its offer.
    let old = wire::SnapshotOffer { vote: Some(wire::Vote { term: 0, node_id: leader, committed: true }), ..offer };
    let old = futures::stream::iter([wire::SnapshotRequest { part: Some(Part::Offer(old)) }]);
    let mut replies = client.snapshot(old).await.unwrap().into_inner();
    let Some(Reply::Installed(i)) = replies.message().await.unwrap().unwrap().reply else { panic!("no refusal") };
    assert_eq!(i.vote.unwrap().term, term);
}
