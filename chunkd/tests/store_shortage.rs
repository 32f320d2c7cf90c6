//! What the store does when something is short: file descriptors, room on a disk, the time that one job may take.

mod store_support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caribou_chunkd::store::disk::{Disk, OpenMode, Space};
use caribou_chunkd::store::memory::{Hook, MemoryDisk};
use caribou_chunkd::store::{ChunkStore, Error, Prepare, Write};
use parking_lot::Mutex;
use store_support::*;

/// Answers the next call of one kind as a system does that has no file descriptor left (EMFILE).
fn no_descriptor(call: &'static str) -> Arc<Hook> {
    let first = AtomicBool::new(true);
    Arc::new(move |made: &str| -> io::Result<()> {
        let now = made == call && first.swap(false, Ordering::SeqCst);
        if now { Err(io::Error::from_raw_os_error(24)) } else { Ok(()) }
    })
}

// P5: a server that has too much open is not one whose disk has failed.
#[tokio::test]
async fn a_lack_of_descriptors_is_neither_a_failed_disk_nor_a_lost_replica() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    store.close().await;
    drop(store);
    let store = open(&disk).await;
    disk.set_hook(Some(no_descriptor("open")));
    assert!(matches!(read(&store, 1, 1, 0, 1).await, Err(Error::NotNow { .. })));
    assert_eq!(read(&store, 1, 1, 0, 1).await.unwrap(), "x");
    disk.set_hook(Some(no_descriptor("open")));
    assert!(matches!(write(&store, 2, 0, b"y").await, Err(Error::NotNow { .. })));
    write(&store, 2, 0, b"y").await.unwrap();
    // A new name is synced through its folder, which has to be opened too.
    disk.set_hook(Some(no_descriptor("sync_dir")));
    assert!(matches!(store.sync(id(2), version(1)).await, Err(Error::NotNow { .. })));
    store.sync(id(2), version(1)).await.unwrap();
    disk.set_hook(Some(no_descriptor("open")));
    assert!(matches!(store.fence(1, 5).await, Err(Error::NotNow { .. })));
    store.fence(1, 5).await.unwrap();
    assert_eq!(store.disks()[0].failed, None);
    assert!(store.lost_chunks().is_empty() && store.damaged_chunks().is_empty());
    let (store, _disk) = power_cut(store, &disk, 1).await;
    assert_eq!(store.fenced(), (1, 5));
    prepare(&store, 2, 2).await.unwrap();
    store.complete(id(2), version(2)).await.unwrap();
    assert_eq!(read(&store, 2, 2, 0, 1).await.unwrap(), "y");
}

fn full(call: &str) -> io::Result<()> {
    if call == "write" { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
}

// F2: a start believes the highest fence of all folders, so a full disk does not keep its server from the next leader.
#[tokio::test]
async fn one_disk_with_room_is_enough_for_the_fence() {
    let disks = [memory(), memory()];
    let store = try_open(vec![disks[0].clone(), disks[1].clone()], 1).await.unwrap();
    store.adopt(CLUSTER, SERVER).await.unwrap();
    disks[0].set_hook(Some(Arc::new(full)));
    store.fence(1, 8).await.unwrap();
    assert!(matches!(store.fence(1, 7).await, Err(Error::OldTerm { .. })));
    disks[1].set_hook(Some(Arc::new(full)));
    assert!(matches!(store.fence(1, 9).await, Err(Error::NoSpace { .. })), "nowhere durable");
    assert!(store.disks().iter().all(|disk| disk.failed.is_none()));
    let after = disks.iter().map(|disk| Arc::new(disk.power_cut(3)) as Arc<dyn Disk>).collect();
    let store = try_open(after, 1).await.unwrap();
    assert_eq!(store.fenced(), (1, 8));
}

/// What new blocks leave to the server's own records.
const RESERVE: usize = 32 << 20;

/// The file system has so much left, and the store has looked.
async fn leave_free(store: &ChunkStore, disk: &MemoryDisk, free_bytes: usize) {
    disk.set_space(Space { total_bytes: 1 << 30, free_bytes: free_bytes as u64 });
    store.tick(1).await;
}

// R4, F2: a disk that clients have filled can still be emptied, and its server still follows the next leader.
#[tokio::test]
async fn clients_leave_the_last_of_a_disk_to_its_server() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, &pattern(1, BLOCK)).await.unwrap();
    write(&store, 2, 0, b"x").await.unwrap();
    leave_free(&store, &disk, RESERVE - 1).await;
    assert!(matches!(write(&store, 1, BLOCK, b"new").await, Err(Error::NoSpace { .. })));
    assert!(matches!(write(&store, 1, BLOCK - 1, b"in part").await, Err(Error::NoSpace { .. })));
    // Without effect: nothing of it is there, and what needs no space goes on.
    write(&store, 1, 5, b"over").await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    let mut expected = pattern(1, BLOCK);
    expected[5..9].copy_from_slice(b"over");
    expected.resize(2 * BLOCK, 0);
    assert_eq!(read(&store, 1, 1, 0, 2 * BLOCK).await.unwrap(), expected);
    store.fence(1, 8).await.unwrap();
    store.delete(id(2), version(1), 5).await.unwrap();
    assert_eq!(store.purge_quarantine(5, Duration::ZERO).await.files, 1);
    leave_free(&store, &disk, RESERVE + BLOCK).await;
    write(&store, 1, BLOCK, b"new").await.unwrap();
    let (store, _disk) = power_cut(store, &disk, 1).await;
    assert_eq!((store.fenced(), store.replica(id(2))), ((1, 8), None));
}

// A writer that is faster than the housekeeping does not come into the reserve.
#[tokio::test]
async fn new_blocks_count_from_one_look_at_the_disk_to_the_next() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    write(&store, 2, 0, b"x").await.unwrap();
    leave_free(&store, &disk, RESERVE + 2 * BLOCK).await;
    assert!(matches!(write(&store, 1, BLOCK, &pattern(1, 3 * BLOCK)).await, Err(Error::NoSpace { .. })));
    // What was refused does not count, and a block counts once.
    write(&store, 1, BLOCK, b"x").await.unwrap();
    write(&store, 1, BLOCK + 5, &pattern(2, BLOCK - 5)).await.unwrap();
    write(&store, 2, BLOCK, b"x").await.unwrap();
    for chunk in [1, 2] {
        assert!(matches!(write(&store, chunk, 2 * BLOCK, b"x").await, Err(Error::NoSpace { .. })), "chunk {chunk}");
        write(&store, chunk, BLOCK, b"over").await.unwrap();
    }
    store.tick(2).await;
    write(&store, 1, 2 * BLOCK, b"x").await.unwrap();
}

// V1, P5: else the chunk would be out of reach as long as the disk is full.
#[tokio::test]
async fn a_recovery_may_use_what_no_write_may() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, &pattern(1, BLOCK)).await.unwrap();
    write(&store, 2, 0, b"x").await.unwrap();
    let join = Prepare { chunk: id(9), version: version(3), join: true, old_grant: grant(1) };
    assert!(!store.prepare(join).await.unwrap().found);
    leave_free(&store, &disk, RESERVE + BLOCK).await;
    let block = |seed| Some(Bytes::from(pattern(seed, BLOCK)));
    assert!(prepare(&store, 1, 2).await.unwrap().clean);
    for (number, seed) in [(1, 2), (2, 3)] {
        store.install_block(id(1), version(2), number, block(seed)).await.unwrap();
    }
    assert!(matches!(write(&store, 2, BLOCK, b"x").await, Err(Error::NoSpace { .. })), "they count");
    store.cut(id(1), version(2), 2 * BLOCK as u32 + 10).await.unwrap();
    store.complete(id(1), version(2)).await.unwrap();
    assert_eq!(read(&store, 1, 2, BLOCK, BLOCK).await.unwrap(), pattern(2, BLOCK));
    // V6: a copy that is only being made can be made elsewhere.
    let copied = store.install_block(id(9), version(3), 0, block(4)).await;
    assert!(matches!(copied, Err(Error::NoSpace { .. })));
    store.install_block(id(9), version(3), 1, None).await.unwrap();
    leave_free(&store, &disk, RESERVE + BLOCK).await;
    store.install_block(id(9), version(3), 0, block(4)).await.unwrap();
    store.complete(id(9), version(3)).await.unwrap();
    assert_eq!(read(&store, 9, 3, 0, BLOCK).await.unwrap(), pattern(4, BLOCK));
}

// V6, P5: a writer who finds no room here goes on with the other holders; where they are too few, what is here can be read.
#[tokio::test]
async fn a_holder_that_refused_a_write_is_left_out_of_one_recovery() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    leave_free(&store, &disk, RESERVE - 1).await;
    assert!(matches!(write(&store, 1, BLOCK, b"new").await, Err(Error::NoSpace { .. })));
    assert!(matches!(prepare(&store, 1, 2).await, Err(Error::NoSpace { .. })));
    // V1: a leader that goes on without it may rely on this.
    let (store, disk) = power_cut(store, &disk, 1).await;
    let fenced = store.replica(id(1)).unwrap();
    assert!(!fenced.complete && fenced.version == version(2), "{fenced:?}");
    prepare(&store, 1, 2).await.unwrap();
    store.complete(id(1), version(2)).await.unwrap();
    leave_free(&store, &disk, RESERVE - 1).await;
    let over = |data: &[u8]| Write { version: version(2), grant: grant(2), ..fragment(1, 0, data) };
    store.write(over(b"y")).await.unwrap();
    let refused = store.write(Write { offset: BLOCK as u32, ..over(b"new") }).await;
    assert!(matches!(refused, Err(Error::NoSpace { .. })));
    assert!(matches!(prepare(&store, 1, 3).await, Err(Error::NoSpace { .. })));
    assert_eq!(prepare(&store, 1, 3).await.unwrap().had_version, version(2), "once");
    store.complete(id(1), version(3)).await.unwrap();
    assert_eq!(read(&store, 1, 3, 0, 1).await.unwrap(), "y");
}

// R4: a slow disk with a big quarantine is not one that hangs.
#[tokio::test(start_paused = true)]
async fn a_big_quarantine_is_purged_by_many_jobs() {
    // Files that each job has unlinked.
    let jobs: Arc<Mutex<Vec<u64>>> = Arc::default();
    let begun = jobs.clone();
    let job_time = move || {
        begun.lock().push(0);
        Duration::from_millis(5)
    };
    let disk = Arc::new(MemoryDisk::new("memory").paced(Arc::new(job_time)));
    let store = open(&disk).await;
    for number in 0..1000 {
        let name = format!("quarantine/deleted/{:013}-{number:016x}-v1.chunk", number % 2 * 1000);
        disk.open(&name, OpenMode::CreateNew).unwrap();
    }
    let at_work = jobs.clone();
    disk.set_hook(Some(Arc::new(move |call: &str| -> io::Result<()> {
        if call == "unlink" {
            *at_work.lock().last_mut().expect("a job unlinks") += 1;
        }
        Ok(())
    })));
    let purged = store.purge_quarantine(1500, Duration::from_secs(1)).await;
    assert_eq!((purged.files, purged.kept), (500, 500));
    let purged = store.purge_quarantine(2000, Duration::from_secs(1)).await;
    assert_eq!((purged.files, purged.kept), (500, 0));
    assert!(disk.list("quarantine/deleted").unwrap().is_empty());
    let jobs = jobs.lock();
    assert_eq!(jobs.iter().sum::<u64>(), 1000);
    assert!(jobs.iter().all(|files| *files <= 64), "{jobs:?}");
}
