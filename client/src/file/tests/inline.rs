//! Small files in the metadata (I1–I5): written without a grant, read without a chunk server, moved into a chunk when they grow.

use std::time::Duration;

use caribou_proto::chunk::v1::Status;
use caribou_proto::meta::v1::{Caller, SetAttr};

use super::rig::{Rig, assert_same, pattern, read_all};
use crate::ClientConfig;
use crate::file::OpenFile;

const LIMIT: u32 = 16 << 10;
/// As long as a client may take for true what it knows of another's inline data.
const LIFE: Duration = Duration::from_secs(1);

fn rig() -> Rig {
    Rig::with_inline(ClientConfig::default(), LIMIT)
}

fn inline(rig: &Rig, file: &OpenFile) -> usize {
    rig.world.inner.lock().files[&file.inode()].inline.len()
}

fn counts(rig: &Rig) -> [u64; 3] {
    ["write_end", "take_grant", "end_grants"].map(|kind| rig.world.calls(kind))
}

async fn set_size(rig: &Rig, inode: u64, size: u64) {
    let set = SetAttr { inode, size: Some(size), ..SetAttr::default() };
    rig.files.setattr(&Caller::default(), set).await.expect("sets the size");
}

#[tokio::test(start_paused = true)]
async fn i2_a_small_file_is_one_record_and_touches_no_chunk_server() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.write(5000, pattern(2, 100)).await.expect("writes");
    assert_eq!(read_all(&file).await.len(), 5100, "before anything was sent");
    file.flush().await.expect("flushes");
    file.sync(false).await.expect("syncs");
    assert_eq!((counts(&rig), rig.buffered(), rig.length(file.inode())), ([1, 0, 0], 0, 5100));
    assert_eq!(rig.world.inner.lock().fragments, 0);
    let other = Rig::client(&rig.world, &ClientConfig::default());
    let (_, again) = other.open(&Caller::default(), file.inode(), 4, false).await.expect("opens");
    assert_same(&read_all(&again).await, &[pattern(1, 5000), pattern(2, 100)].concat());
    assert_eq!(rig.world.calls("locate"), 0, "I4: they came with the open");
}

#[tokio::test(start_paused = true)]
async fn i2_later_writes_lie_over_earlier_ones_and_holes_are_zeros() {
    let rig = rig();
    let file = rig.create().await;
    file.write(1000, pattern(1, 1000)).await.expect("writes");
    file.flush().await.expect("flushes");
    file.write(1500, pattern(2, 1000)).await.expect("writes");
    file.write(4000, pattern(3, 10)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    let mut expected = vec![0; 4010];
    expected[1000..2000].copy_from_slice(&pattern(1, 1000));
    expected[1500..2500].copy_from_slice(&pattern(2, 1000));
    expected[4000..].copy_from_slice(&pattern(3, 10));
    assert_same(&read_all(&file).await, &expected);
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!(counts(&rig), [2, 0, 0]);
}

#[tokio::test(start_paused = true)]
async fn i2_what_is_written_while_a_record_is_under_way_goes_with_the_next() {
    let rig = rig();
    rig.world.inner.lock().write_end_delay = Duration::from_millis(100);
    let file = rig.create().await;
    file.write(0, pattern(1, 3000)).await.expect("writes");
    let first = async { file.sync(false).await.expect("syncs") };
    let second = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        file.write(1000, pattern(2, 1000)).await.expect("writes");
        assert_same(
            &read_all(&file).await,
            &[pattern(1, 3000)[..1000].to_vec(), pattern(2, 1000).to_vec(), pattern(1, 3000)[2000..].to_vec()].concat(),
        );
        file.sync(false).await.expect("syncs");
    };
    futures::join!(first, second);
    let mut expected = pattern(1, 3000).to_vec();
    expected[1000..2000].copy_from_slice(&pattern(2, 1000));
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!((counts(&rig), rig.buffered()), ([2, 0, 0], 0));
}

#[tokio::test(start_paused = true)]
async fn i3_a_file_that_grows_moves_into_a_chunk_with_what_it_had() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 10_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    assert_eq!(inline(&rig, &file), 10_000);
    file.write(9_000, pattern(2, 20_000)).await.expect("writes");
    let mut expected = pattern(1, 9_000).to_vec();
    expected.extend_from_slice(&pattern(2, 20_000));
    assert_same(&read_all(&file).await, &expected);
    file.sync(false).await.expect("syncs");
    assert_eq!((inline(&rig, &file), rig.world.calls("take_grant")), (0, 1));
    assert_same(&rig.on_disk(file.inode()), &expected);
    let other = Rig::client(&rig.world, &ClientConfig::default());
    let (_, again) = other.open(&Caller::default(), file.inode(), 4, false).await.expect("opens");
    assert_same(&read_all(&again).await, &expected);
}

#[tokio::test(start_paused = true)]
async fn i3_a_move_that_breaks_starts_anew_and_loses_nothing() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 10_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    for server in 1..=2 {
        rig.world.inner.lock().servers.get_mut(&server).expect("a server").fail_writes.push_back(Status::IoError);
    }
    file.write(12_000, pattern(2, 20_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    let mut expected = pattern(1, 10_000).to_vec();
    expected.resize(12_000, 0);
    expected.extend_from_slice(&pattern(2, 20_000));
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert!(rig.world.calls("report_broken") > 0, "W2: the first chunk went to garbage");
}

#[tokio::test(start_paused = true)]
async fn i4_what_is_about_to_move_is_read_all_the_same() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 10_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    rig.world.inner.lock().hold_acks = true;
    file.write(12_000, pattern(2, 20_000)).await.expect("writes");
    let flush = async { file.flush().await.expect("flushes") };
    let read = async {
        rig.until("it is on its way", |rig| rig.live_grants() == 1).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_same(&file.read(0, 4096).await.expect("reads"), &pattern(1, 10_000)[..4096]);
        rig.world.break_streams(1);
        for _ in 0..20 {
            assert_same(&file.read(0, 4096).await.expect("reads"), &pattern(1, 10_000)[..4096]);
            tokio::time::sleep(Duration::from_micros(300)).await;
        }
        rig.world.inner.lock().hold_acks = false;
        rig.world.break_streams(1);
    };
    futures::join!(flush, read);
    assert_same(&file.read(0, 10_000).await.expect("reads"), &pattern(1, 10_000));
    assert_eq!(inline(&rig, &file), 0);
}

#[tokio::test(start_paused = true)]
async fn i4_a_new_length_comes_with_its_bytes() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 100)).await.expect("writes");
    file.flush().await.expect("flushes");
    let other = Rig::client(&rig.world, &ClientConfig::default());
    let (_, reader) = other.open(&Caller::default(), file.inode(), 4, false).await.expect("opens");
    assert_same(&read_all(&reader).await, &pattern(1, 100));
    file.write(100, pattern(2, 100)).await.expect("writes");
    file.flush().await.expect("flushes");
    let attr = other.getattr(&Caller::default(), file.inode()).await.expect("looks");
    assert_eq!(attr.size, 200);
    assert_same(&read_all(&reader).await, &[pattern(1, 100), pattern(2, 100)].concat());
}

#[tokio::test(start_paused = true)]
async fn i2_errors_that_say_what_happened_are_tried_again_and_others_are_told() {
    let rig = rig();
    let file = rig.create().await;
    rig.world.inner.lock().errors.extend([libc::EAGAIN, libc::EAGAIN]);
    file.write(0, pattern(1, 500)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 500));
    // S4: it may have been carried out, and others may have written since.
    rig.world.inner.lock().errors.push_back(libc::EIO);
    file.write(0, pattern(2, 500)).await.expect("writes");
    file.sync(false).await.expect_err("nobody knows");
    assert_eq!(rig.buffered(), 0);
    file.write(0, pattern(3, 500)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &pattern(3, 500));
}

#[tokio::test(start_paused = true)]
async fn i2_what_passes_the_limit_while_a_record_is_under_way_moves_after_it() {
    let rig = rig();
    rig.world.inner.lock().write_end_delay = Duration::from_millis(100);
    let file = rig.create().await;
    file.write(0, pattern(1, 10_000)).await.expect("writes");
    let first = async { file.sync(false).await.expect("syncs") };
    let second = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        file.write(9_000, pattern(2, 30_000)).await.expect("writes");
        file.sync(false).await.expect("syncs");
    };
    futures::join!(first, second);
    let expected = [pattern(1, 10_000)[..9_000].to_vec(), pattern(2, 30_000).to_vec()].concat();
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!(inline(&rig, &file), 0);
}

#[tokio::test(start_paused = true)]
async fn i2_a_file_with_a_first_chunk_takes_no_inline_data() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 20_000)).await.expect("writes");
    file.flush().await.expect("flushes");
    set_size(&rig, file.inode(), 100).await;
    file.release().await;
    // The cut has ended one; it is taken once more.
    rig.until("the grant has ended", |rig| rig.live_grants() == 0 && rig.buffered() == 0).await;
    // It is short, and this client does not know that it has a chunk.
    let other = Rig::client(&rig.world, &ClientConfig::default());
    let (_, again) = other.open(&Caller::default(), file.inode(), 6, false).await.expect("opens");
    again.write(100, pattern(2, 100)).await.expect("writes");
    again.sync(false).await.expect("syncs");
    let expected = [pattern(1, 100), pattern(2, 100)].concat();
    assert_same(&rig.on_disk(file.inode()), &expected);
    assert_eq!(inline(&rig, &file), 0);
    // It asks once.
    let before = rig.world.calls("write_end");
    again.write(200, pattern(3, 100)).await.expect("writes");
    again.flush().await.expect("flushes");
    assert_eq!(rig.world.calls("write_end"), before + 1);
}

#[tokio::test(start_paused = true)]
async fn i2_two_clients_that_write_different_parts_lose_nothing() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 1000)).await.expect("writes");
    file.flush().await.expect("flushes");
    let other = Rig::client(&rig.world, &ClientConfig::default());
    let (_, theirs) = other.open(&Caller::default(), file.inode(), 6, false).await.expect("opens");
    let mut expected = pattern(1, 1000).to_vec();
    for round in 0..3 {
        theirs.write(100 * round, pattern(2, 50)).await.expect("writes");
        theirs.sync(false).await.expect("syncs");
        file.write(100 * round + 50, pattern(3, 50)).await.expect("writes");
        file.sync(false).await.expect("syncs");
        let at = 100 * round as usize;
        expected[at..at + 50].copy_from_slice(&pattern(2, 50));
        expected[at + 50..at + 100].copy_from_slice(&pattern(3, 50));
    }
    assert_same(&rig.on_disk(file.inode()), &expected);
    // Each of them knew an older generation, but for the first one of the other client, which had just opened the file.
    assert_eq!((counts(&rig), inline(&rig, &file)), ([12, 0, 0], 1000));
}

#[tokio::test(start_paused = true)]
async fn p5_who_is_always_too_late_takes_a_grant() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 1000)).await.expect("writes");
    rig.world.inner.lock().overtake = 2;
    file.sync(false).await.expect("syncs");
    assert_eq!((counts(&rig), inline(&rig, &file)), ([3, 0, 0], 1000));
    file.write(500, pattern(2, 1000)).await.expect("writes");
    rig.world.inner.lock().overtake = u32::MAX;
    file.sync(false).await.expect("syncs");
    assert_eq!((rig.world.calls("take_grant"), inline(&rig, &file)), (1, 0), "the data have moved into a chunk");
    assert_same(&rig.on_disk(file.inode()), &[&pattern(1, 1000)[..500], &pattern(2, 1000)].concat());
}

#[tokio::test(start_paused = true)]
async fn i5_a_cut_cuts_inline_data_and_a_file_cut_to_nothing_takes_them_again() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    file.flush().await.expect("flushes");
    set_size(&rig, file.inode(), 3000).await;
    set_size(&rig, file.inode(), 4000).await;
    let mut expected = pattern(1, 3000).to_vec();
    expected.resize(4000, 0);
    assert_same(&read_all(&file).await, &expected);
    file.write(0, pattern(2, 30_000)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_eq!(inline(&rig, &file), 0);
    set_size(&rig, file.inode(), 0).await;
    file.write(0, pattern(3, 200)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    assert_eq!(inline(&rig, &file), 200);
    assert_same(&rig.on_disk(file.inode()), &pattern(3, 200));
}

#[tokio::test(start_paused = true)]
async fn i4_another_client_sees_them_after_a_while_and_at_once_when_it_opens() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 500)).await.expect("writes");
    file.flush().await.expect("flushes");
    let other = Rig::client(&rig.world, &ClientConfig::default());
    let (_, reader) = other.open(&Caller::default(), file.inode(), 4, false).await.expect("opens");
    assert_same(&read_all(&reader).await, &pattern(1, 500));
    file.write(0, pattern(2, 500)).await.expect("writes");
    file.flush().await.expect("flushes");
    let (_, again) = other.open(&Caller::default(), file.inode(), 4, false).await.expect("opens");
    assert_same(&read_all(&again).await, &pattern(2, 500));
    file.write(0, pattern(3, 500)).await.expect("writes");
    file.flush().await.expect("flushes");
    tokio::time::sleep(LIFE).await;
    assert_same(&read_all(&reader).await, &pattern(3, 500));
}

#[tokio::test(start_paused = true)]
async fn i2_times_and_modes_take_the_bytes_along() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    let times = SetAttr { inode: file.inode(), mtime_ns: Some(77), ..SetAttr::default() };
    let attr = rig.files.setattr(&Caller::default(), times).await.expect("sets the time");
    assert_eq!((attr.size, attr.mtime_ns, rig.buffered()), (5000, 77, 0));
    let mode = SetAttr { inode: file.inode(), mode: Some(0o600), ..SetAttr::default() };
    rig.files.setattr(&Caller::default(), mode).await.expect("sets the mode");
    file.sync(false).await.expect("syncs");
    file.flush().await.expect("flushes");
    assert_eq!(rig.world.inner.lock().files[&file.inode()].mtime_ns, 77);
    assert_eq!((counts(&rig), rig.world.calls("setattr")), ([1, 0, 0], 2), "nothing was left for the close");
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 5000));
}

#[tokio::test(start_paused = true)]
async fn i2_a_change_that_fails_or_is_given_up_leaves_the_bytes_to_the_close() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 5000)).await.expect("writes");
    rig.world.inner.lock().errors.push_back(libc::EPERM);
    let owner = SetAttr { inode: file.inode(), uid: Some(1), ..SetAttr::default() };
    rig.files.setattr(&Caller::default(), owner).await.expect_err("it is not allowed");
    assert!(rig.buffered() > 0);
    // The caller goes away; the bytes are not sent a second time before it is known what became of them.
    rig.world.inner.lock().write_end_delay = Duration::from_secs(1);
    let (me, mode) = (Caller::default(), SetAttr { mode: Some(0o600), uid: None, ..owner });
    tokio::time::timeout(Duration::from_millis(1), rig.files.setattr(&me, mode)).await.expect_err("it is given up");
    file.flush().await.expect("flushes");
    assert_eq!(counts(&rig), [1, 0, 0]);
    assert_eq!((rig.buffered(), rig.length(file.inode())), (0, 5000));
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 5000));
}

#[tokio::test(start_paused = true)]
async fn w5_unclosed_small_files_are_synced_in_the_background() {
    let rig = rig();
    let file = rig.create().await;
    file.write(0, pattern(1, 500)).await.expect("writes");
    rig.until("it is committed", |rig| rig.buffered() == 0).await;
    assert_same(&rig.on_disk(file.inode()), &pattern(1, 500));
    assert_eq!(counts(&rig), [1, 0, 0]);
}
