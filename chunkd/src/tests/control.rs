//! Registration, finding the leader, terms, the orderly end (F1, F2).

use super::cluster::*;
use super::leader::{Leader, Role};
use crate::store::memory::MemoryDisk;
use caribou_proto::chunk::v1::{Delete, Prepare, Status, WriteFragment, command};
use caribou_proto::cluster::v1::ClusterId;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

fn prepare_command(version: u64) -> command::Body {
    command::Body::Prepare(Prepare { version, join: false, old_grant: GRANT })
}

#[tokio::test(start_paused = true)]
async fn the_first_registration_brings_cluster_and_id_and_the_next_start_names_them() {
    let mut cluster = Cluster::start(1).await;
    let first = cluster.leader.registrations().remove(0);
    assert_eq!((first.cluster, first.server_id, first.unclean), (None, 0, false));
    assert_eq!((first.data_address.as_str(), first.disks.len()), ("chunk-1", 1));
    let node = cluster.nodes.remove(0);
    node.server.close().await;
    let disk = Arc::new(node.disk.restart());
    let again = cluster.boot(0, disk, &["meta-1"]).await;
    until("registered again", || again.server.has_lease()).await;
    let second = cluster.leader.registrations().pop().expect("registered");
    assert_eq!((second.cluster, second.server_id, second.unclean), (Some(cluster_id()), 1, false));
    assert_eq!(second.server_uuid, first.server_uuid);
    assert!(second.incarnation > first.incarnation, "F3");
}

#[tokio::test(start_paused = true)]
async fn an_unclean_stop_is_reported_with_the_dirty_chunks() {
    let mut cluster = Cluster::start(1).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, b"not synced")).await;
    let node = cluster.nodes.remove(0);
    cluster.net.remove("chunk-1");
    node.disk.kill();
    let again = cluster.boot(0, Arc::new(node.disk.restart()), &["meta-1"]).await;
    node.server.closing.cancel();
    until("registered again", || again.server.has_lease()).await;
    let second = cluster.leader.registrations().pop().expect("registered");
    assert_eq!((second.unclean, second.dirty_chunks), (true, vec![CHUNK]));
    assert_eq!(ask(&again.server, request()).await.status(), Status::Dirty, "V3");
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_found_quickly_whoever_is_silent_or_follows() {
    let mut cluster = Cluster::start(0).await;
    let (silent, second) = (
        Leader::start(&cluster.net, "meta-2", cluster_id(), 1),
        Leader::start(&cluster.net, "meta-3", cluster_id(), 2),
    );
    silent.set_role(Role::Silent);
    second.set_role(Role::Follows { leader: "meta-1".to_owned() });
    cluster.leader.name_nodes(&["meta-1", "meta-2", "meta-3"]);
    // One address is configured, the others are learnt.
    let node = cluster.boot(0, Arc::new(MemoryDisk::new("disk-1")), &["meta-1"]).await;
    until("registered", || node.server.has_lease()).await;
    cluster.nodes.push(node);
    second.take_over(&cluster.leader);
    cluster.leader.set_role(Role::Silent);
    cluster.net.remove("meta-1");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(cluster.nodes[0].server.has_lease(), "the lease outlives the leader");
    let elected = Instant::now();
    second.set_role(Role::Leads);
    until("attached to the new leader", || !second.registrations().is_empty()).await;
    assert!(elected.elapsed() <= Duration::from_millis(110), "{:?}", elected.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_stops_answering_is_left_before_the_lease_is_over() {
    let cluster = Cluster::start(1).await;
    let next = Leader::start(&cluster.net, "meta-2", cluster_id(), 2);
    cluster.leader.name_nodes(&["meta-1", "meta-2"]);
    cluster.net.cut("meta-1");
    until("the nodes were learnt", || cluster.leader.registrations().len() + next.registrations().len() >= 2).await;
    if next.registrations().is_empty() {
        next.take_over(&cluster.leader);
        cluster.leader.answer_heartbeats(false);
        cluster.leader.set_role(Role::Silent);
        until("attached to the next", || {
            assert!(cluster.nodes[0].server.has_lease());
            !next.registrations().is_empty()
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn commands_of_an_old_term_are_refused_and_an_old_leader_is_not_followed() {
    let cluster = Cluster::start(1).await;
    let id = cluster.nodes[0].id();
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, b"data")).await;
    let result = cluster.leader.command_of_term(id, 5, CHUNK, prepare_command(2)).await;
    assert_eq!(result.status(), Status::Ok, "{}", result.detail);
    assert_eq!(cluster.nodes[0].server.store().fenced(), (1, 5));
    let result = cluster.leader.command_of_term(id, 4, CHUNK, prepare_command(3)).await;
    assert_eq!(result.status(), Status::Invalid, "F2: {}", result.detail);
    // A leader of term 1 does not get the server back; one of term 6 does.
    cluster.net.remove("meta-1");
    let old = Leader::start(&cluster.net, "meta-1", cluster_id(), 1);
    old.take_over(&cluster.leader);
    until("it has tried", || old.registrations().len() > 3).await;
    assert_eq!(cluster.nodes[0].server.store().fenced(), (1, 5));
    until("the lease ran out", || !cluster.nodes[0].server.has_lease()).await;
    let new = Leader::start(&cluster.net, "meta-1", cluster_id(), 6);
    new.take_over(&cluster.leader);
    until("the lease is back", || cluster.nodes[0].server.has_lease()).await;
}

#[tokio::test(start_paused = true)]
async fn a_foreign_cluster_is_not_joined_and_a_refusal_ends_the_first_search() {
    let mut cluster = Cluster::start(1).await;
    let node = cluster.nodes.remove(0);
    node.server.close().await;
    let other = ClusterId { uuid: vec![3; 16].into(), generation: 1, nonce: 1 };
    let _foreign = Leader::start(&cluster.net, "meta-9", other, 900);
    let again = cluster.boot(0, Arc::new(node.disk.restart()), &[]).await;
    let refusal = again.server.clone().follow_leader(vec!["meta-9".to_owned()]).await.expect_err("foreign");
    assert!(refusal.to_string().contains("meta-9"), "{refusal}");
    assert_eq!(again.server.store().fenced(), (1, 1), "F1 before F2");
    let refusing = Leader::start(&cluster.net, "meta-8", cluster_id(), 1);
    refusing.set_role(Role::Refuses { reason: "not wanted".to_owned() });
    let refusal = again.server.clone().follow_leader(vec!["meta-8".to_owned()]).await.expect_err("refused");
    assert!(refusal.to_string().contains("not wanted"), "{refusal}");
    // Among others it is not believed: the real leader accepts.
    tokio::spawn(again.server.clone().follow_leader(vec!["meta-8".to_owned(), "meta-1".to_owned()]));
    until("registered", || again.server.has_lease()).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_blocks_reads_from_the_moment_it_is_taken() {
    let cluster = Cluster::start(1).await;
    let id = cluster.nodes[0].id();
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, b"data")).await;
    // All slots are taken, so the command waits.
    let server = &cluster.nodes[0].server;
    let slots = server.commands.hold_short().await;
    let result = cluster.leader.send(id, 1, CHUNK, command::Body::Delete(Delete { up_to_version: 1 })).await;
    until("the command is taken", || server.commands.pending(caribou_proto::ids::ChunkId(CHUNK))).await;
    assert!(server.has_lease());
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::WrongVersion);
    drop(slots);
    assert_eq!(result.await.expect("answered").status(), Status::Ok);
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::NoReplica);
}

// M3: the leader counts on a Delete from the moment it is taken, whatever becomes of it.
#[tokio::test(start_paused = true)]
async fn a_deletion_that_failed_leaves_the_chunk_out_of_service() {
    let cluster = Cluster::start(1).await;
    let id = cluster.nodes[0].id();
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, b"data")).await;
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::Ok);
    let full = |call: &str| if call == "rename" { Err(std::io::ErrorKind::StorageFull.into()) } else { Ok(()) };
    cluster.nodes[0].disk.set_hook(Some(std::sync::Arc::new(full)));
    let delete = || cluster.leader.command(id, CHUNK, command::Body::Delete(Delete { up_to_version: 1 }));
    assert_eq!(delete().await.status(), Status::NoSpace);
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::WrongVersion);
    cluster.nodes[0].disk.set_hook(None);
    assert_eq!(delete().await.status(), Status::Ok);
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::NoReplica);
}

#[tokio::test(start_paused = true)]
async fn a_clean_stop_finishes_what_is_under_way_and_marks_the_folder() {
    let mut cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    for id in 1..=50 {
        writer.send(WriteFragment { chunk: CHUNK + id, ..cluster.fragment(&[0, 1], id, 0, &[1; 5000]) });
    }
    assert_eq!(writer.ack(1).await.status(), Status::Ok);
    let node = cluster.nodes.remove(0);
    node.server.close().await;
    let store = open(&Arc::new(node.disk.restart()), 0).await;
    assert!(!store.unclean() && store.dirty_chunks().is_empty());
    assert!(node.server.work.is_empty());
}
