//! Changes of size and times against buffered bytes (W9).

use std::time::Duration;

use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::{CHUNK_BYTES, SessionId};
use caribou_proto::meta::v1::{Caller, Grant, GrantState, ReplyBody, SetAttr};
use tokio::time::Instant;

use super::rig::{READ_WRITE, Rig, assert_same, pattern, read_all};
use crate::ClientConfig;
use crate::file::action::Action;
use crate::file::write_chunk::WriteChunk;
use crate::file::write_state::{Planning, WriteState};

async fn set_size(rig: &Rig, inode: u64, size: u64) {
    let set = SetAttr { inode, size: Some(size), ..SetAttr::default() };
    let attr = rig.files.setattr(&Caller::default(), set).await.expect("sets the size");
    assert_eq!(attr.size, size);
}

#[tokio::test(start_paused = true)]
async fn a_cut_is_a_cut_for_the_buffer_too() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 10_000)).await.expect("writes");
    set_size(&rig, file.inode(), 4000).await;
    assert_eq!(read_all(&file).await, pattern(1, 4000));
    set_size(&rig, file.inode(), 6000).await;
    let expected = [&pattern(1, 4000)[..], &[0; 2000]].concat();
    assert_eq!(read_all(&file).await, expected);
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &expected);
}

/// Another client sets the size.
fn set_elsewhere(rig: &Rig, inode: u64, size: u64) {
    let set = SetAttr { inode, size: Some(size), ..SetAttr::default() };
    rig.world.inner.lock().setattr(&set).expect("sets the size");
}

// W9: this client takes the file for longer than it is, and no grant of its own was in the way of the cut.
#[tokio::test(start_paused = true)]
async fn what_is_written_after_a_cut_elsewhere_is_committed_with_its_length() {
    for by_close in [false, true] {
        let rig = Rig::new();
        let file = rig.create().await;
        let inode = file.inode();
        file.write(0, pattern(1, 100_000)).await.expect("writes");
        file.sync(false).await.expect("syncs");
        rig.until("the grant is given back", |rig| rig.live_grants() == 0).await;
        set_elsewhere(&rig, inode, 1000);
        file.write(50_000, pattern(2, 100)).await.expect("writes");
        if by_close {
            file.flush().await.expect("flushes");
        } else {
            file.sync(false).await.expect("syncs");
        }
        assert_eq!(rig.length(inode), 50_100, "by close: {by_close}");
        file.sync(false).await.expect("syncs");
        let expected = [&pattern(1, 1000)[..], &[0; 49_000], &pattern(2, 100)].concat();
        assert_same(&rig.on_disk(inode), &expected);
        assert_same(&read_all(&file).await, &expected);
    }
}

// O_APPEND: the end is where other clients have moved it.
#[tokio::test(start_paused = true)]
async fn an_append_follows_what_another_client_has_appended() {
    for limit in [0, 16 << 10] {
        let rig = Rig::with_inline(ClientConfig::default(), limit);
        let file = rig.create().await;
        file.write(0, pattern(1, 300)).await.expect("writes");
        file.flush().await.expect("flushes");
        rig.until("the grant is given back", |rig| rig.live_grants() == 0).await;
        let other = Rig { world: rig.world.clone(), files: Rig::client(&rig.world, &ClientConfig::default()) };
        let theirs = other.open(file.inode()).await;
        assert_eq!(theirs.append(pattern(2, 50)).await, Ok(300));
        theirs.sync(false).await.expect("syncs");
        theirs.release().await;
        rig.until("the grant is given back", |rig| rig.live_grants() == 0).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(file.append(pattern(3, 20)).await, Ok(350));
        assert_eq!(file.append(pattern(4, 20)).await, Ok(370), "behind what is only buffered");
        file.sync(false).await.expect("syncs");
        let expected = [pattern(1, 300), pattern(2, 50), pattern(3, 20), pattern(4, 20)].concat();
        assert_same(&rig.on_disk(file.inode()), &expected);
        // The end is looked for, however lately the mode was changed.
        set_elsewhere(&rig, file.inode(), 400);
        tokio::time::sleep(Duration::from_secs(2)).await;
        let mode = SetAttr { inode: file.inode(), mode: Some(0o600), ..SetAttr::default() };
        rig.files.setattr(&Caller::default(), mode).await.expect("sets the mode");
        assert_eq!(file.append(pattern(1, 1)).await, Ok(400));
    }
}

// Reading is no right to write: the leader is to look at the mode.
#[tokio::test(start_paused = true)]
async fn an_open_for_reading_that_truncates_needs_the_right_to_write() {
    let rig = Rig::new();
    let inode = rig.create().await.inode();
    for (access, by_handle) in [(4, false), (READ_WRITE, true)] {
        rig.files.open(&Caller::default(), inode, access, true).await.expect("opens");
        assert_eq!(rig.world.inner.lock().set_by_handle, by_handle);
    }
}

// M12: who has lost a grant waits for the chunk first, and is told then what others have cut off, so that nobody here reads it any more.
#[test]
fn the_wait_for_a_lost_grant_tells_of_a_cut() {
    let now = Instant::now();
    let mut state = WriteState::new(0, 1, SessionId(0));
    let holder = Holder { server_id: 1, incarnation: 1, ..Holder::default() };
    let grant = Grant {
        state: GrantState::Granted.into(),
        chunk: 5,
        version: 1,
        grant: 9,
        create: true,
        holders: vec![holder],
        ..Grant::default()
    };
    state.adopt(&grant, now);
    state.insert(0, pattern(1, 1000), 1, now);
    state.want_flush();
    let plan = |state: &mut WriteState| {
        let mut actions = Vec::new();
        let sync_after = Duration::from_secs(2);
        state.plan(&Planning { now, sync_after, in_use: true, inline_limit: 0, data_generation: 1 }, &mut actions);
        actions.into_iter().next().expect("something is to be done")
    };
    let Action::Send { epoch, n, .. } = plan(&mut state) else { panic!("the bytes are sent") };
    state.acked(0, epoch, n);
    let Action::WriteEnd { id, .. } = plan(&mut state) else { panic!("the length is committed") };
    state.write_ended(id, &ReplyBody { length: 1000, ..ReplyBody::default() });
    state.grants_uncertain();
    assert!(matches!(plan(&mut state), Action::Wait { index: 0, .. }));
    state.waited(0, Some(100));
    assert_eq!(state.snapshot(0, 0, 2000), [(0, pattern(1, 100))]);
    // S4, P2: nobody keeps others from the chunk any more, so they may have written over what they had been told of.
    state.session_ended(SessionId(1));
    assert_eq!(state.snapshot(0, 0, 2000), []);
    state.insert(50, pattern(2, 10), 2, now);
    assert_eq!(state.snapshot(0, 0, 2000), [(50, pattern(2, 10))]);
}

// M13, S2: the leader's "not now" is final for its request; the program never sees it.
#[tokio::test(start_paused = true)]
async fn a_growth_that_came_too_early_is_asked_for_again() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 1000)).await.expect("writes");
    file.flush().await.expect("flushes");
    rig.world.inner.lock().errors.extend([libc::EAGAIN, libc::EAGAIN]);
    set_size(&rig, file.inode(), 5000).await;
    assert_eq!(rig.length(file.inode()), 5000);
    // The same for a write-end.
    rig.world.inner.lock().errors.extend([libc::EAGAIN, libc::EAGAIN]);
    file.write(5000, pattern(2, 1000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_eq!(rig.length(file.inode()), 6000);
    // And without anything open.
    let inode = file.inode();
    file.release().await;
    drop(file);
    rig.until("the file is forgotten", |rig| rig.files.context.find(inode).is_none()).await;
    rig.world.inner.lock().errors.extend([libc::EAGAIN]);
    set_size(&rig, inode, 7000).await;
    assert_eq!(rig.length(inode), 7000);
}

// M1: the leader holds the chunk that a cut goes through for its writer, who says so even if nothing is left to send.
#[test]
fn a_cut_that_leaves_nothing_to_send_is_told_all_the_same() {
    let holder = Holder { server_id: 1, incarnation: 1, ..Holder::default() };
    let grant = Grant { chunk: 7, version: 1, grant: 3, holders: vec![holder], ..Grant::default() };
    let granted = || {
        let mut chunk = WriteChunk::new(0, 1, Instant::now());
        chunk.granted(&grant, None);
        chunk
    };
    let mut through = granted();
    through.cut(100, 1);
    assert!(!through.is_quiet());
    let mut beyond = granted();
    beyond.cut(0, 1);
    assert!(beyond.is_quiet(), "the chunk is gone, and its hold with it");
}

#[tokio::test(start_paused = true)]
async fn a_cut_drops_whole_chunks() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 100)).await.expect("writes");
    file.write(CHUNK_BYTES, pattern(2, 100)).await.expect("writes");
    file.write(2 * CHUNK_BYTES, pattern(3, 100)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    set_size(&rig, file.inode(), CHUNK_BYTES).await;
    set_size(&rig, file.inode(), CHUNK_BYTES + 200).await;
    assert_eq!(file.read(CHUNK_BYTES, 1000).await.expect("reads"), vec![0; 200]);
    file.write(CHUNK_BYTES + 50, pattern(4, 10)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_eq!(file.read(CHUNK_BYTES + 50, 10).await.expect("reads"), pattern(4, 10));
    assert_eq!(rig.length(file.inode()), CHUNK_BYTES + 200);
}

#[tokio::test(start_paused = true)]
async fn writes_go_on_while_the_size_changes() {
    let rig = Rig::new();
    let file = rig.create().await;
    let writer = {
        let file = file.clone();
        tokio::spawn(async move {
            for n in 0..200_u64 {
                file.write(n * 100, pattern(n as u8, 100)).await.expect("writes");
                if n % 10 == 0 {
                    file.flush().await.expect("flushes");
                }
            }
        })
    };
    for size in [50, 5000, 0, 777] {
        let set = SetAttr { inode: file.inode(), size: Some(size), ..SetAttr::default() };
        rig.files.setattr(&Caller::default(), set).await.expect("sets the size");
    }
    writer.await.expect("ends");
    file.sync(false).await.expect("syncs");
    let bytes = read_all(&file).await;
    assert_eq!(bytes, rig.on_disk(file.inode()));
    for (at, byte) in bytes.iter().enumerate() {
        let written = pattern((at / 100) as u8, 100)[at % 100];
        assert!(*byte == written || *byte == 0, "byte {at} is what was written there, or cut off");
    }
}

#[tokio::test(start_paused = true)]
async fn opening_with_truncate_drops_what_is_buffered() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 1000)).await.expect("writes");
    let (attr, again) = rig.files.open(&Caller::default(), file.inode(), READ_WRITE, true).await.expect("opens");
    assert_eq!(attr.size, 0);
    again.write(0, pattern(2, 10)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &pattern(2, 10));
}

#[tokio::test(start_paused = true)]
async fn times_that_were_set_stay() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 1000)).await.expect("writes");
    let set = SetAttr { inode: file.inode(), mtime_ns: Some(12_345), ..SetAttr::default() };
    let attr = rig.files.setattr(&Caller::default(), set).await.expect("sets the time");
    assert_eq!(attr.mtime_ns, 12_345);
    // A write-end that only tells of a resend leaves the time alone.
    rig.world.break_streams(1);
    let inode = file.inode();
    file.sync(false).await.expect("syncs");
    file.release().await;
    rig.until("all grants have ended", |rig| rig.live_grants() == 0).await;
    assert_eq!(rig.world.inner.lock().files[&inode].mtime_ns, 12_345);
}

#[tokio::test(start_paused = true)]
async fn a_size_that_grows_leaves_a_hole() {
    let rig = Rig::new();
    let file = rig.create().await;
    set_size(&rig, file.inode(), 3000).await;
    file.write(1000, pattern(1, 100)).await.expect("writes");
    let expected = [&[0; 1000], &pattern(1, 100)[..], &[0; 1900]].concat();
    assert_eq!(read_all(&file).await, expected);
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &expected);
}
