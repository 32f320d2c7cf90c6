//! Prepare, Fix, Delete (V1, V2, R4): replicas end up equal, whatever they were before.

use super::cluster::*;
use caribou_proto::chunk::v1::{
    BlockRange, CommandResult, Delete, Fetch, Fix, Prepare, Prepared, Status, WriteFragment, command,
};
use caribou_proto::ids::{BLOCK_STATE_BYTES, ChunkId, ChunkVersion};
use futures::FutureExt;
use tokio::sync::oneshot;

pub(super) async fn try_prepare(cluster: &Cluster, member: usize, version: u64, join: bool) -> CommandResult {
    let body = command::Body::Prepare(Prepare { version, join, old_grant: GRANT });
    cluster.leader.command(cluster.nodes[member].id(), CHUNK, body).await
}

pub(super) async fn prepare(cluster: &Cluster, member: usize, version: u64) -> Prepared {
    let result = try_prepare(cluster, member, version, false).await;
    assert_eq!(result.status(), Status::Ok, "{}", result.detail);
    result.prepared.expect("a Prepare reports")
}

pub(super) async fn try_fix(cluster: &Cluster, member: usize, version: u64, fetches: Vec<Fetch>) -> CommandResult {
    begin_fix(cluster, member, version, fetches).await.await.expect("every command is answered")
}

/// Sends a Fix without waiting for its result.
async fn begin_fix(
    cluster: &Cluster,
    member: usize,
    version: u64,
    fetches: Vec<Fetch>,
) -> oneshot::Receiver<CommandResult> {
    let body = command::Body::Fix(Fix { version, fetches, cut_length: None, resum_damaged: false });
    cluster.leader.send(cluster.nodes[member].id(), 1, CHUNK, body).await
}

pub(super) async fn fix(cluster: &Cluster, member: usize, version: u64, fetches: Vec<Fetch>) {
    let result = try_fix(cluster, member, version, fetches).await;
    assert_eq!(result.status(), Status::Ok, "{}", result.detail);
}

pub(super) fn from(cluster: &Cluster, source: usize, version: u64, first: u32, count: u32) -> Fetch {
    Fetch { source: Some(cluster.nodes[source].holder()), version, blocks: vec![BlockRange { first, count }] }
}

fn flags(prepared: &Prepared, block: usize) -> u8 {
    prepared.blocks[block * BLOCK_STATE_BYTES]
}

/// Two members, of which the head has fragments that the tail never got.
async fn torn() -> Cluster {
    let cluster = Cluster::start(3).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1], 1, 0, &pattern(200_000, 1))).await;
    cluster.net.remove("chunk-2");
    let ack = writer.write(cluster.fragment(&[0, 1], 2, 65_536, &pattern(1 << 20, 2))).await;
    assert_eq!(ack.status(), Status::Downstream);
    cluster.net.add_chunk_server("chunk-2", &cluster.nodes[1].server);
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_fix_makes_torn_replicas_equal() {
    let cluster = torn().await;
    let head = prepare(&cluster, 0, 2).await;
    let tail = prepare(&cluster, 1, 2).await;
    assert!(head.found && tail.found && head.clean && tail.clean);
    assert_eq!((head.had_version, head.last_grant, tail.last_grant), (1, GRANT, GRANT));
    assert_eq!(head.incarnation, cluster.nodes[0].holder().incarnation);
    assert_eq!(flags(&head, 0), 3, "acknowledged by all");
    assert_eq!(flags(&head, 1), 7, "written here, not known to be anywhere else");
    assert_eq!(flags(&head, 17) & 1, 0, "a hole");
    fix(&cluster, 0, 2, Vec::new()).await;
    fix(&cluster, 1, 2, vec![from(&cluster, 0, 2, 1, 16)]).await;
    let (one, two) = (cluster.read(0, 2, 0, 1 << 20).await, cluster.read(1, 2, 0, 1 << 20).await);
    assert_eq!((one.status(), two.status()), (Status::Ok, Status::Ok), "{} {}", one.detail, two.detail);
    assert!(one.data == two.data);
    assert_eq!(one.data[65_536..], pattern(1 << 20, 2)[..(1 << 20) - 65_536]);
}

#[tokio::test(start_paused = true)]
async fn a_new_holder_joins_with_everything() {
    let cluster = torn().await;
    let head = prepare(&cluster, 0, 2).await;
    assert!(head.found);
    let result = try_prepare(&cluster, 2, 2, false).await;
    assert!(!result.prepared.expect("a report").found, "nothing there, nothing made");
    let joined = try_prepare(&cluster, 2, 2, true).await;
    assert_eq!(joined.status(), Status::Ok, "{}", joined.detail);
    // All 1,024 blocks, holes included: far more requests than fit into the window.
    fix(&cluster, 2, 2, vec![from(&cluster, 0, 2, 0, 1024)]).await;
    fix(&cluster, 0, 2, Vec::new()).await;
    for offset in [0, 1 << 20, 5 << 20] {
        let (one, two) = (cluster.read(0, 2, offset, 1 << 20).await, cluster.read(2, 2, offset, 1 << 20).await);
        assert_eq!((one.status(), two.status()), (Status::Ok, Status::Ok));
        assert!(one.data == two.data);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cut_leaves_a_hole_behind_the_length() {
    let cluster = Cluster::start(1).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, &[7; 200_000])).await;
    prepare(&cluster, 0, 2).await;
    let body =
        command::Body::Fix(Fix { version: 2, fetches: Vec::new(), cut_length: Some(70_000), resum_damaged: false });
    let result = cluster.leader.command(cluster.nodes[0].id(), CHUNK, body).await;
    assert_eq!(result.status(), Status::Ok, "{}", result.detail);
    let reply = cluster.read(0, 2, 0, 200_000).await;
    assert!(reply.data[..70_000].iter().all(|byte| *byte == 7) && reply.data[70_000..].iter().all(|byte| *byte == 0));
}

#[tokio::test(start_paused = true)]
async fn completed_commands_are_confirmed_and_older_versions_refused() {
    let cluster = torn().await;
    prepare(&cluster, 0, 2).await;
    prepare(&cluster, 0, 2).await;
    fix(&cluster, 0, 2, Vec::new()).await;
    fix(&cluster, 0, 2, vec![from(&cluster, 1, 1, 0, 5)]).await;
    assert_eq!(prepare(&cluster, 0, 2).await.had_version, 2);
    assert_eq!(cluster.read(0, 2, 65_536, 10).await.data, pattern(10, 2), "it was confirmed, not repeated");
    assert_eq!(try_prepare(&cluster, 0, 1, false).await.status(), Status::WrongVersion, "V1: versions never go back");
}

#[tokio::test(start_paused = true)]
async fn a_bad_source_is_reported_and_the_replica_stays_incomplete() {
    let cluster = torn().await;
    prepare(&cluster, 0, 2).await;
    prepare(&cluster, 1, 2).await;
    let mut restarted = from(&cluster, 0, 2, 1, 1);
    restarted.source.as_mut().expect("named").incarnation += 1;
    let result = try_fix(&cluster, 1, 2, vec![restarted]).await;
    assert_eq!(result.status(), Status::Downstream, "F3: {}", result.detail);
    assert!(result.detail.contains("incarnation"), "{}", result.detail);
    let result = try_fix(&cluster, 1, 2, vec![from(&cluster, 0, 9, 1, 1)]).await;
    assert_eq!(result.status(), Status::Downstream, "no such version: {}", result.detail);
    let result = try_fix(&cluster, 1, 2, vec![from(&cluster, 0, 2, 1020, 5)]).await;
    assert_eq!(result.status(), Status::Invalid, "{}", result.detail);
    cluster.net.block("chunk-1", true);
    let result = try_fix(&cluster, 1, 2, vec![from(&cluster, 0, 2, 1, 1)]).await;
    assert_eq!(result.status(), Status::Downstream, "silent: {}", result.detail);
    cluster.net.remove("chunk-1");
    let result = try_fix(&cluster, 1, 2, vec![from(&cluster, 0, 2, 1, 1)]).await;
    assert_eq!(result.status(), Status::Downstream, "gone: {}", result.detail);
    assert_eq!(cluster.read(1, 2, 0, 1).await.status(), Status::WrongVersion);
}

#[tokio::test(start_paused = true)]
async fn a_prepare_releases_fragments_that_wait_and_fences_their_version() {
    let cluster = Cluster::start(2).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0, 1], 1, 0, b"first")).await;
    cluster.net.block("chunk-2", true);
    writer.send(cluster.fragment(&[0, 1], 2, 0, b"stuck"));
    tokio::time::advance(std::time::Duration::from_millis(20)).await;
    let before = tokio::time::Instant::now();
    prepare(&cluster, 0, 2).await;
    assert_eq!(writer.ack(2).await.status(), Status::WrongVersion);
    assert!(before.elapsed() < ACK_TIMEOUT);
    assert_eq!(writer.write(cluster.fragment(&[0, 1], 3, 0, b"late")).await.status(), Status::WrongVersion);
    // The grant that wrote before is fenced at the new version too.
    fix(&cluster, 0, 2, Vec::new()).await;
    let old = WriteFragment { version: 2, create: false, ..cluster.fragment(&[0], 4, 0, b"old grant") };
    assert_eq!(writer.write(old).await.status(), Status::OldGrant);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_replica_is_gone_and_does_not_come_back() {
    let cluster = Cluster::start(1).await;
    let id = cluster.nodes[0].id();
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, b"data")).await;
    let delete = |up_to_version| command::Body::Delete(Delete { up_to_version });
    assert_eq!(
        cluster.leader.command(id, CHUNK, delete(0)).await.status(),
        Status::WrongVersion,
        "above the limit: kept"
    );
    for _ in 0..2 {
        let result = cluster.leader.command(id, CHUNK, delete(1)).await;
        assert_eq!(result.status(), Status::Ok, "{}", result.detail);
    }
    assert_eq!(cluster.read(0, 1, 0, 4).await.status(), Status::NoReplica);
    let late = writer.write(cluster.fragment(&[0], 2, 0, b"late")).await;
    assert_eq!(late.status(), Status::NoReplica, "ADR 0001.9: {}", late.detail);
}

/// Whether a copy that goes on has come past a block. A disk in memory answers at once.
fn has_block(cluster: &Cluster, member: usize, version: u64, block: u32) -> bool {
    let store = cluster.nodes[member].server.store();
    let read = store.read_recovery(ChunkId(CHUNK), ChunkVersion(version), block, 1).now_or_never();
    matches!(read, Some(Ok(read)) if read.written[0] == 1)
}

// P2, R2, M5: rounds are not on the wire, so a Prepare ends what the rounds before it have left at work.
#[tokio::test(start_paused = true)]
async fn a_fix_that_was_given_up_does_not_complete_a_later_round() {
    let cluster = Cluster::start(3).await;
    let (holders, target) = ([0, 2], 1);
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&holders, 1, 0, &pattern(131_072, 1))).await;
    for member in holders {
        prepare(&cluster, member, 2).await;
        fix(&cluster, member, 2, Vec::new()).await;
    }
    assert_eq!(try_prepare(&cluster, target, 2, true).await.status(), Status::Ok);
    // The first copy is past block 0, and slow.
    cluster.net.block("chunk-3", true);
    let fetches = vec![from(&cluster, 0, 2, 0, 1), from(&cluster, 2, 2, 1, 1)];
    let first = begin_fix(&cluster, target, 2, fetches).await;
    until("block 0 has been copied", || has_block(&cluster, target, 2, 0)).await;
    // It is given up, and a writer changes block 0 of the others, at the same version.
    let new = pattern(65_536, 2);
    let mut writer = cluster.writer(2);
    let fragment = cluster.fragment(&[2, 0], 2, 0, &new);
    writer.put(WriteFragment { version: 2, grant: GRANT + 1, create: false, sync: true, ..fragment }).await;
    // The next copy has not even begun when the first one could end.
    cluster.net.block("chunk-1", true);
    assert_eq!(try_prepare(&cluster, target, 2, true).await.status(), Status::Ok);
    let second = begin_fix(&cluster, target, 2, vec![from(&cluster, 0, 2, 0, 2)]).await;
    cluster.net.block("chunk-3", false);
    let result = first.await.expect("answered");
    assert_eq!(result.status(), Status::NotYet, "{}", result.detail);
    cluster.net.block("chunk-1", false);
    let result = second.await.expect("answered");
    assert_eq!(result.status(), Status::Ok, "{}", result.detail);
    let (source, copy) = (cluster.read(0, 2, 0, 131_072).await, cluster.read(target, 2, 0, 131_072).await);
    assert_eq!((source.status(), copy.status()), (Status::Ok, Status::Ok), "{} {}", source.detail, copy.detail);
    assert!(source.data[..65_536] == new && copy.data == source.data);
}

#[tokio::test(start_paused = true)]
async fn a_fix_that_waits_for_its_turn_is_ended_by_what_comes_after_it() {
    let cluster = Cluster::start(1).await;
    let mut writer = cluster.writer(0);
    writer.put(cluster.fragment(&[0], 1, 0, b"data")).await;
    prepare(&cluster, 0, 2).await;
    let server = &cluster.nodes[0].server;
    let delete = async |up_to_version| {
        let body = command::Body::Delete(Delete { up_to_version });
        cluster.leader.command(cluster.nodes[0].id(), CHUNK, body).await.status()
    };
    let turn = server.commands.hold_fixes().await;
    let first = begin_fix(&cluster, 0, 2, Vec::new()).await;
    assert_eq!(prepare(&cluster, 0, 2).await.had_version, 1, "nothing was completed");
    assert_eq!(first.await.expect("answered").status(), Status::NotYet);
    // A deletion of an older version does not mean this replica.
    let second = begin_fix(&cluster, 0, 2, Vec::new()).await;
    assert_eq!(delete(1).await, Status::WrongVersion);
    drop(turn);
    assert_eq!(second.await.expect("answered").status(), Status::Ok);
    prepare(&cluster, 0, 3).await;
    let _turn = server.commands.hold_fixes().await;
    let third = begin_fix(&cluster, 0, 3, Vec::new()).await;
    assert_eq!(delete(3).await, Status::Ok);
    assert_eq!(third.await.expect("answered").status(), Status::NotYet);
    assert_eq!(server.store().replica(ChunkId(CHUNK)), None);
}

// F2
#[tokio::test(start_paused = true)]
async fn the_same_fix_sent_twice_meets_itself() {
    let cluster = torn().await;
    prepare(&cluster, 0, 2).await;
    prepare(&cluster, 1, 2).await;
    fix(&cluster, 0, 2, Vec::new()).await;
    cluster.net.block("chunk-1", true);
    let fetches = vec![from(&cluster, 0, 2, 1, 16)];
    let commands = || cluster.nodes[1].server.stats.snapshot().commands;
    let before = commands();
    let first = begin_fix(&cluster, 1, 2, fetches.clone()).await;
    let second = begin_fix(&cluster, 1, 2, fetches).await;
    until("both are at work", || commands() == before + 2).await;
    cluster.net.block("chunk-1", false);
    for result in [first, second] {
        let result = result.await.expect("answered");
        assert_eq!(result.status(), Status::Ok, "{}", result.detail);
    }
    assert_eq!(cluster.read(1, 2, 65_536, 10).await.data, pattern(10, 2));
}

// F2: the answer of the first one is lost with its stream.
#[tokio::test(start_paused = true)]
async fn a_fix_is_carried_out_when_it_comes_again_on_the_next_stream() {
    let cluster = torn().await;
    prepare(&cluster, 0, 2).await;
    prepare(&cluster, 1, 2).await;
    fix(&cluster, 0, 2, Vec::new()).await;
    cluster.net.block("chunk-1", true);
    let fetches = vec![from(&cluster, 0, 2, 1, 16)];
    let commands = || cluster.nodes[1].server.stats.snapshot().commands;
    let before = commands();
    let _lost = begin_fix(&cluster, 1, 2, fetches.clone()).await;
    until("it is at work", || commands() == before + 1).await;
    let attached = cluster.leader.registrations().len();
    cluster.net.cut("meta-1");
    until("all are attached again", || cluster.leader.registrations().len() >= attached + 3).await;
    cluster.net.block("chunk-1", false);
    fix(&cluster, 1, 2, fetches).await;
    assert_eq!(cluster.read(1, 2, 65_536, 10).await.data, pattern(10, 2));
}
