//! Reads with trouble at the servers, and read-ahead (R1, P2).

use std::time::Duration;

use caribou_proto::chunk::v1::Status;
use caribou_proto::meta::v1::Caller;

use super::rig::{Rig, pattern, read_all};
use crate::{ClientConfig, Error};

/// A synced file of this length, and a second client that has nothing of it in memory.
async fn prepared(len: usize) -> (Rig, Rig, u64) {
    let writer = Rig::new();
    let file = writer.create().await;
    file.write(0, pattern(1, len)).await.expect("writes");
    file.sync(false).await.expect("syncs");
    let inode = file.inode();
    file.release().await;
    writer.until("the grant has ended", |rig| rig.live_grants() == 0).await;
    let files = Rig::client(&writer.world, &ClientConfig::default());
    let reader = Rig { world: writer.world.clone(), files };
    (writer, reader, inode)
}

fn each_server(rig: &Rig, change: impl Fn(&mut super::world::Server)) {
    rig.world.inner.lock().servers.values_mut().for_each(change);
}

#[tokio::test(start_paused = true)]
async fn a_corrupt_replica_is_never_returned() {
    let (_writer, reader, inode) = prepared(300_000).await;
    for bad in [1, 2] {
        each_server(&reader, |server| server.replicas.values_mut().for_each(|replica| replica.corrupt = false));
        {
            let mut inner = reader.world.inner.lock();
            inner
                .servers
                .get_mut(&bad)
                .expect("there")
                .replicas
                .values_mut()
                .for_each(|replica| replica.corrupt = true);
        }
        assert_eq!(read_all(&*reader.open(inode).await).await, pattern(1, 300_000));
    }
    each_server(&reader, |server| server.replicas.values_mut().for_each(|replica| replica.corrupt = true));
    let read = reader.open(inode).await.read(0, 1000).await;
    assert_eq!(read, Err(Error::Errno(libc::EIO)), "every replica is damaged");
}

// P2: new attributes and old bytes would stay together in the kernel's cache.
#[tokio::test(start_paused = true)]
async fn what_was_read_ahead_goes_when_the_file_shows_to_have_changed() {
    const BLOCK: u64 = 1 << 20;
    let (writer, reader, inode) = prepared(8 * BLOCK as usize).await;
    let file = reader.open(inode).await;
    for block in 0..2 {
        file.read(block * BLOCK, BLOCK as u32).await.expect("reads");
    }
    let theirs = writer.open(inode).await;
    theirs.write(2 * BLOCK, pattern(9, BLOCK as usize)).await.expect("writes");
    theirs.sync(false).await.expect("syncs");
    theirs.flush().await.expect("flushes");
    reader.files.getattr(&Caller::default(), inode).await.expect("has attributes");
    assert!(file.read(2 * BLOCK, BLOCK as u32).await.expect("reads") == pattern(9, BLOCK as usize));
}

#[tokio::test(start_paused = true)]
async fn one_damaged_and_one_silent_replica_is_not_eio() {
    let (_writer, reader, inode) = prepared(1000).await;
    reader.world.inner.lock().servers.get_mut(&1).expect("there").replicas.values_mut().for_each(|r| r.corrupt = true);
    reader.world.inner.lock().servers.get_mut(&2).expect("there").silent = true;
    let file = reader.open(inode).await;
    let read = tokio::spawn(async move { file.read(0, 1000).await });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert!(!read.is_finished(), "R1: waits");
    assert!(reader.world.calls("wait_chunk") > 5, "and the leader hears of it");
    reader.world.inner.lock().servers.get_mut(&2).expect("there").silent = false;
    assert_eq!(read.await.expect("ends").expect("reads"), pattern(1, 1000));
}

#[tokio::test(start_paused = true)]
async fn a_slow_replica_is_overtaken() {
    let (_writer, reader, inode) = prepared(1000).await;
    for slow in [1, 2] {
        each_server(&reader, |server| server.silent = false);
        reader.world.inner.lock().servers.get_mut(&slow).expect("there").silent = true;
        let start = tokio::time::Instant::now();
        assert_eq!(read_all(&*reader.open(inode).await).await, pattern(1, 1000));
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}

#[tokio::test(start_paused = true)]
async fn not_yet_asks_the_tail() {
    let (_writer, reader, inode) = prepared(1000).await;
    let tail = reader.world.inner.lock().files[&inode].chunks[&0].holders.last().expect("there").0;
    each_server(&reader, |server| server.reads = 0);
    for (id, server) in &mut reader.world.inner.lock().servers {
        if *id != tail {
            server.fail_reads.extend([Status::NotYet; 100]);
        }
    }
    assert_eq!(reader.open(inode).await.read(0, 1000).await.expect("reads"), pattern(1, 1000));
    assert_eq!(reader.world.inner.lock().servers[&tail].reads, 1);
}

#[tokio::test(start_paused = true)]
async fn failed_disks_are_waited_for_and_damage_is_not() {
    let (_writer, reader, inode) = prepared(1000).await;
    each_server(&reader, |server| server.fail_reads.extend([Status::DiskFailed; 40]));
    let file = reader.open(inode).await;
    let read = tokio::spawn(async move { file.read(0, 1000).await });
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(!read.is_finished(), "the servers may start again with the bytes whole");
    assert_eq!(read.await.expect("ends").expect("reads"), pattern(1, 1000));
    each_server(&reader, |server| server.fail_reads.extend([Status::IoError; 40]));
    let error = reader.open(inode).await.read(0, 1000).await.expect_err("no block is intact");
    assert_eq!(error.errno(), crate::errno::EIO);
}

#[tokio::test(start_paused = true)]
async fn an_old_place_is_asked_for_anew() {
    let (writer, reader, inode) = prepared(1000).await;
    let file = reader.open(inode).await;
    assert_eq!(file.read(0, 10).await.expect("reads"), pattern(1, 10));
    let again = writer.open(inode).await;
    again.write(0, pattern(2, 5)).await.expect("writes");
    again.flush().await.expect("flushes");
    writer.world.break_streams(1);
    again.write(5, pattern(3, 5)).await.expect("writes");
    again.sync(false).await.expect("syncs at the next version");
    assert_eq!(file.read(0, 10).await.expect("reads"), [pattern(2, 5), pattern(3, 5)].concat());
}

#[tokio::test(start_paused = true)]
async fn a_chunk_in_recovery_is_waited_for() {
    let (_writer, reader, inode) = prepared(1000).await;
    {
        let mut inner = reader.world.inner.lock();
        inner.hold_recovery = true;
        inner.files.get_mut(&inode).expect("there").chunks.get_mut(&0).expect("there").recovering = true;
    }
    let file = reader.open(inode).await;
    let read = tokio::spawn(async move { file.read(0, 1000).await });
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(!read.is_finished());
    reader.world.inner.lock().hold_recovery = false;
    assert_eq!(read.await.expect("ends").expect("reads"), pattern(1, 1000));
}

#[tokio::test(start_paused = true)]
async fn a_sequential_reader_finds_its_bytes_there() {
    let len = 20 << 20;
    let (_writer, reader, inode) = prepared(len).await;
    let file = reader.open(inode).await;
    each_server(&reader, |server| server.reads = 0);
    let mut bytes = Vec::new();
    while bytes.len() < len {
        bytes.extend_from_slice(&file.read(bytes.len() as u64, 128 << 10).await.expect("reads"));
    }
    assert_eq!(bytes, pattern(1, len));
    let reads: u64 = reader.world.inner.lock().servers.values().map(|server| server.reads).sum();
    assert!(reads < 30, "{reads} reads of 1 MiB instead of 160 small ones");
}

#[tokio::test(start_paused = true)]
async fn read_ahead_never_hides_a_write() {
    let (_writer, reader, inode) = prepared(8 << 20).await;
    let file = reader.open(inode).await;
    for n in 0..4_u64 {
        file.read(n * 4096, 4096).await.expect("reads");
    }
    let other = reader.open(inode).await;
    other.write(1 << 20, pattern(9, 4096)).await.expect("writes");
    other.sync(false).await.expect("syncs");
    other.release().await;
    reader.until("nothing is buffered", |rig| rig.buffered() == 0).await;
    assert_eq!(file.read(1 << 20, 4096).await.expect("reads"), pattern(9, 4096));
}

#[tokio::test(start_paused = true)]
async fn another_clients_growth_is_seen() {
    let (writer, reader, inode) = prepared(1000).await;
    let file = reader.open(inode).await;
    let again = writer.open(inode).await;
    again.write(1000, pattern(2, 500)).await.expect("writes");
    again.flush().await.expect("flushes");
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(read_all(&file).await, [pattern(1, 1000), pattern(2, 500)].concat());
}

/// What was read ahead for a handle that is closed asks nobody any more.
#[tokio::test(start_paused = true)]
async fn reading_ahead_ends_with_its_reader() {
    const BLOCK: u64 = 1 << 20;
    let (_writer, reader, inode) = prepared(16 * BLOCK as usize).await;
    let file = reader.open(inode).await;
    for block in 0..2 {
        file.read(block * BLOCK, BLOCK as u32).await.expect("reads");
    }
    each_server(&reader, |server| server.silent = true);
    let next = tokio::time::timeout(Duration::from_secs(10), file.read(6 * BLOCK, BLOCK as u32)).await;
    assert!(next.is_err(), "nobody answers");
    file.release().await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let asked = reader.world.calls("wait_chunk");
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(reader.world.calls("wait_chunk"), asked);
}
