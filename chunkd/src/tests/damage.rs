//! Damaged blocks: told in heartbeats as damaged, not as lost, and mended in place by what the leader commands (R3, V1).

use super::cluster::*;
use super::recovery::{fix, from, prepare};
use caribou_proto::chunk::v1::{DamagedChunk, Heartbeat, Status, WriteFragment, from_server};

/// Where data begin in a replica's file (docs/on-disk-format.md).
const DATA_OFFSET: u64 = 64 << 10;

/// What a server's next heartbeat would say.
fn beat(cluster: &Cluster, member: usize) -> Heartbeat {
    match crate::heartbeat::heartbeat(cluster.nodes[member].server.store(), 1).body {
        Some(from_server::Body::Heartbeat(beat)) => beat,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn r3_two_replicas_with_rot_in_different_blocks_are_mended_from_each_other() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    let data = pattern(131_072, 1);
    writer.put(WriteFragment { sync: true, ..cluster.fragment(&[0, 1], 1, 0, &data) }).await;
    for (member, offset) in [(0, 70_000), (1, 5)] {
        let file = format!("chunks/{:02x}/{CHUNK:016x}.chunk", CHUNK % 256);
        cluster.nodes[member].disk.damage(&file, DATA_OFFSET + offset, 1);
        assert_eq!(cluster.read(member, 1, 0, 131_072).await.status(), Status::Corrupt);
        let beat = beat(&cluster, member);
        assert_eq!(beat.damaged_chunks, [DamagedChunk { chunk: CHUNK, blocks: 1 }]);
        assert!(beat.lost_chunks.is_empty(), "an older leader would give it up");
    }
    for member in [0, 1] {
        prepare(&cluster, member, 2).await;
    }
    fix(&cluster, 0, 2, vec![from(&cluster, 1, 2, 1, 1)]).await;
    fix(&cluster, 1, 2, vec![from(&cluster, 0, 2, 0, 1)]).await;
    for member in [0, 1] {
        let reply = cluster.read(member, 2, 0, 131_072).await;
        assert_eq!(reply.status(), Status::Ok, "{}", reply.detail);
        assert!(reply.data == data);
        let beat = beat(&cluster, member);
        assert!(beat.damaged_chunks.is_empty() && beat.lost_chunks.is_empty());
    }
}
