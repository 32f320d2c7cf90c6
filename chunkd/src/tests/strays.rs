//! Replicas that nobody counts on: named in heartbeats once the leader has said what it counts on, and deleted by its command only (R4).

use super::cluster::*;
use caribou_proto::chunk::v1::{Delete, Inventory, Status, StrayChunk, WriteFragment, command, from_server, to_server};

/// What the server's next heartbeat names.
fn named(cluster: &Cluster) -> Vec<StrayChunk> {
    match crate::heartbeat::heartbeat(cluster.nodes[0].server.store(), 1).body {
        Some(from_server::Body::Heartbeat(beat)) => beat.stray_chunks,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn r4_strays_are_told_and_deleted_by_a_command_only() {
    let cluster = Cluster::start(1).await;
    let id = cluster.nodes[0].id();
    let mut writer = cluster.writer(0);
    writer.put(WriteFragment { sync: true, ..cluster.fragment(&[0], 1, 0, b"data") }).await;
    let tell = async |inventory| {
        cluster.leader.tell(id, to_server::Body::Inventory(inventory)).await;
        // In the order of the stream, the answer to a command comes behind it.
        let other = command::Body::Delete(Delete { up_to_version: 1 });
        assert_eq!(cluster.leader.command(id, CHUNK + 1, other).await.status(), Status::Ok);
    };
    let all = Inventory { first: true, up_to: u64::MAX, ..Inventory::default() };
    tell(Inventory { first: true, ..Inventory::default() }).await;
    assert_eq!(named(&cluster), [], "an older leader does not say what it does not count on");
    tell(Inventory { chunks: vec![CHUNK], versions: vec![1], ..all.clone() }).await;
    assert_eq!(named(&cluster), []);
    tell(Inventory { under_way: vec![CHUNK], ..all.clone() }).await;
    assert_eq!(named(&cluster), []);
    tell(Inventory { from: CHUNK + 1, ..all.clone() }).await;
    assert_eq!(named(&cluster), []);
    tell(all).await;
    assert_eq!(named(&cluster), [StrayChunk { chunk: CHUNK, version: 1 }]);
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::Ok, "nothing was done about it");
    let delete = command::Body::Delete(Delete { up_to_version: 1 });
    assert_eq!(cluster.leader.command(id, CHUNK, delete).await.status(), Status::Ok);
    assert_eq!(named(&cluster), []);
}
