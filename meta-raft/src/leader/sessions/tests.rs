//! Idle time, expiry, recalls and orphans, on a paused clock.

use std::time::Duration;

use caribou_proto::ids::{ROOT_INODE, SessionId};

use crate::fsm::command::ClientOp;
use crate::fsm::reply::GrantState;
use crate::fsm::tables::{inodes, sessions};
use crate::leader::Renewal;
use crate::leader::testing::Node;

fn is_live(node: &Node, session: SessionId) -> bool {
    sessions::get(&node.world.lock().tables, session).unwrap().unwrap().is_live()
}

fn idle_ms(node: &Node, session: SessionId) -> u64 {
    sessions::get(&node.world.lock().tables, session).unwrap().unwrap().idle_ms
}

#[tokio::test(start_paused = true)]
async fn s3_silence_is_committed_in_steps_and_ends_the_session_at_the_ttl() {
    let node = Node::new(2);
    let session = node.world.lock().open(1);
    node.handle.session_seen(session);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(idle_ms(&node, session), 7_500);
    tokio::time::sleep(Duration::from_millis(19_900)).await;
    assert!(is_live(&node, session));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(!is_live(&node, session));
    assert_eq!(node.handle.renew(session).await.unwrap(), Renewal::Expired);
}

#[tokio::test(start_paused = true)]
async fn s3_a_renewal_takes_committed_idle_time_back_first() {
    let node = Node::new(2);
    let session = node.world.lock().open(1);
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert!(idle_ms(&node, session) >= 15_000);
        assert_eq!(node.handle.renew(session).await.unwrap(), Renewal::Renewed);
        assert_eq!(idle_ms(&node, session), 0);
    }
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_secs(5)).await;
        node.handle.session_seen(session);
    }
    assert_eq!(idle_ms(&node, session), 0, "who is heard of is not idle");
}

#[tokio::test(start_paused = true)]
async fn s3_a_new_leader_counts_from_what_is_committed() {
    let node = Node::new(2);
    let session = node.world.lock().open(1);
    tokio::time::sleep(Duration::from_secs(17)).await;
    assert_eq!(idle_ms(&node, session), 15_000);
    let node = node.fail_over();
    tokio::time::sleep(Duration::from_secs(14)).await;
    assert!(is_live(&node, session), "nobody is older than what is committed");
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!is_live(&node, session));
}

#[tokio::test(start_paused = true)]
async fn s4_an_expired_writer_is_fenced_and_its_chunk_recovered() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    let a = node.world.lock().open(1);
    let b = node.world.lock().open(2);
    let (inode, chunk) = node.file(a, "f", &[1, 2]);
    node.apply(|w| assert_eq!(w.take(a, inode, 0).state, GrantState::Granted));
    for _ in 0..40 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        node.handle.session_seen(b);
    }
    assert!(!is_live(&node, a) && is_live(&node, b));
    node.ready(chunk).await;
    node.apply(|w| assert_eq!(w.take(b, inode, 0).state, GrantState::Granted));
}

#[tokio::test(start_paused = true)]
async fn w8_a_recall_that_is_not_answered_ends_after_two_seconds() {
    let mut node = Node::new(2);
    node.connect_all();
    node.attached(1).await;
    node.attached(2).await;
    let a = node.world.lock().open(1);
    let b = node.world.lock().open(2);
    let (inode, chunk) = node.file(a, "f", &[1, 2]);
    node.apply(|w| drop(w.take(a, inode, 0)));
    node.apply(|w| assert_eq!(w.take(b, inode, 0).state, GrantState::Recalled));
    let took = node.until("the grant has ended", |n| n.chunk(chunk).grant.is_none()).await;
    assert!(took >= Duration::from_secs(2) && took < Duration::from_millis(2200), "{took:?}");
    node.ready(chunk).await;
}

#[tokio::test(start_paused = true)]
async fn s7_an_orphan_goes_when_nobody_claims_it() {
    let node = Node::new(2);
    let a = node.world.lock().open(1);
    let b = node.world.lock().open(2);
    let (inode, _) = node.file(a, "f", &[1]);
    node.handle.claims(|claims| claims.claim(b, inode));
    node.apply(|w| drop(w.client(a, ClientOp::Unlink { parent: ROOT_INODE, name: b"f".to_vec() }).unwrap()));
    let node = node.fail_over();
    let seen = |n: &Node| [a, b].iter().for_each(|s| n.handle.session_seen(*s));
    let exists = |n: &Node| inodes::get(&n.world.lock().tables, inode).unwrap().is_some();
    node.handle.claims(|claims| claims.claims_complete(a));
    tokio::time::sleep(Duration::from_secs(3)).await;
    seen(&node);
    assert!(exists(&node), "one has not spoken in this term");
    node.handle.claims(|claims| {
        claims.claim(b, inode);
        claims.claims_complete(b);
    });
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(exists(&node), "it is open");
    node.handle.claims(|claims| claims.release(b, inode));
    node.until("it is gone", |n| !exists(n)).await;
}

#[tokio::test(start_paused = true)]
async fn s7_an_orphan_is_noted_with_the_entry_that_makes_it() {
    let node = Node::new(2);
    let session = node.world.lock().open(1);
    let (inode, _) = node.file(session, "f", &[1]);
    node.handle.claims(|claims| claims.claims_complete(session));
    let create = node.handle.begin_create();
    node.apply(|w| drop(w.client(session, ClientOp::Unlink { parent: ROOT_INODE, name: b"f".to_vec() }).unwrap()));
    assert!(node.handle.claims(|claims| claims.has_orphans()), "before the loops have run");
    let exists = |n: &Node| inodes::get(&n.world.lock().tables, inode).unwrap().is_some();
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(exists(&node), "the create may have opened it");
    node.handle.end_create(create, None);
    node.until("it is gone", |n| !exists(n)).await;
}
