//! S7: claims are counted, re-asserted, and complete only then.

use std::time::Duration;

use caribou_proto::meta::v1::Caller;

use super::fake::{Fake, Serving, create};

fn me() -> Caller {
    Caller::default()
}

#[tokio::test(start_paused = true)]
async fn handles_are_counted_and_the_last_one_releases() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.until("complete at the start", |state| state.complete == [1]).await;
    client.open_claim(&me(), 5, 4).await.expect("opened");
    client.open_claim(&me(), 5, 2).await.expect("opened");
    client.release_claim(5);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(fake.0.lock().claims.contains(&(1, 5)));
    client.release_claim(5);
    fake.until("released", |state| state.claims.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_release_leaves_with_the_next_message_or_soon_by_itself() {
    let fake = Fake::new();
    let client = fake.client().await;
    fake.until("complete at the start", |state| state.complete == [1]).await;
    for inode in [5, 6] {
        client.open_claim(&me(), inode, 4).await.expect("opened");
    }
    let began = tokio::time::Instant::now();
    client.release_claim(5);
    client.open_claim(&me(), 7, 4).await.expect("opened");
    fake.until("released with the open", |state| !state.claims.contains(&(1, 5))).await;
    assert!(began.elapsed() < Duration::from_millis(5), "{:?}", began.elapsed());
    client.release_claim(6);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(fake.0.lock().claims.contains(&(1, 6)), "nobody waits for it");
    fake.until("released alone", |state| !state.claims.contains(&(1, 6))).await;
    assert!(fake.0.lock().claims.contains(&(1, 7)));
}

#[tokio::test(start_paused = true)]
async fn releases_without_pause_all_arrive_and_opens_among_them_stay() {
    let fake = Fake::new();
    let client = fake.client().await;
    for round in 0..20 {
        for inode in 100..200 {
            client.open_claim(&me(), inode, 4).await.expect("opened");
        }
        for inode in 100..200 {
            client.release_claim(inode);
        }
        client.open_claim(&me(), 100 + round, 4).await.expect("opened");
        tokio::time::sleep(Duration::from_millis(round)).await;
        fake.until("all but one released", |state| state.claims.iter().eq([&(1_u64, 100 + round)])).await;
        client.release_claim(100 + round);
    }
    fake.until("released", |state| state.claims.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn all_claims_are_asserted_again_before_complete() {
    let fake = Fake::new();
    let client = fake.client().await;
    for inode in 1000..2000 {
        client.open_claim(&me(), inode, 4).await.expect("opened");
    }
    let created = client.mutate(&me(), create("f")).await.expect("created").attr.expect("attr").inode;
    fake.serve(Serving::Executes);
    let unanswered = tokio::spawn({
        let client = client.clone();
        async move { client.mutate(&me(), create("g")).await }
    });
    fake.until("executed", |state| state.executed.len() == 2).await;
    fake.kill("a:1");
    fake.lead("b:1");
    // The new leader loses the create at first: it must not hear "complete" before it has answered it.
    fake.serve(Serving::Loses);
    fake.until("re-asserted", |state| state.claims.len() == 1001).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(fake.0.lock().complete.is_empty(), "a create is unanswered");
    fake.serve(Serving::Answers);
    fake.break_streams();
    fake.until("complete", |state| state.complete == [1]).await;
    let second = unanswered.await.expect("no panic").expect("created").attr.expect("attr").inode;
    let state = fake.0.lock();
    let complete_at = state.journal.iter().position(|line| line == "complete").expect("complete");
    let create_at = state.journal.iter().position(|line| *line == format!("create {second}")).expect("create");
    assert!(create_at < complete_at);
    for inode in (1000..2000).chain([created, second]) {
        assert!(state.claims.contains(&(1, inode)), "{inode}");
    }
    let asserted = state.journal[..complete_at].iter().filter(|line| line.starts_with("reassert")).count();
    assert!(asserted >= 1001);
}

#[tokio::test(start_paused = true)]
async fn a_release_does_not_overtake_a_create_that_may_open_the_same_file() {
    let fake = Fake::new();
    let client = fake.client().await;
    let inode = client.mutate(&me(), create("f")).await.expect("created").attr.expect("attr").inode;
    fake.serve(Serving::Loses);
    let again = tokio::spawn({
        let client = client.clone();
        async move { client.mutate(&me(), create("f")).await }
    });
    tokio::time::sleep(Duration::from_millis(5)).await;
    client.release_claim(inode);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(fake.0.lock().claims.contains(&(1, inode)), "held back");
    fake.serve(Serving::Answers);
    fake.break_streams();
    let opened = again.await.expect("no panic").expect("opened").attr.expect("attr").inode;
    assert_eq!(opened, inode);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(fake.0.lock().claims.contains(&(1, inode)), "one handle is left");
    client.release_claim(inode);
    fake.until("released", |state| state.claims.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn a_release_lost_with_its_stream_is_sent_again() {
    let fake = Fake::new();
    let client = fake.client().await;
    client.open_claim(&me(), 5, 4).await.expect("opened");
    fake.set("a:1", super::fake::Role::Hung);
    client.release_claim(5);
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.set("a:1", super::fake::Role::Leader);
    fake.break_streams();
    fake.until("released", |state| state.claims.is_empty()).await;
}

#[tokio::test(start_paused = true)]
async fn an_open_waits_for_a_release_that_is_on_its_way() {
    let fake = Fake::new();
    let client = fake.client().await;
    client.open_claim(&me(), 5, 4).await.expect("opened");
    fake.keep_release(|| client.release_claim(5)).await;
    let again = tokio::spawn({
        let client = client.clone();
        async move { client.open_claim(&me(), 5, 4).await.map(drop) }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(!again.is_finished(), "the leader might handle the release after it");
    fake.0.lock().keep_releases = false;
    fake.handle_kept();
    again.await.expect("no panic").expect("opened");
    assert!(fake.0.lock().claims.contains(&(1, 5)));
}

#[tokio::test(start_paused = true)]
async fn a_create_that_a_late_release_undid_claims_again() {
    let fake = Fake::new();
    let client = fake.client().await;
    let inode = client.mutate(&me(), create("f")).await.expect("created").attr.expect("attr").inode;
    fake.keep_release(|| client.release_claim(inode)).await;
    client.mutate(&me(), create("f")).await.expect("opened");
    fake.0.lock().keep_releases = false;
    fake.handle_kept();
    assert!(!fake.0.lock().claims.contains(&(1, inode)), "the late release took the new claim away");
    fake.until("claimed again", |state| state.claims.contains(&(1, inode))).await;
    // The same with the create's answer after the release's.
    fake.keep_release(|| client.release_claim(inode)).await;
    fake.serve(Serving::Executes);
    let late = tokio::spawn({
        let client = client.clone();
        async move { client.mutate(&me(), create("f")).await.map(drop) }
    });
    fake.until("executed", |state| state.executed.len() == 3).await;
    fake.0.lock().keep_releases = false;
    fake.handle_kept();
    tokio::time::sleep(Duration::from_millis(5)).await;
    fake.serve(Serving::Answers);
    assert!(!fake.0.lock().claims.contains(&(1, inode)));
    fake.answer_from_table(1, 3);
    late.await.expect("no panic").expect("opened");
    fake.until("claimed again", |state| state.claims.contains(&(1, inode))).await;
}

/// The leader has handled a release, and its answer is on its way, while a create claims the same inode again and lets it go.
#[tokio::test(start_paused = true)]
async fn a_claim_let_go_before_an_earlier_release_is_answered_is_released_too() {
    let fake = Fake::new();
    let client = fake.client().await;
    let inode = client.mutate(&me(), create("f")).await.expect("created").attr.expect("attr").inode;
    fake.keep_release(|| client.release_claim(inode)).await;
    fake.0.lock().claims.remove(&(1, inode));
    client.mutate(&me(), create("f")).await.expect("opened");
    assert!(fake.0.lock().claims.contains(&(1, inode)));
    client.release_claim(inode);
    tokio::time::sleep(Duration::from_millis(50)).await;
    fake.0.lock().keep_releases = false;
    fake.answer_kept();
    fake.until("released", |state| state.claims.is_empty()).await;
}
