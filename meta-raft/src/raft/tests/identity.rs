//! F1: `init` once, foreign folders and messages refused in words.

use caribou_proto::ids::NodeId;
use caribou_proto::raft::v1 as wire;
use caribou_proto::raft::v1::raft_service_client::RaftServiceClient;

use super::cluster::{Cluster, Running, config};
use crate::fsm::tables::meta;
use crate::raft::network::peers;
use crate::raft::{InitError, StartError};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn init_is_done_once() {
    let cluster = Cluster::empty(3, |_| {}).await;
    assert_eq!(cluster.node(2).cluster(), None);
    let id = cluster.node(2).init(cluster.nodes(), 3).await.unwrap();
    let leader = cluster.leader().await;
    let state = meta::cluster(&cluster.node(leader).view()).unwrap().unwrap();
    assert_eq!((state.uuid, state.generation, state.nonce), (id.uuid, id.generation, id.nonce));
    cluster.assert_equal_states().await;
    for node in 1..=3 {
        assert_eq!(cluster.node(node).cluster(), Some(id));
        let again = cluster.node(node).init(cluster.nodes(), 3).await;
        assert_eq!(again, Err(InitError::AlreadyInitialised(id)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_of_another_cluster_is_not_taken() {
    let one = Cluster::three(|_| {}).await;
    let other = Cluster::empty(3, |_| {}).await;
    let mut nodes = other.nodes();
    nodes[2].1 = one.addresses[&3].to_string();
    let refused = other.node(1).init(nodes.clone(), 2).await.unwrap_err();
    assert!(refused.to_string().contains("already belongs to cluster"), "{refused}");
    // Nothing has changed anywhere: the same nodes make a cluster now.
    assert_eq!(other.node(1).cluster(), None);
    nodes[2].1 = "127.0.0.1:1".to_owned();
    let refused = other.node(1).init(nodes, 2).await.unwrap_err();
    assert!(matches!(refused, InitError::Unreachable { node_id: NodeId(3), .. }), "{refused}");
    other.node(1).init(other.nodes(), 2).await.unwrap();
    other.leader().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_lists_of_nodes_are_refused() {
    let cluster = Cluster::empty(1, |_| {}).await;
    let node = |id, at: &str| (NodeId(id), at.to_owned());
    for nodes in [
        vec![],
        vec![node(2, "a:1")],
        vec![node(1, "a:1"), node(2, "b:1")],
        vec![node(1, "a:1"), node(1, "b:1"), node(2, "c:1")],
        vec![node(1, "a:1"), node(2, "a:1"), node(3, "c:1")],
        vec![node(1, "")],
    ] {
        assert!(matches!(cluster.node(1).init(nodes, 2).await, Err(InitError::BadRequest(_))));
    }
    assert!(matches!(cluster.node(1).init(cluster.nodes(), 10).await, Err(InitError::BadRequest(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_message_is_refused_in_words() {
    let cluster = Cluster::three(|_| {}).await;
    let own = cluster.node(1).cluster().unwrap();
    let mut client = RaftServiceClient::new(peers::connect(&cluster.addresses[&1].to_string()).unwrap());
    let vote = |cluster: crate::raft::ClusterIdentity, to_node| wire::VoteRequest {
        header: Some(wire::Header { cluster: Some(cluster.into()), from_node: 2, to_node }),
        vote: Some(wire::Vote { term: 1000, node_id: 2, committed: false }),
        ..Default::default()
    };
    let mut foreign = own;
    foreign.nonce ^= 1;
    let refused = client.vote(vote(foreign, 1)).await.unwrap_err();
    assert!(refused.message().contains("belongs to cluster"), "{refused}");
    let refused = client.vote(vote(own, 2)).await.unwrap_err();
    assert!(refused.message().contains("this is node 1"), "{refused}");
    let append = wire::AppendRequest { header: vote(foreign, 1).header, ..Default::default() };
    let mut replies = client.append(futures::stream::iter([append])).await.unwrap().into_inner();
    let refused = replies.message().await.unwrap_err();
    assert!(refused.message().contains("belongs to cluster"), "{refused}");
    // The term of the foreign vote has not come in.
    assert!(cluster.node(1).status().leader.term < 1000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_node_s_folder_is_refused() {
    let mut cluster = Cluster::three(|_| {}).await;
    let in_use = Running::start(cluster.config(1), cluster.addresses[&1]).await.err().unwrap();
    assert!(matches!(in_use, StartError::Locked { .. }), "{in_use}");
    cluster.crash(1).await;
    let folder = cluster.config(1).dir;
    let refused = Running::start(config(2, &folder), cluster.addresses[&1]).await.err().unwrap();
    assert!(matches!(refused, StartError::OtherNode { found: NodeId(1), expected: NodeId(2), .. }), "{refused}");
    let identity = folder.join("identity");
    let bytes = std::fs::read(&identity).unwrap();
    std::fs::remove_file(&identity).unwrap();
    let refused = Running::start(config(1, &folder), cluster.addresses[&1]).await.err().unwrap();
    assert!(matches!(refused, StartError::NoIdentity { .. }), "{refused}");
    std::fs::write(&identity, bytes).unwrap();
    cluster.start(1).await;
    cluster.assert_equal_states().await;
}

/// The state alone does not say how it voted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_has_lost_its_log_does_not_start() {
    let mut cluster = Cluster::three(|_| {}).await;
    cluster.assert_equal_states().await;
    cluster.node(1).shutdown().await;
    cluster.crash(1).await;
    let place = |name: &str| cluster.config(1).dir.join(name);
    std::fs::rename(place("log"), place("log away")).unwrap();
    let refused = Running::start(cluster.config(1), cluster.addresses[&1]).await.err().unwrap();
    assert!(matches!(refused, StartError::NoLog { .. }), "{refused}");
    // Nor does one that has neither: that it is a member is all that is left to say that it may have voted.
    std::fs::rename(place("state"), place("state away")).unwrap();
    let refused = Running::start(cluster.config(1), cluster.addresses[&1]).await.err().unwrap();
    assert!(matches!(refused, StartError::NoLog { .. }), "{refused}");
    for name in ["log", "state"] {
        std::fs::rename(place(&format!("{name} away")), place(name)).unwrap();
    }
    cluster.start(1).await;
    cluster.assert_equal_states().await;
}
