//! Control streams: who is let in, whose heartbeats are answered, and how a stream ends.

use std::time::Duration;

use caribou_proto::chunk::v1::{Heartbeat, HeartbeatReply, Register, ToServer, from_server, to_server};
use caribou_proto::ids::ServerId;
use futures::StreamExt;

use crate::fsm::tables::servers;
use crate::leader::testing::{Node, cluster, dial, from_server, registration};

async fn first(node: &Node, register: Register) -> to_server::Body {
    let (sender, mut answers) = dial(node.host());
    sender.send(from_server(from_server::Body::Register(register))).await.unwrap();
    answers.next().await.unwrap().body.unwrap()
}

#[tokio::test(start_paused = true)]
async fn f1_a_foreign_server_is_refused_in_words() {
    let node = Node::new(2);
    let mut register = registration(1, 1, &[]);
    register.cluster.as_mut().unwrap().uuid = vec![8; 16].into();
    let to_server::Body::Refused(refused) = first(&node, register.clone()).await else { panic!("it is let in") };
    assert!(refused.reason.contains("belong to cluster 0808"), "{}", refused.reason);
    register.cluster.as_mut().unwrap().uuid = vec![7; 16].into();
    register.cluster.as_mut().unwrap().generation = 3;
    let to_server::Body::Refused(refused) = first(&node, register).await else { panic!("it is let in") };
    assert!(refused.reason.contains("generation 3"), "{}", refused.reason);
    let wrong_number = Register { server_id: 3, ..registration(1, 1, &[]) };
    assert!(matches!(first(&node, wrong_number).await, to_server::Body::Refused(_)));
    assert!(matches!(first(&node, Register::default()).await, to_server::Body::Refused(_)));
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_committed_before_it_is_answered() {
    let node = Node::new(2);
    let new = Register { cluster: None, ..registration(9, 5, &[]) };
    let to_server::Body::Registered(registered) = first(&node, new).await else { panic!("it is refused") };
    assert_eq!((registered.server_id, registered.term, registered.cluster), (5, 1, Some(cluster())));
    assert_eq!((registered.lease_ttl_ms, registered.nodes.len()), (1000, 1));
    let row = servers::get(&node.world.lock().tables, ServerId(5)).unwrap().unwrap();
    assert!(row.up && row.address == "127.0.0.1:9009");
    let older = first(&node, registration(9, 4, &[])).await;
    assert!(matches!(older, to_server::Body::Refused(_)), "F3: an older incarnation");
}

#[tokio::test(start_paused = true)]
async fn who_does_not_lead_says_who_does() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    let (sender, mut answers) = dial(node.host());
    sender.send(from_server(from_server::Body::Register(registration(2, 1, &[])))).await.unwrap();
    assert!(matches!(answers.next().await.unwrap().body, Some(to_server::Body::Registered(_))));
    node.step_down();
    let to_server::Body::NotLeader(hint) = first(&node, registration(3, 1, &[])).await else { panic!("it is let in") };
    assert_eq!((hint.leader_id, hint.leader_address.as_str()), (2, "10.0.0.2:7000"));
    let mut last = None;
    while let Some(answer) = answers.next().await {
        last = answer.body;
    }
    assert!(matches!(last, Some(to_server::Body::NotLeader(_))), "a stream ends with its term");
}

/// The next answer to a heartbeat, whatever else the leader says meanwhile.
async fn heartbeat_reply(answers: &mut (impl futures::Stream<Item = ToServer> + Unpin)) -> HeartbeatReply {
    loop {
        if let Some(to_server::Body::Heartbeat(reply)) = answers.next().await.expect("the stream goes on").body {
            return reply;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn adr7_heartbeats_are_answered_only_under_the_leaders_lease_and_on_the_newest_stream() {
    let node = Node::new(2);
    let (older, mut older_answers) = dial(node.host());
    older.send(from_server(from_server::Body::Register(registration(1, 1, &[])))).await.unwrap();
    older_answers.next().await.unwrap();
    node.attached(1).await;
    let beat = |stamp| from_server(from_server::Body::Heartbeat(Heartbeat { stamp, ..Heartbeat::default() }));
    older.send(beat(1)).await.unwrap();
    let answered = heartbeat_reply(&mut older_answers).await;
    assert_eq!((answered.stamp, answered.term), (1, 1));
    node.lease.set(false);
    older.send(beat(2)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    node.lease.set(true);
    older.send(beat(3)).await.unwrap();
    let answered = heartbeat_reply(&mut older_answers).await;
    assert_eq!(answered.stamp, 3, "the one without a lease is not answered");
    let (newer, mut newer_answers) = dial(node.host());
    newer.send(from_server(from_server::Body::Register(registration(1, 2, &[])))).await.unwrap();
    newer_answers.next().await.unwrap();
    while older_answers.next().await.is_some() {}
    node.attached(1).await;
    newer.send(beat(1)).await.unwrap();
    assert_eq!(heartbeat_reply(&mut newer_answers).await.stamp, 1);
}

#[tokio::test(start_paused = true)]
async fn adr7_a_silent_server_is_down() {
    let mut node = Node::new(2);
    node.connect(1, 1, &[]);
    node.attached(1).await;
    let up = |n: &Node, server| servers::get(&n.world.lock().tables, ServerId(server)).unwrap().unwrap().up;
    node.until("those that never came are down", |n| !up(n, 2) && !up(n, 3) && !up(n, 4)).await;
    assert!(up(&node, 1));
    tokio::time::sleep(Duration::from_secs(2)).await;
    node.disconnect(1);
    let took = node.until("it is down", |n| !up(n, 1)).await;
    assert!(took > Duration::from_millis(800), "{took:?}");
    node.connect(1, 1, &[]);
    node.until("it is up", |n| up(n, 1)).await;
}
