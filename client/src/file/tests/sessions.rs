//! The end of the session: new grants, and what may still be sent of bytes that others have been told of (S4, W5, P2).

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::SessionId;
use caribou_proto::meta::v1::{Caller, Grant, GrantState, ReplyBody, SetAttr};
use tokio::time::Instant;

use super::rig::{Rig, assert_same, pattern, read_all};
use super::world::SESSION;
use crate::Error;
use crate::file::OpenFile;
use crate::file::action::{Action, Broken};
use crate::file::write_state::{Planning, WriteState};

#[tokio::test(start_paused = true)]
async fn a_new_session_takes_new_grants() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    let untouched = rig.create().await;
    untouched.write(0, pattern(7, 70)).await.expect("writes");
    rig.world.expire_session();
    file.write(5000, pattern(2, 10)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    untouched.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &[pattern(1, 5000), pattern(2, 10)].concat());
    assert_same(&rig.on_disk(untouched.inode()), &pattern(7, 70));
    let inner = rig.world.inner.lock();
    assert_eq!(inner.files[&file.inode()].chunks[&0].grant.map(|grant| grant.session), Some(SESSION + 1));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_ends_between_sync_and_close_does_not_hang_the_close() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 100)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    file.write(0, pattern(2, 100)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    rig.world.expire_session();
    tokio::time::sleep(Duration::from_millis(100)).await;
    file.flush().await.expect("flushes");
}

/// Bytes 0 to 5,000, acknowledged by all holders and told, not synced.
async fn told(rig: &Rig) -> Arc<OpenFile> {
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    file
}

/// Another client's bytes 1,000 to 2,000 among `ours`.
fn with_theirs(ours: &[u8]) -> Vec<u8> {
    let mut bytes = ours.to_vec();
    bytes[1000..2000].copy_from_slice(&pattern(2, 1000));
    bytes
}

/// Seed 20 of the simulation: the recovery after the session's end had kept the bytes, another client wrote and synced over them, then all
/// holders restarted, so that none of them was as the grant had named it.
#[tokio::test(start_paused = true)]
async fn what_was_kept_at_the_sessions_end_is_not_sent_over_newer_bytes() {
    let rig = Rig::new();
    let file = told(&rig).await;
    rig.world.expire_session();
    rig.world.written_by_another(file.inode(), 0, 1000, &pattern(2, 1000));
    (1..=3).for_each(|server| rig.world.power_cut(server));
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &with_theirs(&pattern(1, 5000)));
    assert_eq!(rig.buffered(), 0);
}

/// W5: all holders lose the bytes before the session has ended, and others have written since: what is left is not theirs to take back.
#[tokio::test(start_paused = true)]
async fn what_was_lost_with_the_session_is_an_error_where_others_have_written() {
    let rig = Rig::new();
    let file = told(&rig).await;
    (1..=3).for_each(|server| rig.world.power_cut(server));
    rig.world.expire_session();
    rig.world.written_by_another(file.inode(), 0, 1000, &pattern(2, 1000));
    assert_eq!(file.sync(false).await, Err(Error::Errno(libc::EIO)));
    assert_same(&rig.on_disk(file.inode()), &with_theirs(&[0; 5000]));
    file.write(3000, pattern(3, 100)).await.expect("writes");
    file.sync(false).await.expect("told once");
    let mut expected = with_theirs(&[0; 5000]);
    expected[3000..3100].copy_from_slice(&pattern(3, 100));
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!(rig.buffered(), 0);
}

/// P2: the servers' bytes may be older than what this client has written and closed, which it sends again.
#[tokio::test(start_paused = true)]
async fn a_read_after_the_session_does_not_see_what_was_before_a_closed_write() {
    let rig = Rig::new();
    let file = told(&rig).await;
    (1..=3).for_each(|server| rig.world.power_cut(server));
    rig.world.expire_session();
    assert_same(&read_all(&file).await, &pattern(1, 5000));
}

/// P1: a cut by this client itself is nobody else's change.
#[tokio::test(start_paused = true)]
async fn a_cut_after_the_session_takes_nothing_but_what_it_cuts() {
    let rig = Rig::new();
    let file = told(&rig).await;
    (1..=3).for_each(|server| rig.world.power_cut(server));
    rig.world.expire_session();
    let set = SetAttr { inode: file.inode(), size: Some(3000), ..SetAttr::default() };
    rig.files.setattr(&Caller::default(), set).await.expect("cuts");
    assert_same(&read_all(&file).await, &pattern(1, 5000)[..3000]);
    file.sync(false).await.expect("nothing is lost");
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 5000)[..3000]);
}

/// P1, M1: the same before the session's end, with a change of size that has ended the grant already.
#[tokio::test(start_paused = true)]
async fn a_cut_after_another_change_of_size_is_not_taken_for_somebody_elses_by_the_next_session() {
    for first in [6000, 4000] {
        let rig = Rig::new();
        let file = told(&rig).await;
        let (files, inode) = (&rig.files, file.inode());
        let set_size = async |size| {
            let set = SetAttr { inode, size: Some(size), ..SetAttr::default() };
            files.setattr(&Caller::default(), set).await.expect("sets the size")
        };
        set_size(first).await;
        (1..=3).for_each(|server| rig.world.power_cut(server));
        set_size(3000).await;
        rig.world.expire_session();
        file.sync(false).await.expect("nothing is lost");
        assert_same(&rig.on_disk(file.inode()), &pattern(1, 5000)[..3000]);
    }
}

/// P5: what it cuts off may be out of reach for long.
#[tokio::test(start_paused = true)]
async fn a_cut_after_the_session_does_not_wait_for_what_it_cuts_off() {
    let rig = Rig::new();
    let file = told(&rig).await;
    (1..=3).for_each(|server| rig.world.set_down(server, true));
    rig.world.expire_session();
    let set = SetAttr { inode: file.inode(), size: Some(0), ..SetAttr::default() };
    let caller = Caller::default();
    let cut = rig.files.setattr(&caller, set);
    tokio::time::timeout(Duration::from_secs(5), cut).await.expect("does not wait").expect("cuts");
}

/// The same where the answer to a report is the first sign of it, and the event comes after that or was missed.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_is_known_before_any_answer_of_the_next() {
    let rig = Rig::new();
    let file = told(&rig).await;
    (1..=3).for_each(|server| rig.world.power_cut(server));
    rig.world.expire_unheard();
    rig.world.written_by_another(file.inode(), 0, 1000, &pattern(2, 1000));
    assert_eq!(file.sync(false).await, Err(Error::Errno(libc::EIO)));
    assert_same(&rig.on_disk(file.inode()), &with_theirs(&[0; 5000]));
    assert_eq!(rig.buffered(), 0);
}

/// Else the leader would keep others off a chunk for a client that knows nothing of it (W5).
#[tokio::test(start_paused = true)]
async fn a_late_event_of_a_sessions_end_leaves_grants_of_the_next_alone() {
    let rig = Rig::new();
    let file = told(&rig).await;
    let old = rig.world.expire_unheard();
    file.sync(false).await.expect("syncs");
    file.write(5000, pattern(3, 10)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    let taken = (rig.live_grants(), rig.world.calls("take_grant"));
    assert_eq!(taken.0, 1);
    rig.world.tell_expired(old);
    tokio::time::sleep(Duration::from_millis(100)).await;
    file.write(5010, pattern(3, 10)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_eq!((rig.live_grants(), rig.world.calls("take_grant")), taken);
    rig.world.tell_expired(old);
    file.release().await;
    rig.until("the grant has ended", |rig| rig.live_grants() == 0).await;
}

/// A file of 10,000 synced bytes, with 5,000 newer ones at its start on all servers: told, or not even acknowledged.
async fn half_written_over(rig: &Rig, is_told: bool) -> Arc<OpenFile> {
    let file = rig.create().await;
    file.write(0, pattern(1, 10_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    rig.until("nothing is left here", |rig| rig.buffered() == 0).await;
    rig.world.inner.lock().hold_acks = !is_told;
    file.write(0, pattern(3, 5000)).await.expect("writes");
    let fragments = rig.world.inner.lock().fragments;
    let flushed = tokio::spawn({
        let file = file.clone();
        async move { file.flush().await }
    });
    if is_told {
        flushed.await.expect("ends").expect("flushes");
    } else {
        rig.until("the servers have them", |rig| rig.world.inner.lock().fragments > fragments).await;
    }
    rig.world.inner.lock().hold_acks = false;
    file
}

/// P2: the bytes that this client still had when the read began, or that it does not know the fate of, are older than what the servers
/// answer in the end.
#[tokio::test(start_paused = true)]
async fn a_read_while_the_session_ends_does_not_mix_old_bytes_with_newer_ones() {
    for (is_told, is_heard, begins_before) in
        [(true, true, true), (true, false, true), (false, true, true), (false, false, true), (false, true, false)]
    {
        let rig = Rig::new();
        let file = half_written_over(&rig, is_told).await;
        let read = || {
            let file = file.clone();
            tokio::spawn(async move { file.read(0, 10_000).await })
        };
        let before = begins_before.then(read);
        tokio::task::yield_now().await;
        if is_heard {
            rig.world.expire_session();
        } else {
            let _old = rig.world.expire_unheard();
        }
        rig.world.written_by_another(file.inode(), 0, 1000, &pattern(2, 6000));
        let newer = [&pattern(3, 1000)[..], &pattern(2, 6000), &pattern(1, 10_000)[7000..]].concat();
        let read = before.unwrap_or_else(read).await.expect("ends").expect("reads");
        assert_same(&read, &newer);
        assert_same(&read_all(&file).await, &newer);
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_with_the_session_is_sent_again_where_nobody_has_written() {
    let rig = Rig::new();
    let file = told(&rig).await;
    (1..=3).for_each(|server| rig.world.power_cut(server));
    rig.world.expire_session();
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 5000));
}

/// The next grant finds the bytes kept; after it nothing of them is left here that a second accident could bring back, or that hides what others wrote.
#[tokio::test(start_paused = true)]
async fn what_was_kept_at_the_sessions_end_is_forgotten_with_the_next_grant() {
    let rig = Rig::new();
    let file = told(&rig).await;
    let expected = with_theirs(&pattern(1, 5000));
    rig.world.expire_session();
    rig.world.written_by_another(file.inode(), 0, 1000, &pattern(2, 1000));
    let has_grant = |rig: &Rig| {
        let grant = rig.world.inner.lock().files[&file.inode()].chunks[&0].grant;
        grant.is_some_and(|grant| grant.session == SESSION + 1)
    };
    rig.until("a grant is taken again", has_grant).await;
    rig.until("the client has heard of it", |rig| rig.buffered() == 0).await;
    assert_eq!(rig.world.inner.lock().syncs, 0, "there was nothing to sync");
    assert_same(&read_all(&file).await, &expected);
    (1..=3).for_each(|server| rig.world.power_cut(server));
    file.write(4000, pattern(3, 1)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    let expected = [&expected[..4000], &pattern(3, 1)[..], &expected[4001..]].concat();
    assert_same(&rig.on_disk(file.inode()), &expected);
}

/// The state of one chunk by hand: what it wants, and its answers.
struct ByHand(WriteState, SessionId);

impl ByHand {
    const OWN: u64 = 9;

    /// 1,000 bytes, acknowledged under the grant [`Self::OWN`]; the write-end that tells of them is under way.
    fn telling() -> (Self, u64) {
        let mut hand = Self::written(&grant(Self::OWN, 0, 0));
        hand.0.want_flush();
        let [Action::Send { epoch, n, .. }] = hand.plan()[..] else { panic!("the bytes are sent") };
        hand.0.acked(0, epoch, n);
        let [Action::WriteEnd { id, .. }] = hand.plan()[..] else { panic!("the length is committed") };
        (hand, id)
    }

    /// 1,000 bytes that are not sent yet.
    fn written(own: &Grant) -> Self {
        let mut hand = Self(WriteState::new(0, 1, SessionId(0)), SessionId(0));
        hand.0.adopt(own, Instant::now());
        hand.0.insert(0, pattern(1, 1000), 1, Instant::now());
        hand
    }

    fn session_ends(&mut self) {
        self.1.0 += 1;
        self.0.session_ended(self.1);
    }

    fn plan(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        let (now, sync_after) = (Instant::now(), Duration::from_secs(2));
        self.0.plan(&Planning { now, sync_after, in_use: true, inline_limit: 0, data_generation: 1 }, &mut actions);
        actions
    }

    fn told(&mut self, id: u64) {
        self.0.write_ended(id, &ReplyBody { length: 1000, ..ReplyBody::default() });
    }

    /// Waits for the chunk and asks for a grant.
    fn asks_for_a_grant(&mut self) {
        assert!(matches!(self.plan()[..], [Action::Wait { index: 0, .. }]));
        self.0.waited(0, None);
        assert!(matches!(self.plan()[..], [Action::TakeGrant { index: 0, .. }]));
    }

    /// Bytes that leave after this answer, and those that are lost with it.
    fn granted(&mut self, grant: &Grant) -> (usize, Option<Range<u32>>) {
        let lost = self.0.granted(0, Some(grant), None);
        let sent = |action| if let Action::Send { data, .. } = action { data.len() } else { 0 };
        (self.plan().into_iter().map(sent).sum(), lost)
    }
}

fn grant(id: u64, before: u64, unkept: u64) -> Grant {
    let (state, holders) = (GrantState::Granted.into(), vec![Holder { server_id: 1, ..Holder::default() }]);
    let create = before == 0;
    Grant { state, chunk: 5, version: id, grant: id, create, holders, before, unkept, ..Grant::default() }
}

/// S4: the write-end was carried out, and its answer comes after the end of the session: others have been told of the bytes.
#[test]
fn what_was_told_when_the_session_ended_is_not_sent_over_newer_bytes() {
    let (mut hand, id) = ByHand::telling();
    hand.session_ends();
    assert_eq!(hand.plan(), [], "the answer is waited for");
    hand.told(id);
    assert_eq!(hand.0.snapshot(0, 0, 2000), [], "others may have written there");
    hand.asks_for_a_grant();
    assert_eq!(hand.granted(&grant(12, 11, 0)), (0, None), "kept, and another grant came between");
    assert_eq!(hand.0.charged(), 0);
}

/// The same with a stream that breaks before the answer.
#[test]
fn what_was_told_when_the_stream_broke_is_not_sent_over_newer_bytes() {
    let (mut hand, id) = ByHand::telling();
    hand.0.insert(2000, pattern(2, 10), 2, Instant::now());
    hand.0.want_flush();
    let [Action::Send { epoch, .. }] = hand.plan()[..] else { panic!("the bytes are sent") };
    hand.0.broke(0, epoch, Broken::default());
    hand.told(id);
    hand.session_ends();
    assert!(matches!(hand.plan()[..], [Action::Report { .. }]));
    hand.0.granted(0, None, None);
    hand.asks_for_a_grant();
    let lost = (0, Some(2000..2010));
    assert_eq!(
        hand.granted(&grant(12, 11, 0)),
        lost,
        "the file may have grown over these, and others may have seen them"
    );
}

/// Seed 464 of the simulation: cut off between sending and the acknowledgement. Others saw the bytes, and wrote over them.
#[test]
fn what_was_sent_when_the_session_ended_is_not_sent_over_newer_bytes() {
    let old = grant(ByHand::OWN, 8, 0);
    // Nobody could see what a chunk has before its first write-end (W2); one that is there in a later session had that.
    let (new, told) = (Grant { chunk: 4, ..grant(ByHand::OWN, 0, 0) }, grant(ByHand::OWN, 0, 0));
    let (by_others, by_nobody) = (11, ByHand::OWN);
    let lost = || (0, Some(0..1000));
    for (own, is_sent, written, expected) in [
        (&old, true, by_others, lost()),
        (&old, true, by_nobody, (1000, None)),
        (&old, false, by_others, (1000, None)),
        (&new, true, by_others, (1000, None)),
        (&told, true, by_others, lost()),
    ] {
        let mut hand = ByHand::written(own);
        if is_sent {
            hand.0.want_flush();
            assert!(matches!(hand.plan()[..], [Action::Send { .. }]));
        }
        hand.session_ends();
        hand.0.want_flush();
        hand.asks_for_a_grant();
        assert_eq!(
            hand.granted(&grant(12, written, 0)),
            expected,
            "{own:?}, sent: {is_sent}, then written by {written}"
        );
    }
}

/// P5: the chunk was cut away, and the new one has nothing to wait for.
#[test]
fn what_was_sent_into_a_chunk_that_is_gone_is_lost_and_leaves_nothing_to_do() {
    let mut hand = ByHand::written(&Grant { chunk: 4, ..grant(ByHand::OWN, 8, 0) });
    hand.0.want_flush();
    assert!(matches!(hand.plan()[..], [Action::Send { .. }]));
    hand.session_ends();
    hand.asks_for_a_grant();
    assert_eq!(hand.0.granted(0, Some(&grant(12, 0, 0)), None), Some(0..1000));
    assert!(matches!(hand.plan()[..], [Action::End { .. }]), "nothing can be said under it");
    hand.0.ended(0, 12, false);
    assert!(matches!(hand.plan()[..], [Action::WriteEnd { .. }]), "the time");
}

/// The same with an answer to the first write-end that comes after the end of the session: what was sent after it could be seen as well.
#[test]
fn what_was_sent_into_a_chunk_that_proves_not_to_be_new_is_not_sent_over_newer_bytes() {
    let (mut hand, id) = ByHand::telling();
    hand.0.insert(500, pattern(2, 1000), 2, Instant::now());
    hand.0.want_flush();
    assert!(matches!(hand.plan()[..], [Action::Send { .. }]));
    hand.session_ends();
    hand.told(id);
    hand.asks_for_a_grant();
    assert_eq!(hand.granted(&grant(12, 11, 0)), (0, Some(500..1500)));
}

/// W5: lost by all holders; sent again in vain, and then the session ends.
#[test]
fn what_was_not_yet_sent_again_at_the_sessions_end_is_lost_where_others_have_written() {
    for (before, expected) in [(ByHand::OWN + 1, (1000, None)), (77, (0, Some(0..1000)))] {
        let (mut hand, id) = ByHand::telling();
        hand.told(id);
        hand.0.grants_uncertain();
        hand.asks_for_a_grant();
        // Another holder.
        let mut next = grant(ByHand::OWN + 1, ByHand::OWN, 0);
        next.holders[0].server_id = 2;
        assert_eq!(hand.granted(&next), (1000, None));
        hand.session_ends();
        hand.asks_for_a_grant();
        assert_eq!(hand.granted(&grant(78, before, 0)), expected);
    }
}

/// S4: the answer of a session that has ended names a grant that has ended too. It is this client's own all the same.
#[test]
fn a_grant_of_a_session_that_has_ended_since_is_none() {
    let (mut hand, id) = ByHand::telling();
    hand.told(id);
    hand.session_ends();
    hand.asks_for_a_grant();
    hand.session_ends();
    assert_eq!(hand.granted(&grant(10, ByHand::OWN, ByHand::OWN)), (0, None));
    hand.0.waited(0, None);
    assert!(matches!(hand.plan()[..], [Action::TakeGrant { index: 0, .. }]));
    // Asked for anew within the session that has it: which one was before is not known any more.
    assert_eq!(hand.granted(&grant(10, 10, ByHand::OWN)), (1000, None), "nobody else has written");
}
