//! S4: what becomes of calls when their session expires.

use std::time::Duration;

use caribou_proto::ids::SessionId;
use caribou_proto::meta::v1::Caller;

use super::fake::{Fake, Serving, lookup, mkdir};
use crate::Error;
use crate::meta::MetaEvent;

fn me() -> Caller {
    Caller::default()
}

fn spawn(client: &crate::MetaClient, name: &str) -> tokio::task::JoinHandle<Result<(), Error>> {
    let (client, op) = (client.clone(), mkdir(name));
    tokio::spawn(async move { client.mutate(&me(), op).await.map(drop) })
}

#[tokio::test(start_paused = true)]
async fn executed_calls_of_an_expired_session_keep_their_answer_and_others_are_issued_anew_once() {
    let fake = Fake::new();
    let client = fake.client().await;
    let mut events = client.events();
    fake.serve(Serving::Executes);
    let done = spawn(&client, "done");
    fake.until("executed", |state| state.executed.len() == 1).await;
    fake.serve(Serving::Loses);
    let lost = [spawn(&client, "lost1"), spawn(&client, "lost2")];
    tokio::time::sleep(Duration::from_millis(5)).await;
    let given_up = spawn(&client, "given-up");
    tokio::time::sleep(Duration::from_millis(5)).await;
    given_up.abort();
    fake.kill("a:1");
    fake.expire_sessions();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let waiting = spawn(&client, "waiting");
    fake.serve(Serving::Answers);
    fake.lead("b:1");
    assert_eq!(done.await.expect("no panic"), Ok(()));
    for call in lost {
        assert_eq!(call.await.expect("no panic"), Ok(()));
    }
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
    assert_eq!(fake.executed(), ["done", "lost1", "lost2", "waiting"], "each once, in order, the given-up one never");
    {
        let state = fake.0.lock();
        assert!(state.executed[1..].iter().all(|(session, ..)| *session == 2), "{:?}", state.executed);
        assert_eq!(state.executed[1].1, 1, "a new session starts at seq 1");
    }
    let status = client.status();
    assert_eq!((status.session_id, status.sessions_expired, status.requests_reissued), (SessionId(2), 1, 2));
    assert_eq!(client.expired_session(), SessionId(1));
    let mut seen = Vec::new();
    while let Ok(event) = events.try_recv() {
        seen.push(event);
    }
    assert!(seen.contains(&MetaEvent::SessionChanged { old: SessionId(1) }), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn an_expiry_on_a_living_stream_is_followed_by_a_new_session() {
    let fake = Fake::new();
    let client = fake.client().await;
    client.mutate(&me(), mkdir("before")).await.expect("works");
    client.open_claim(&me(), 100, 4).await.expect("opened");
    fake.expire_sessions();
    client.mutate(&me(), mkdir("after")).await.expect("works");
    assert_eq!(client.query(&me(), lookup("after")).await.expect("found").attr.expect("attr").inode, 101);
    assert_eq!(client.session_id(), SessionId(2));
    fake.until("claims in the new session", |state| state.complete.contains(&2)).await;
    assert!(fake.0.lock().claims.contains(&(2, 100)), "open handles are claimed in the new session");
}

#[tokio::test(start_paused = true)]
async fn a_pending_call_whose_row_is_gone_gets_eio() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.serve(Serving::Executes);
    let call = spawn(&client, "d");
    fake.until("executed", |state| state.executed.len() == 1).await;
    fake.kill("a:1");
    fake.0.lock().sessions.clear(); // more than 24 h later
    fake.serve(Serving::Answers);
    fake.lead("b:1");
    assert_eq!(call.await.expect("no panic"), Err(Error::Errno(libc::EIO)));
    client.mutate(&me(), mkdir("e")).await.expect("works");
    assert_eq!(client.session_id(), SessionId(2));
}
