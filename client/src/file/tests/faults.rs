//! Broken streams, power cuts, recalls, lost grants (W4, W5, W8, W9).

use std::time::Duration;

use caribou_proto::chunk::v1::{Status, WriteFragment};
use caribou_proto::meta::v1::SetAttr;
use futures::StreamExt;

use super::rig::{Rig, assert_same, pattern, read_all};
use super::servers::Network;
use crate::chunk::Transport;
use crate::meta::MetaEvent;
use crate::{ClientConfig, Error};

#[tokio::test(start_paused = true)]
async fn a_broken_stream_is_reported_and_the_latest_bytes_go_to_the_next_version() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 100_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    rig.world.break_streams(1);
    file.write(50_000, pattern(2, 1000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    let mut expected = pattern(1, 100_000).to_vec();
    expected[50_000..51_000].copy_from_slice(&pattern(2, 1000));
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!(rig.world.calls("report_broken"), 1);
    assert_eq!(rig.world.inner.lock().files[&file.inode()].chunks[&0].version, 2);
}

/// W4: nor is it a breach that the client does not know yet.
#[tokio::test(start_paused = true)]
async fn what_is_sent_before_the_client_knows_of_its_grants_end_is_refused_and_sent_again() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    {
        let mut inner = rig.world.inner.lock();
        inner.files.get_mut(&file.inode()).expect("there").chunks.get_mut(&0).expect("there").end_uncleanly();
        inner.recover(file.inode(), 0);
    }
    let fragments = rig.world.inner.lock().fragments;
    file.write(5000, pattern(2, 100)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &[pattern(1, 5000), pattern(2, 100)].concat());
    assert_eq!(rig.world.inner.lock().fragments, fragments + 2, "at the old version and at the new one");
}

/// Of the fake servers: what they find wrong fails the test, although it is in a task of its own.
#[tokio::test(start_paused = true)]
#[should_panic(expected = "W4")]
async fn a_version_that_goes_on_over_another_stream_is_found() {
    let rig = Rig::new();
    for _ in 0..2 {
        let link = Network(rig.world.clone()).write("server-1").await.expect("opens");
        let fragment = WriteFragment { chunk: 7, version: 1, grant: 1, ..WriteFragment::default() };
        link.requests.send(fragment).await.expect("the stream is open");
        drop(link.replies.into_future().await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_chunk_that_breaks_starts_again_in_another_one() {
    let rig = Rig::new();
    let file = rig.create().await;
    let first = rig.world.inner.lock().files[&file.inode()].chunks[&0].chunk;
    rig.world.inner.lock().servers.get_mut(&2).expect("there").fail_writes.push_back(Status::IoError);
    file.write(0, pattern(1, 3_000_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 3_000_000));
    assert_ne!(rig.world.inner.lock().files[&file.inode()].chunks[&0].chunk, first, "W2");
}

#[tokio::test(start_paused = true)]
async fn what_a_server_loses_between_ack_and_fsync_is_sent_again() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 200_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    rig.world.power_cut(2);
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 200_000));
    assert_eq!(rig.buffered(), 0);
}

#[tokio::test(start_paused = true)]
async fn all_replicas_lose_their_bytes_while_the_writer_lives() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 200_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    file.write(1000, pattern(2, 100)).await.expect("writes");
    file.flush().await.expect("flushes");
    for server in 1..=3 {
        rig.world.power_cut(server);
    }
    let mut expected = pattern(1, 200_000).to_vec();
    expected[1000..1100].copy_from_slice(&pattern(2, 100));
    assert_eq!(read_all(&file).await, expected, "the buffer has what the servers lost");
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!(rig.world.inner.lock().files[&file.inode()].chunks[&0].hold, None, "W5: the hold was lifted");
    assert_eq!(read_all(&*rig.open(file.inode()).await).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_hold_without_anything_to_send_again_is_lifted_too() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 1000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    {
        // The leader noticed the restart of all holders by itself.
        let mut inner = rig.world.inner.lock();
        inner.servers.values_mut().for_each(|server| server.incarnation += 1);
        inner.files.get_mut(&file.inode()).expect("there").chunks.get_mut(&0).expect("there").end_uncleanly();
    }
    file.release().await;
    rig.until("the grant has ended", |rig| {
        let inner = rig.world.inner.lock();
        let row = &inner.files.values().next().expect("there").chunks[&0];
        row.grant.is_none() && row.hold.is_none() && !row.recovering
    })
    .await;
    assert_eq!(rig.world.calls("report_broken"), 0);
}

// M12: only the grant says that the file was shorter in between.
#[tokio::test(start_paused = true)]
async fn what_others_have_cut_off_does_not_come_back_with_the_resend() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 200_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    let resize = |size| {
        let set = SetAttr { inode: file.inode(), size: Some(size), ..SetAttr::default() };
        rig.world.inner.lock().setattr(&set).expect("sets the size");
    };
    resize(1000);
    resize(200_000);
    // Nobody has the told bytes any more: all that is left is to be sent again.
    (1..=3).for_each(|server| rig.world.power_cut(server));
    file.write(150_000, pattern(2, 10)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    let mut expected = pattern(1, 1000).to_vec();
    expected.resize(200_000, 0);
    expected[150_000..150_010].copy_from_slice(&pattern(2, 10));
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_same(&read_all(&file).await, &expected);
}

// W9: indices are within files, and one record ends the grants of many.
#[tokio::test(start_paused = true)]
async fn a_lost_grant_of_one_file_is_none_of_another() {
    let rig = Rig::new();
    let (one, other) = (rig.create().await, rig.create().await);
    for file in [&one, &other] {
        file.write(0, pattern(1, 1000)).await.expect("writes");
    }
    for file in [&one, &other] {
        file.sync(false).await.expect("syncs");
    }
    {
        let mut inner = rig.world.inner.lock();
        inner.files.get_mut(&one.inode()).expect("there").chunks.get_mut(&0).expect("there").end_uncleanly();
        inner.recover(one.inode(), 0);
    }
    let before = rig.world.calls("take_grant");
    one.release().await;
    other.release().await;
    rig.until("all grants have ended", |rig| rig.live_grants() == 0 && rig.files.context.all().is_empty()).await;
    assert_eq!(rig.world.calls("take_grant") - before, 1, "only to say that nothing is left to send");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_stays_down_is_left_out() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 100_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    rig.world.set_down(1, true);
    file.write(100_000, pattern(2, 100_000)).await.expect("writes");
    file.sync(false).await.expect("V6: goes on with what there is");
    assert_eq!(rig.world.inner.lock().files[&file.inode()].chunks[&0].holders.len(), 1);
    assert_same(&rig.on_disk(file.inode()), &[pattern(1, 100_000), pattern(2, 100_000)].concat());
}

#[tokio::test(start_paused = true)]
async fn no_servers_is_waited_out() {
    let rig = Rig::new();
    rig.world.inner.lock().refuse_grants = 20;
    let file = rig.create().await;
    file.write(0, pattern(1, 10)).await.expect("writes");
    file.sync(false).await.expect("syncs in the end");
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 10));
}

#[tokio::test(start_paused = true)]
async fn soft_mounts_do_not_wait_for_ever() {
    let rig = Rig::with(ClientConfig { soft: Some(Duration::from_secs(3)), ..ClientConfig::default() });
    rig.world.inner.lock().refuse_grants = u32::MAX;
    let file = rig.create().await;
    file.write(0, pattern(1, 10)).await.expect("writes");
    assert!(matches!(file.sync(false).await, Err(Error::Unavailable(_))), "S5");
    rig.world.inner.lock().refuse_grants = 0;
    file.sync(false).await.expect("the bytes were kept");
}

#[tokio::test(start_paused = true)]
async fn a_recall_is_answered_by_a_clean_end() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    let (chunk, grant) = {
        let inner = rig.world.inner.lock();
        let row = &inner.files[&file.inode()].chunks[&0];
        (row.chunk, row.grant.expect("granted").id)
    };
    file.write(5000, pattern(2, 10)).await.expect("writes");
    let recall = MetaEvent::RecallGrant { inode: file.inode(), index: 0, chunk, grant };
    rig.world.events.send(recall).expect("somebody listens");
    let start = tokio::time::Instant::now();
    rig.until("the grant has ended", |rig| rig.live_grants() == 0).await;
    assert!(start.elapsed() < Duration::from_secs(1), "W8: long before the two seconds are over");
    assert_eq!(rig.on_disk(file.inode()).len(), 5010);
    file.write(0, pattern(3, 5)).await.expect("writes");
    file.sync(false).await.expect("a new grant is taken");
    assert_eq!(rig.world.inner.lock().files[&file.inode()].chunks[&0].version, 1, "W7: nothing was recovered");
}

/// W5: a client that does not know what it has missed tells the leader that it has nothing to send again; else the chunk would be held back
/// for it as long as its session lives.
#[tokio::test(start_paused = true)]
async fn missed_events_leave_no_grant_that_nobody_knows_of() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    file.flush().await.expect("flushes");
    assert_eq!(rig.live_grants(), 1);
    for chunk in 0..100 {
        let recall = MetaEvent::RecallGrant { inode: u64::MAX, index: 0, chunk, grant: 1 };
        rig.world.events.send(recall).expect("somebody listens");
    }
    file.release().await;
    rig.until("the grant has ended", |rig| rig.live_grants() == 0).await;
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 5000));
}

/// Seed 631 of the simulation with shared files: nothing was left to sync when the recall came, and a write was taken in before anything else
/// happened. It was sent and never synced, so the grant never ended, and nobody could write the chunk any more.
#[tokio::test(start_paused = true)]
async fn a_write_that_leaves_with_a_recall_is_synced_before_the_grant_ends() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    file.flush().await.expect("flushes");
    let row = rig.world.inner.lock().files[&file.inode()].chunks[&0].clone();
    let grant = row.grant.expect("granted").id;
    let inode = rig.files.context.find(file.inode()).expect("it is open");
    inode.change(0, |state| state.write.recall(0, grant));
    file.write(0, pattern(2, 10)).await.expect("writes");
    file.flush().await.expect("flushes");
    let start = tokio::time::Instant::now();
    rig.until("the grant has ended", |rig| rig.live_grants() == 0).await;
    assert!(start.elapsed() < Duration::from_secs(1), "W8: long before the two seconds are over");
    let last = rig.world.inner.lock().files[&file.inode()].chunks[&0].clone();
    assert_eq!(last.version, row.version, "it ended cleanly");
    assert_same(&rig.on_disk(file.inode())[..10], &pattern(2, 10));
}

#[tokio::test(start_paused = true)]
async fn a_recall_during_writes_without_pause_ends_the_grant() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    let first = rig.world.inner.lock().files[&file.inode()].chunks[&0].clone();
    let grant = first.grant.expect("granted").id;
    let recall = MetaEvent::RecallGrant { inode: file.inode(), index: 0, chunk: first.chunk, grant };
    rig.world.events.send(recall).expect("somebody listens");
    let start = tokio::time::Instant::now();
    for n in 0..200 {
        file.write(n, pattern(n as u8, 5000)).await.expect("writes");
        file.flush().await.expect("flushes");
    }
    let last = rig.world.inner.lock().files[&file.inode()].chunks[&0].clone();
    assert!(last.grant.is_none_or(|last| last.id != grant), "after {:?}", start.elapsed());
    assert_eq!(last.version, first.version, "it ended cleanly");
}

#[tokio::test(start_paused = true)]
async fn a_lost_grant_is_replaced_and_everything_unsynced_is_sent_again() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    {
        // W8: a recall that never reached the client.
        let mut inner = rig.world.inner.lock();
        inner.files.get_mut(&file.inode()).expect("there").chunks.get_mut(&0).expect("there").end_uncleanly();
        inner.recover(file.inode(), 0);
    }
    file.write(5000, pattern(2, 5000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &[pattern(1, 5000), pattern(2, 5000)].concat());
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_gone_is_eio_once_for_every_handle() {
    let rig = Rig::new();
    let file = rig.create().await;
    let other = rig.open(file.inode()).await;
    file.write(0, pattern(1, 100)).await.expect("writes");
    rig.world.inner.lock().files.clear();
    assert_eq!(file.sync(false).await, Err(Error::Errno(libc::EIO)));
    assert_eq!(file.flush().await, Ok(()), "told once");
    assert_eq!(other.flush().await, Err(Error::Errno(libc::EIO)));
    assert_eq!(rig.buffered(), 0);
}

#[tokio::test(start_paused = true)]
async fn no_space_is_told_and_an_unknown_outcome_is_tried_again() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 100)).await.expect("writes");
    rig.world.inner.lock().errors.push_back(libc::EIO);
    file.flush().await.expect("S4: EIO for a call whose session row is gone");
    rig.world.inner.lock().errors.push_back(libc::EDQUOT);
    let far = caribou_proto::ids::CHUNK_BYTES;
    file.write(far, pattern(1, 100)).await.expect("is buffered");
    assert_eq!(file.flush().await, Err(Error::Errno(libc::EDQUOT)));
    assert_eq!(rig.length(file.inode()), 100);
}

#[tokio::test(start_paused = true)]
async fn what_another_client_cuts_off_does_not_come_back() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    // Another client truncates after the close, before the background sync.
    let cut = SetAttr { inode: file.inode(), size: Some(1000), ..SetAttr::default() };
    rig.world.inner.lock().setattr(&cut).expect("cuts");
    file.release().await;
    rig.until("everything is settled", |rig| rig.live_grants() == 0 && rig.buffered() == 0).await;
    let inode = *rig.world.inner.lock().files.keys().next().expect("there");
    assert_same(&rig.on_disk(inode), &pattern(1, 1000));
}

#[tokio::test(start_paused = true)]
async fn what_another_client_wrote_since_is_not_taken_back() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    file.write(100, pattern(3, 10)).await.expect("writes, not sent");
    {
        // W8: a recall that never reached the client; then another client writes, syncs and ends its grant.
        let mut inner = rig.world.inner.lock();
        inner.files.get_mut(&file.inode()).expect("there").chunks.get_mut(&0).expect("there").end_uncleanly();
        inner.recover(file.inode(), 0);
        let row = inner.files[&file.inode()].chunks[&0].clone();
        for (id, _) in &row.holders {
            let replica = inner.servers.get_mut(id).expect("there").replicas.get_mut(&row.chunk).expect("there");
            replica.memory.write(1000, &pattern(2, 500));
            replica.disk = replica.memory.clone();
        }
    }
    file.sync(false).await.expect("syncs");
    let mut expected = pattern(1, 5000).to_vec();
    expected[1000..1500].copy_from_slice(&pattern(2, 500));
    expected[100..110].copy_from_slice(&pattern(3, 10));
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!(read_all(&file).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_resend_that_breaks_midway_is_begun_again_in_full() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 200_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    for server in 1..=3 {
        rig.world.power_cut(server);
    }
    // The streams broke with the servers; then the head refuses the first fragment of the resend.
    rig.world.inner.lock().servers.get_mut(&1).expect("there").fail_writes.push_back(Status::IoError);
    file.sync(false).await.expect("syncs");
    assert_eq!(rig.world.calls("report_broken"), 2);
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 200_000));
}

/// Nobody has the block whole: a write to a part of it can be stored nowhere. One to the whole block, or elsewhere, can.
#[tokio::test(start_paused = true)]
async fn what_no_holder_can_take_is_an_error_and_the_rest_is_written() {
    let rig = Rig::new();
    let file = rig.create().await;
    let mut expected = pattern(1, 200_000).to_vec();
    file.write(0, pattern(1, 200_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    rig.world.inner.lock().servers.get_mut(&1).expect("there").damaged = Some(1);
    file.write(70_000, pattern(2, 10)).await.expect("writes");
    file.write(150_000, pattern(3, 10)).await.expect("writes");
    assert_eq!(file.sync(false).await, Err(Error::Errno(libc::EIO)));
    assert_eq!(file.sync(false).await, Ok(()), "told once");
    expected[150_000..150_010].copy_from_slice(&pattern(3, 10));
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_same(&read_all(&file).await, &expected);
    assert_eq!(rig.buffered(), 0);
    file.write(60_000, pattern(4, 80_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    expected[60_000..140_000].copy_from_slice(&pattern(4, 80_000));
    assert_same(&rig.on_disk(file.inode()), &expected);
}

/// Of one long write only what goes to the damaged block is lost.
#[tokio::test(start_paused = true)]
async fn the_sound_blocks_of_a_write_are_stored() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 1_500_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    rig.world.inner.lock().servers.get_mut(&1).expect("there").damaged = Some(20);
    let start = 5 * 65_536;
    file.write(start as u64, pattern(2, 1_000_000)).await.expect("writes");
    assert_eq!(file.sync(false).await, Err(Error::Errno(libc::EIO)));
    let mut expected = pattern(1, 1_500_000).to_vec();
    expected[start..20 * 65_536].copy_from_slice(&pattern(2, 15 * 65_536));
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!((file.sync(false).await, rig.buffered()), (Ok(()), 0));
}

/// The first refusal shows that some block is damaged, three more of the same bytes that no recovery has mended it.
#[tokio::test(start_paused = true)]
async fn bytes_are_given_up_after_three_recoveries_have_not_helped() {
    for (refusals, outcome) in [(3, Ok(())), (4, Err(Error::Errno(libc::EIO)))] {
        let rig = Rig::new();
        let file = rig.create().await;
        file.write(0, pattern(1, 200_000)).await.expect("writes");
        file.sync(false).await.expect("syncs");
        let fails = [Status::Corrupt, Status::IoError].repeat(refusals / 2 + 1).into_iter().take(refusals);
        rig.world.inner.lock().servers.get_mut(&1).expect("there").fail_writes.extend(fails);
        file.write(100, pattern(2, 10)).await.expect("writes");
        assert_eq!(file.sync(false).await, outcome, "{refusals} refusals");
        let mut expected = pattern(1, 200_000).to_vec();
        if outcome.is_ok() {
            expected[100..110].copy_from_slice(&pattern(2, 10));
        }
        assert_same(&rig.on_disk(file.inode()), &expected);
        assert_eq!(rig.world.calls("report_broken"), 3, "those that have not helped, or the last of which has");
    }
}

/// W2: a new chunk is made anew elsewhere, however often; it cannot be damaged everywhere.
#[tokio::test(start_paused = true)]
async fn bytes_of_a_new_chunk_are_not_given_up() {
    let rig = Rig::new();
    let file = rig.create().await;
    rig.world.inner.lock().servers.get_mut(&1).expect("there").fail_writes.extend([Status::IoError; 9]);
    file.write(0, pattern(1, 200_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 200_000));
}
