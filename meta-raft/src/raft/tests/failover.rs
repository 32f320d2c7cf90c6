//! Proposals, linearizable reads, leaders that die, nodes that restart.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::ids::NodeId;
use parking_lot::Mutex;

use super::cluster::{Cluster, PATIENCE, config, eventually, leader_after, open_session};
use crate::fsm::reply::Reply;
use crate::fsm::tables::meta::{self, Counter};
use crate::raft::types::Payload;
use crate::raft::{ProposeError, RaftNode, Role, StateEvent};

fn sessions(cluster: &Cluster, id: u64) -> u64 {
    meta::counter(&cluster.node(id).view(), Counter::LiveSessions).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_answered_is_read_at_once_and_everywhere() {
    let cluster = Cluster::three(|_| {}).await;
    let leader = cluster.leader().await;
    for key in 0..50 {
        assert!(matches!(cluster.propose(open_session(key)).await, Reply::SessionOpened { .. }));
        let view = cluster.node(leader).read().await.unwrap();
        assert_eq!(meta::counter(&view, Counter::LiveSessions).unwrap(), key + 1);
    }
    let follower = (1..=3).find(|id| *id != leader).unwrap();
    let refused = cluster.node(follower).read().await.unwrap_err();
    assert_eq!(refused.hint.unwrap().node_id, NodeId(leader));
    let refused = cluster.node(follower).propose(vec![open_session(99)]).await.unwrap_err();
    assert!(matches!(refused, ProposeError::NotLeader(_)));
    cluster.assert_equal_states().await;
    let status = cluster.node(leader).status();
    assert_eq!((status.role, status.followers.len(), status.members.len()), (Role::Leader, 2, 3));
    assert!(status.log_fsyncs > 0 && status.entries >= 50 && status.state_hash != 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commands_that_wait_share_an_entry() {
    let cluster = Cluster::three(|_| {}).await;
    let leader = cluster.node(cluster.leader().await);
    let before = leader.status();
    let proposals = (0..400).map(|key| leader.propose(vec![open_session(key), open_session(1000 + key)]));
    for replies in futures::future::join_all(proposals).await {
        let replies = replies.unwrap();
        assert!(matches!(replies[..], [Reply::SessionOpened { .. }, Reply::SessionOpened { .. }]), "{replies:?}");
    }
    let after = leader.status();
    assert_eq!(after.commands - before.commands, 800);
    assert!(after.entries - before.entries < 200, "{} entries for 400 proposals", after.entries - before.entries);
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_leader_is_replaced_and_comes_back() {
    let mut cluster = Cluster::three(|_| {}).await;
    for round in 0..3 {
        for key in 0..20 {
            cluster.propose(open_session(round * 100 + key)).await;
        }
        let leader = cluster.leader().await;
        let term = cluster.node(leader).leader().borrow().term;
        cluster.crash(leader).await;
        let (next, state) = leader_after(&cluster, term).await;
        assert_ne!(next, leader);
        assert_eq!(state.leader_id, Some(NodeId(next)));
        assert_eq!(sessions(&cluster, next), (round + 1) * 20, "every answered command is there");
        cluster.propose(open_session(round * 100)).await;
        cluster.start(leader).await;
        cluster.assert_equal_states().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_crash_at_once_and_nothing_answered_is_lost() {
    crash_all_after(100).await;
}

/// All have more to apply again than a node should that leads: one leads in the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_crash_with_much_to_apply_again_and_one_leads() {
    crash_all_after(700).await;
}

async fn crash_all_after(commands: u64) {
    let mut cluster = Cluster::three(|_| {}).await;
    for key in 0..commands {
        cluster.propose(open_session(key)).await;
    }
    for id in 1..=3 {
        cluster.crash(id).await;
    }
    for id in 1..=3 {
        cluster.start(id).await;
    }
    let leader = cluster.leader().await;
    assert_eq!(sessions(&cluster, leader), commands);
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_refuses_is_not_dialled_without_pause() {
    let mut cluster = Cluster::three(|_| {}).await;
    let leader = cluster.leader().await;
    let away = (1..=3).find(|id| *id != leader).unwrap();
    cluster.crash(away).await;
    let refusing = tokio::net::TcpListener::bind(cluster.addresses[&away]).await.unwrap();
    let mut dialled = 0;
    let counting = async {
        loop {
            drop(refusing.accept().await.unwrap());
            dialled += 1;
        }
    };
    let second = tokio::time::timeout(std::time::Duration::from_secs(1), counting).await;
    assert!(second.is_err());
    // Twenty heartbeats, and replication with growing pauses; without them it was 20,000 and more.
    assert!((1..500).contains(&dialled), "{dialled} connections in a second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_nothing_is_answered() {
    let mut cluster = Cluster::three(|_| {}).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    for id in &others {
        cluster.crash(*id).await;
    }
    let node = cluster.node(leader).clone();
    eventually("a refused read", async || node.read().await.is_err().then_some(())).await;
    cluster.start(others[0]).await;
    cluster.propose(open_session(1)).await;
    let leader = cluster.leader().await;
    assert_eq!(sessions(&cluster, leader), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_request() {
    let cluster = Cluster::three(|_| {}).await;
    let leader = cluster.leader().await;
    let target = (1..=3).find(|id| *id != leader).unwrap();
    cluster.propose(open_session(1)).await;
    let new = cluster.node(leader).transfer_leader(Some(NodeId(target))).await.unwrap();
    assert_eq!(new, NodeId(target));
    assert!(cluster.node(leader).read().await.is_err());
    cluster.propose(open_session(2)).await;
    assert_eq!(cluster.leader().await, target);
    let back = cluster.node(target).transfer_leader(None).await.unwrap();
    assert_ne!(back, NodeId(target));
    cluster.assert_equal_states().await;
}

/// The library's leader takes no writes from then on; a new term ends that, whoever asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hand_over_that_fails_after_its_caller_has_gone_is_ended() {
    let mut cluster = Cluster::three(|_| {}).await;
    let leader = cluster.leader().await;
    let target = (1..=3).find(|id| *id != leader).unwrap();
    cluster.propose(open_session(1)).await;
    cluster.crash(target).await;
    let asked = cluster.node(leader).clone();
    let call = asked.transfer_leader(Some(NodeId(target)));
    assert!(tokio::time::timeout(Duration::from_millis(100), call).await.is_err(), "nobody takes it");
    cluster.propose(open_session(2)).await;
    cluster.start(target).await;
    cluster.assert_equal_states().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_is_a_cluster() {
    let mut cluster = Cluster::empty(1, |_| {}).await;
    cluster.node(1).init(cluster.nodes(), 1).await.unwrap();
    cluster.propose(open_session(1)).await;
    cluster.node(1).read().await.unwrap();
    cluster.crash(1).await;
    cluster.start(1).await;
    cluster.propose(open_session(2)).await;
    assert_eq!(sessions(&cluster, 1), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_node_says_so() {
    let cluster = Cluster::three(|_| {}).await;
    let leader = cluster.node(cluster.leader().await).clone();
    leader.shutdown().await;
    leader.fatal().await;
    assert!(leader.propose(vec![open_session(1)]).await.is_err());
    assert!(leader.read().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_come_before_replies() {
    let dir = tempfile::tempdir().unwrap();
    let events: Arc<Mutex<Vec<StateEvent>>> = Arc::default();
    let sink = Arc::clone(&events);
    let node = RaftNode::start(config(1, dir.path()), Arc::new(move |event| sink.lock().push(event))).await.unwrap();
    node.init(vec![(NodeId(1), "127.0.0.1:1".to_owned())], 1).await.unwrap();
    node.leader().wait_for(|state| state.ready).await.unwrap();
    for key in 0..10 {
        node.propose(vec![open_session(key)]).await.unwrap();
        let applied = *node.applied().borrow();
        let last = events.lock().last().cloned();
        assert!(matches!(last, Some(StateEvent::Applied { index, .. }) if index == applied), "{last:?}, {applied}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_cannot_be_read_stops_the_node() {
    let cluster = Cluster::empty(1, |_| {}).await;
    let node = cluster.node(1);
    node.init(cluster.nodes(), 1).await.unwrap();
    cluster.leader().await;
    let garbage = Payload(Bytes::from_static(b"\xff\xff"));
    assert!(node.inner.raft.client_write(garbage).await.is_err());
    let reason = tokio::time::timeout(PATIENCE, node.fatal()).await.unwrap().to_string();
    assert!(reason.contains("must stop") && reason.contains("log entry"), "{reason}");
    assert!(!node.leader().borrow().ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_large_a_proposal_is_refused_at_once() {
    let cluster = Cluster::three(|_| {}).await;
    let leader = cluster.node(cluster.leader().await).clone();
    let commands = vec![open_session(1); 200_000];
    assert!(matches!(leader.propose(commands).await, Err(ProposeError::TooLarge { .. })));
    // Above one entry's usual size, but within the limit: an entry of its own.
    let commands: Vec<_> = (0..5_000).map(open_session).collect();
    assert_eq!(leader.propose(commands).await.unwrap().len(), 5_000);
    cluster.assert_equal_states().await;
}

/// Nobody else answers it, ever: its own voice is the quorum.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_of_one_node_keeps_its_lease() {
    let cluster = Cluster::empty(1, |_| {}).await;
    let node = cluster.node(1);
    node.init(cluster.nodes(), 1).await.unwrap();
    cluster.leader().await;
    tokio::time::sleep(2 * cluster.config(1).lease()).await;
    assert!(node.lease_holds());
    tokio::time::timeout(PATIENCE, node.quorum()).await.unwrap();
    assert!(matches!(cluster.propose(open_session(1)).await, Reply::SessionOpened { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_belongs_to_one_term_is_not_proposed_in_another() {
    let cluster = Cluster::three(|_| {}).await;
    let leader = cluster.node(cluster.leader().await);
    let term = leader.leader().borrow().term;
    let replies = leader.propose_in(term, vec![open_session(1)]).await.unwrap();
    assert!(matches!(replies[..], [Reply::SessionOpened { .. }]));
    let (other, own) = tokio::join!(
        leader.propose_in(term - 1, vec![open_session(2)]),
        leader.propose_in(term, vec![open_session(3)])
    );
    assert!(matches!(other, Err(ProposeError::NotLeader(_))), "{other:?}");
    assert!(own.is_ok(), "what shares its entry goes on: {own:?}");
    assert_eq!(meta::counter(&leader.view(), Counter::LiveSessions).unwrap(), 2);
}
