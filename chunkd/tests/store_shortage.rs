//! What the store does when something is short: file descriptors, room on a disk, the time that one job may take.

mod store_support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caribou_chunkd::store::Error;
use caribou_chunkd::store::disk::{Disk, OpenMode};
use caribou_chunkd::store::memory::{Hook, MemoryDisk};
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
