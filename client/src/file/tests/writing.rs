//! The straight path: write, read back, flush, fsync, release, and what the buffer may hold.

use std::time::Duration;

use bytes::Bytes;
use caribou_proto::ids::CHUNK_BYTES;
use caribou_proto::meta::v1::{Caller, Create, SetAttr};

use super::rig::{Rig, assert_same, pattern, read_all};
use crate::{ClientConfig, Created};

#[tokio::test(start_paused = true)]
async fn a_small_file_is_one_grant_one_write_end_and_a_batched_end() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, Bytes::from_static(b"hello")).await.expect("writes");
    assert_eq!(&read_all(&file).await[..], b"hello", "before anything was sent");
    file.flush().await.expect("flushes");
    assert_eq!((rig.length(file.inode()), rig.world.calls("write_end"), rig.world.calls("take_grant")), (5, 1, 0));
    assert!(rig.buffered() > 0, "W5: kept until it is synced");
    let inode = file.inode();
    file.release().await;
    rig.until("the grant has ended", |rig| rig.live_grants() == 0).await;
    assert_eq!(rig.on_disk(inode), b"hello");
    assert_eq!((rig.buffered(), rig.world.calls("write_end"), rig.world.calls("end_grants")), (0, 1, 1));
    let again = rig.open(inode).await;
    assert_eq!(read_all(&again).await, b"hello", "from the servers");
}

#[tokio::test(start_paused = true)]
async fn the_ends_of_many_files_share_records() {
    let rig = Rig::new();
    for n in 0..100 {
        let file = rig.create().await;
        file.write(0, pattern(n, 1000)).await.expect("writes");
        file.flush().await.expect("flushes");
        file.release().await;
    }
    rig.until("all grants have ended", |rig| rig.live_grants() == 0).await;
    assert!(rig.world.calls("end_grants") < 60, "{} records for 100 grants", rig.world.calls("end_grants"));
    assert_eq!(rig.buffered(), 0);
}

#[tokio::test(start_paused = true)]
async fn writes_across_chunks_and_holes_read_back() {
    let rig = Rig::new();
    let file = rig.create().await;
    let edge = CHUNK_BYTES - 1000;
    let data = pattern(1, 3000);
    file.write(edge, data.clone()).await.expect("writes");
    file.write(100, pattern(2, 50)).await.expect("writes");
    for _ in 0..2 {
        assert_eq!(file.read(edge, 3000).await.expect("reads"), data);
        assert_eq!(file.read(100, 50).await.expect("reads"), pattern(2, 50));
        assert_eq!(file.read(5000, 100).await.expect("reads"), vec![0; 100], "a hole");
        assert_eq!(file.read(edge + 2990, 100).await.expect("reads").len(), 10, "short only at the end");
        file.sync(false).await.expect("syncs");
        assert_eq!(rig.buffered(), 0);
    }
    assert_eq!(rig.length(file.inode()), edge + 3000);
    assert_eq!(rig.on_disk(file.inode())[edge as usize..], data[..]);
}

#[tokio::test(start_paused = true)]
async fn an_overwrite_with_fsync_is_one_chain_trip() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(1, 8192)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    let (ends, syncs, fragments) = {
        let inner = rig.world.inner.lock();
        (inner.calls["write_end"], inner.syncs, inner.fragments)
    };
    file.write(4096, pattern(9, 4096)).await.expect("writes");
    file.sync(true).await.expect("syncs");
    {
        let inner = rig.world.inner.lock();
        assert_eq!(inner.calls["write_end"], ends, "W6: the length is committed already");
        assert_eq!(
            (inner.syncs, inner.fragments),
            (syncs + 1, fragments + 1),
            "W6: the flag rides on the last fragment"
        );
    }
    assert_eq!(rig.on_disk(file.inode())[4096..], pattern(9, 4096)[..]);
    file.flush().await.expect("flushes");
    assert_eq!(rig.world.calls("write_end"), ends + 1, "the time follows at close");
}

#[tokio::test(start_paused = true)]
async fn a_sequential_writer_sends_whole_fragments_before_it_is_asked() {
    let rig = Rig::new();
    let file = rig.create().await;
    for n in 0..1000_u64 {
        file.write(n * 4096, pattern(n as u8, 4096)).await.expect("writes");
    }
    rig.until("fragments were sent", |rig| rig.world.inner.lock().fragments == 3).await;
    file.flush().await.expect("flushes");
    assert_eq!(rig.world.inner.lock().fragments, 4);
    assert_eq!(rig.length(file.inode()), 4_096_000);
}

#[tokio::test(start_paused = true)]
async fn the_buffer_is_bounded_and_background_syncs_make_room() {
    let limit = 4 << 20;
    let rig = Rig::with(ClientConfig { write_buffer_bytes: limit, ..ClientConfig::default() });
    let file = rig.create().await;
    for n in 0..40_u64 {
        file.write(n << 20, pattern(n as u8, 1 << 20)).await.expect("writes");
        assert!(rig.buffered() <= limit);
    }
    file.sync(false).await.expect("syncs");
    assert_eq!(rig.on_disk(file.inode()).len(), 40 << 20);
    assert_eq!(file.read(39 << 20, 1 << 20).await.expect("reads"), pattern(39, 1 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_writer_that_never_pauses_is_synced_all_the_same() {
    let rig = Rig::new();
    let file = rig.create().await;
    for n in 0..200_u64 {
        file.write(n * 10, pattern(n as u8, 10)).await.expect("writes");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(rig.world.inner.lock().syncs >= 1);
    assert!(rig.length(file.inode()) >= 900);
}

#[tokio::test(start_paused = true)]
async fn attributes_show_what_only_this_client_knows() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(0, 77)).await.expect("writes");
    let attr = rig.files.getattr(&Caller::default(), file.inode()).await.expect("has attributes");
    assert_eq!((attr.size, attr.mtime_ns > 0), (77, true));
    assert_eq!(attr.ctime_ns, attr.mtime_ns);
    file.flush().await.expect("flushes");
    let attr = rig.files.getattr(&Caller::default(), file.inode()).await.expect("has attributes");
    assert_eq!(attr.size, 77);
    assert_eq!(rig.world.inner.lock().files[&file.inode()].mtime_ns, attr.mtime_ns);
}

#[tokio::test(start_paused = true)]
async fn a_write_shows_its_own_time_even_before_one_that_was_set() {
    let future = 4_000_000_000_000_000_000;
    let rig = Rig::new();
    let file = rig.create().await;
    let set = SetAttr { inode: file.inode(), mtime_ns: Some(future), ..SetAttr::default() };
    let attr = rig.files.setattr(&Caller::default(), set).await.expect("sets the time");
    // Without a write the time that was set says nothing about ctime.
    assert_eq!((attr.mtime_ns, attr.ctime_ns), (future, 0));
    file.write(0, pattern(0, 77)).await.expect("writes");
    let attr = rig.files.getattr(&Caller::default(), file.inode()).await.expect("has attributes");
    assert!(attr.mtime_ns < future && attr.ctime_ns == attr.mtime_ns, "{attr:?}");
    let written = attr.mtime_ns;
    file.flush().await.expect("flushes");
    let attr = rig.files.getattr(&Caller::default(), file.inode()).await.expect("has attributes");
    assert_eq!((attr.mtime_ns, attr.ctime_ns), (written, written));
}

#[tokio::test(start_paused = true)]
async fn a_file_that_is_only_created_leaves_nothing_behind() {
    let rig = Rig::new();
    let create = Create { access: 2, ..Create::default() };
    let Created { file, is_new, .. } = rig.files.create(&Caller::default(), create).await.expect("creates");
    assert!(is_new);
    file.flush().await.expect("flushes");
    file.release().await;
    rig.until("the unused grant has ended", |rig| rig.live_grants() == 0).await;
    assert_eq!(rig.world.calls("write_end"), 0);
}

#[tokio::test(start_paused = true)]
async fn shutdown_settles_everything() {
    let rig = Rig::new();
    let file = rig.create().await;
    file.write(0, pattern(3, 5_000_000)).await.expect("writes");
    rig.files.sync_all().await.expect("syncs");
    assert_same(&rig.on_disk(file.inode()), &pattern(3, 5_000_000));
    rig.files.shutdown().await;
    assert_eq!((rig.live_grants(), rig.buffered()), (0, 0));
}
