//! S1, S2, S5: one `seq` per call across streams, the window, giving up.

use std::time::Duration;

use caribou_proto::meta::v1::Caller;
use futures::future::join_all;

use super::fake::{Fake, Role, Serving, create, lookup, mkdir};
use crate::{ClientConfig, Error};

fn me() -> Caller {
    Caller::default()
}

/// A spawned call, so that it goes on by itself.
fn spawn(client: &crate::MetaClient, name: &str) -> tokio::task::JoinHandle<Result<(), Error>> {
    let (client, op) = (client.clone(), mkdir(name));
    tokio::spawn(async move { client.mutate(&me(), op).await.map(drop) })
}

#[tokio::test(start_paused = true)]
async fn a_reply_lost_with_its_stream_is_found_under_the_same_seq() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.serve(Serving::Executes);
    let calls: Vec<_> = (0..50).map(|i| spawn(&client, &format!("d{i}"))).collect();
    fake.until("all executed", |state| state.executed.len() == 50).await;
    fake.kill("a:1");
    fake.serve(Serving::Answers);
    fake.lead("c:1");
    for result in join_all(calls).await {
        assert_eq!(result.expect("no panic"), Ok(()), "no spurious EEXIST");
    }
    assert_eq!(fake.executed().len(), 50, "each once");
    assert_eq!(fake.0.lock().from_table, 50, "each answer is the first one");
    assert_eq!(client.status().requests_resent, 50);
    assert_eq!(client.status().leader_address, "c:1");
}

#[tokio::test(start_paused = true)]
async fn a_call_lost_with_its_stream_is_executed_once_by_the_next_leader() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.serve(Serving::Loses);
    let call = spawn(&client, "d");
    tokio::task::yield_now().await;
    fake.kill("a:1");
    fake.serve(Serving::Answers);
    fake.lead("b:1");
    assert_eq!(call.await.expect("no panic"), Ok(()));
    assert_eq!(fake.executed(), ["d"]);
    assert_eq!(
        client.mutate(&me(), mkdir("d")).await,
        Err(Error::Errno(libc::EEXIST)),
        "a final answer of the file system"
    );
}

#[tokio::test(start_paused = true)]
async fn callers_wait_for_room_in_the_window() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.serve(Serving::Executes);
    let calls: Vec<_> = (0..3000).map(|i| spawn(&client, &format!("d{i}"))).collect();
    fake.until("a full window", |state| state.executed.len() == 1024).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(fake.0.lock().highest_seq_seen, 1024, "S2: nothing beyond acked_below + 1024 - 1");
    fake.serve(Serving::Answers);
    fake.break_streams();
    for result in join_all(calls).await {
        assert_eq!(result.expect("no panic"), Ok(()));
    }
    assert_eq!(fake.executed().len(), 3000);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_cancelled_and_its_seq_kept_until_the_answer() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.serve(Serving::Loses);
    let call = spawn(&client, "given-up");
    fake.until("nothing", |_| true).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    call.abort();
    fake.until("the cancel", |state| state.cancels == [1]).await;
    // The cancel is lost as well, and sent again alone on the next stream: the call itself is not.
    fake.serve(Serving::Answers);
    fake.break_streams();
    fake.until("the cancel again", |state| state.cancels == [1, 1]).await;
    client.mutate(&me(), mkdir("next")).await.expect("works");
    client.mutate(&me(), mkdir("after")).await.expect("works");
    assert_eq!(fake.executed(), ["next", "after"]);
    let state = fake.0.lock();
    assert_eq!(state.sessions[&1].acked_below, 3, "the cancelled seq is acknowledged once it is answered");
}

#[tokio::test(start_paused = true)]
async fn a_soft_timeout_says_unavailable_and_cancels() {
    let fake = Fake::new();
    let config = ClientConfig { soft: Some(Duration::from_millis(300)), ..Fake::config() };
    let client = fake.client_with(config).await.expect("connects");
    fake.serve(Serving::Loses);
    let error = client.mutate(&me(), mkdir("d")).await.expect_err("times out");
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
    assert_eq!(error.errno(), libc::ETIMEDOUT);
    fake.until("the cancel", |state| state.cancels == [1]).await;
    fake.kill("a:1");
    let error = client.query(&me(), lookup("d")).await.expect_err("nobody leads");
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_given_up_without_a_stream_leaves_no_trace() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.kill("a:1");
    fake.until("a search", |state| state.dials.len() > 5).await;
    let call = spawn(&client, "never");
    tokio::time::sleep(Duration::from_millis(5)).await;
    call.abort();
    tokio::time::sleep(Duration::from_millis(5)).await;
    fake.lead("b:1");
    client.mutate(&me(), mkdir("d")).await.expect("works");
    assert_eq!(fake.executed(), ["d"]);
    assert_eq!(fake.0.lock().cancels, [0_u64; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_create_that_was_executed_gives_its_claim_back() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.serve(Serving::Executes);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.mutate(&me(), create("f")).await.map(drop) }
    });
    fake.until("executed", |state| state.claims.len() == 1).await;
    call.abort();
    fake.until("the cancel", |state| state.cancels == [1]).await;
    fake.serve(Serving::Answers);
    fake.break_streams();
    fake.until("the release", |state| state.journal.iter().any(|line| line == "release 100")).await;
    assert!(fake.0.lock().claims.is_empty());
}

#[tokio::test(start_paused = true)]
async fn queries_are_asked_again_on_a_new_stream() {
    let fake = Fake::new();
    let client = fake.client().await;
    client.mutate(&me(), mkdir("d")).await.expect("works");
    fake.set("a:1", Role::Hung);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.query(&me(), lookup("d")).await }
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    fake.kill("a:1");
    fake.lead("b:1");
    let body = call.await.expect("no panic").expect("found");
    assert_eq!(body.attr.expect("an attr").inode, 100);
    assert_eq!(client.query(&me(), lookup("x")).await, Err(Error::Errno(libc::ENOENT)));
}
