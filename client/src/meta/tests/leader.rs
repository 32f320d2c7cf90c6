//! Finding the leader, following it, leaving a silent one.

use std::sync::Arc;
use std::time::Duration;

use caribou_proto::meta::v1::{Caller, ClientMessage, RecallGrant, ServerMessage, Welcome, refused, server_message};
use futures::StreamExt;
use futures::future::BoxFuture;
use tokio::time::Instant;

use super::fake::{Fake, Role, cluster, mkdir};
use crate::meta::transport::{LINK_QUEUE, Link, Transport, TransportError};
use crate::meta::{Environment, MetaClient, MetaEvent};
use crate::{ClientConfig, Error};

fn me() -> Caller {
    Caller::default()
}

#[tokio::test(start_paused = true)]
async fn a_redirect_to_a_node_that_is_not_configured_is_followed() {
    let fake = Fake::new();
    fake.lead("c:1");
    let client = fake.client().await;
    assert_eq!(client.cluster(), cluster());
    let status = client.status();
    assert_eq!((status.leader_address.as_str(), status.leader_id, status.connections), ("c:1", 3, 1));
    assert_eq!(status.nodes, ["a:1", "b:1", "c:1"]);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_is_followed_within_tens_of_milliseconds() {
    let fake = Fake::new();
    let client = fake.client().await;
    let mut events = client.events();
    fake.kill("a:1");
    tokio::time::sleep(Duration::from_millis(300)).await;
    fake.lead("b:1");
    let ready = Instant::now();
    client.mutate(&me(), mkdir("d")).await.expect("works");
    assert!(ready.elapsed() <= Duration::from_millis(110), "{:?}", ready.elapsed());
    assert_eq!(events.recv().await, Ok(MetaEvent::LeaderChanged { node_id: 2, term: 2 }));
    let dials = fake.0.lock().dials.len();
    assert!(dials < 40, "{dials} dials in 300 ms");
}

#[tokio::test(start_paused = true)]
async fn a_hung_leader_is_left_once_another_one_leads() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.set("a:1", Role::Hung);
    let start = Instant::now();
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.mutate(&me(), mkdir("d")).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(300)).await;
    {
        let mut state = fake.0.lock();
        state.dials.clear();
    }
    fake.lead("b:1");
    fake.set("a:1", Role::Hung);
    call.await.expect("no panic").expect("works");
    assert!(start.elapsed() <= Duration::from_millis(1000), "{:?}", start.elapsed());
    assert!(!fake.0.lock().dials.contains(&"a:1".to_owned()), "the silent leader is not greeted again");
    assert_eq!(fake.executed(), ["d"]);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_speaks_again_is_kept() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.set("a:1", Role::Hung);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.mutate(&me(), mkdir("lost")).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(1500)).await;
    fake.set("a:1", Role::Leader);
    client.mutate(&me(), mkdir("d")).await.expect("works");
    assert_eq!(client.status().connections, 1);
    // The lost message is only sent again on a new stream; a real transport loses none without breaking.
    fake.break_streams();
    call.await.expect("no panic").expect("works");
    assert_eq!(fake.executed(), ["d", "lost"]);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_a_soft_connection_says_what_was_tried() {
    let fake = Fake::new();
    for node in ["a:1", "b:1", "c:1"] {
        fake.set(node, Role::Dead);
    }
    let config = ClientConfig { soft: Some(Duration::from_secs(1)), ..Fake::config() };
    let Err(Error::Unavailable(words)) = fake.client_with(config).await else { panic!("must time out") };
    assert!(words.contains("a:1, b:1") && words.contains("connection refused"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn a_foreign_cluster_is_refused_in_words() {
    let fake = Fake::new();
    fake.0.lock().refuse = Some(refused::Kind::ForeignCluster);
    let Err(Error::Refused(words)) = fake.client_with(Fake::config()).await else { panic!("must be refused") };
    assert!(words.contains("another cluster"), "{words}");
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_is_not_initialised_is_waited_for() {
    let fake = Fake::new();
    fake.0.lock().refuse = Some(refused::Kind::NotInitialised);
    let connecting = tokio::spawn({
        let fake = fake.clone();
        async move { fake.client().await }
    });
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(!connecting.is_finished());
    fake.0.lock().refuse = None;
    connecting.await.expect("no panic").mutate(&me(), mkdir("d")).await.expect("works");
}

#[tokio::test(start_paused = true)]
async fn the_session_is_certain_for_a_ttl_after_the_last_answered_renewal() {
    let fake = Fake::new();
    let client = fake.client().await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(client.session_is_certain(), "S3: renewed while idle");
    fake.kill("a:1");
    tokio::time::sleep(Duration::from_millis(super::fake::TTL_MS)).await;
    assert!(!client.session_is_certain());
    fake.lead("b:1");
    client.mutate(&me(), mkdir("d")).await.expect("works");
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(client.session_is_certain());
}

#[tokio::test(start_paused = true)]
async fn recalls_reach_their_receivers_and_close_ends_everything() {
    let fake = Fake::new();
    let client = fake.client().await;
    let mut events = client.events();
    let recall = RecallGrant { inode: 4, index: 1, chunk: 9, grant: 2 };
    fake.push(server_message::Body::RecallGrant(recall));
    assert_eq!(events.recv().await, Ok(MetaEvent::RecallGrant { inode: 4, index: 1, chunk: 9, grant: 2 }));
    client.close();
    assert!(matches!(client.mutate(&me(), mkdir("d")).await, Err(Error::Fatal(_))));
}

/// A node whose first messages are all there at once: a channel would hand them out in portions.
struct Burst(u64);

impl Transport for Burst {
    fn dial(&self, _: &str, _: ClientMessage) -> BoxFuture<'static, Result<Link, TransportError>> {
        let (sender, sent) = tokio::sync::mpsc::channel(LINK_QUEUE);
        let welcome = Welcome { cluster: Some(cluster()), session_id: 1, ttl_ms: 30_000, ..Welcome::default() };
        let recall = |grant| server_message::Body::RecallGrant(RecallGrant { inode: 4, index: 1, chunk: 9, grant });
        let message = |body| Ok(ServerMessage { body: Some(body) });
        let welcome = futures::stream::iter([message(server_message::Body::Welcome(welcome))]);
        // Time for somebody to listen.
        let pause = futures::stream::once(tokio::time::sleep(Duration::from_millis(10))).filter_map(async |()| None);
        let burst = futures::stream::iter((0..self.0).map(move |grant| message(recall(grant))));
        // Then silence; what the client sends is kept.
        let silence = futures::stream::once(async move {
            let _sent = sent;
            std::future::pending().await
        });
        let receiver = welcome.chain(pause).chain(burst).chain(silence).boxed();
        Box::pin(async move { Ok(Link { sender, receiver }) })
    }
}

#[tokio::test(start_paused = true)]
async fn no_message_of_a_burst_is_lost() {
    // More messages at once than the task takes at a time: a lost reply would stop the window for ever (S2).
    const MESSAGES: u64 = 1000;
    let environment = Environment { transport: Arc::new(Burst(MESSAGES)), ..Environment::default() };
    let config = ClientConfig { meta: vec!["a:1".to_owned()], ..ClientConfig::default() };
    let connecting = MetaClient::connect_in(&config, environment);
    let client = connecting.await.expect("connected");
    let mut events = client.events();
    let mut grants = Vec::new();
    while let Ok(Ok(event)) = tokio::time::timeout(Duration::from_millis(100), events.recv()).await {
        if let MetaEvent::RecallGrant { grant, .. } = event {
            grants.push(grant);
        }
    }
    assert_eq!(grants, (0..MESSAGES).collect::<Vec<_>>());
}
