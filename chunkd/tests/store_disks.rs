//! Folders, starts and failing disks: F1, F2, F3, W6, R4.

mod store_support;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use caribou_chunkd::store::disk::{Disk, OpenMode, Space};
use caribou_chunkd::store::file::FileDisk;
use caribou_chunkd::store::memory::MemoryDisk;
use caribou_chunkd::store::{ChunkStore, ClusterIdentity, Error, OpenError, Prepare};
use caribou_proto::ids::{ChunkVersion, Incarnation, ServerId};
use store_support::*;

// F3
#[tokio::test]
async fn every_start_has_a_higher_incarnation() {
    let (first, second) = (memory(), memory());
    let store = try_open(vec![first.clone(), second.clone()], 1).await.unwrap();
    assert_eq!(store.incarnation(), Incarnation(1));
    assert!(!store.unclean());
    store.close().await;
    drop(store);
    let store = try_open(vec![second.clone()], 1).await.unwrap();
    assert_eq!(store.incarnation(), Incarnation(2));
    assert!(!store.unclean());
    drop(store);
    // The first folder is behind: the highest of all counts.
    let store = try_open(vec![first, second], 1).await.unwrap();
    assert_eq!(store.incarnation(), Incarnation(3));
    assert!(store.unclean());
}

// F3: folders put back by one start would else come to the same incarnation a second time.
#[tokio::test]
async fn folders_put_back_do_not_repeat_an_incarnation() {
    let disk = memory();
    let incarnation = |disk, now| async move { open_at(vec![disk], 1, now).await.unwrap().incarnation() };
    assert_eq!(incarnation(disk.clone(), 5000).await, Incarnation(5000));
    let (went_on, put_back) = (Arc::new(disk.restart()), Arc::new(disk.restart()));
    assert_eq!(incarnation(went_on.clone(), 6000).await, Incarnation(6000));
    assert_eq!(incarnation(put_back, 6001).await, Incarnation(6001));
    // A clock that goes back is no reason to.
    assert_eq!(incarnation(went_on, 10).await, Incarnation(6001));
}

// F1
#[tokio::test]
async fn foreign_folders_are_refused_and_left_alone() {
    let (ours, theirs) = (memory(), memory());
    drop(try_open(vec![ours.clone()], 1).await.unwrap());
    drop(try_open(vec![theirs.clone()], 2).await.unwrap());
    let error = try_open(vec![ours.clone(), theirs.clone()], 3).await.err().unwrap();
    assert!(matches!(error, OpenError::OtherServer { .. }), "{error}");
    let used = memory();
    used.open("thesis.txt", OpenMode::CreateNew).unwrap();
    let error = try_open(vec![used.clone()], 1).await.err().unwrap();
    assert!(matches!(error, OpenError::NotOurs { .. }), "{error}");
    assert_eq!(used.list("").unwrap(), ["thesis.txt"], "nothing is changed");
    assert!(matches!(try_open(vec![], 1).await, Err(OpenError::NoFolder)));
    // Refusals used up no incarnation.
    assert_eq!(try_open(vec![ours], 1).await.unwrap().incarnation(), Incarnation(2));
}

#[tokio::test]
async fn a_folder_is_used_once() {
    let disk = memory();
    let store = try_open(vec![disk.clone()], 1).await.unwrap();
    assert!(matches!(try_open(vec![disk.clone()], 1).await, Err(OpenError::Locked { .. })));
    drop(store);
    try_open(vec![disk], 1).await.unwrap();
}

// F1
#[tokio::test]
async fn a_server_belongs_to_one_cluster() {
    let disk = memory();
    let store = try_open(vec![disk.clone()], 1).await.unwrap();
    assert!(matches!(write(&store, 1, 0, b"x").await, Err(Error::Invalid(_))), "not registered yet");
    store.adopt(CLUSTER, SERVER).await.unwrap();
    let foreign = |cluster, server| store.adopt(cluster, server);
    for (cluster, server) in [
        (ClusterIdentity { uuid: [1; 16], ..CLUSTER }, SERVER),
        (ClusterIdentity { nonce: 1, ..CLUSTER }, SERVER),
        (ClusterIdentity { generation: 0, ..CLUSTER }, SERVER),
        (CLUSTER, ServerId(9)),
    ] {
        assert!(matches!(foreign(cluster, server).await, Err(Error::ForeignCluster { .. })));
    }
    let restored = ClusterIdentity { generation: 2, nonce: 5, ..CLUSTER };
    store.adopt(restored, SERVER).await.unwrap();
    drop(store);
    let store = try_open(vec![Arc::new(disk.power_cut(5))], 1).await.unwrap();
    assert_eq!((store.cluster(), store.server_id()), (Some(restored), Some(SERVER)));
    assert_eq!(store.server_uuid()[0], 1);
}

// F2
#[tokio::test]
async fn the_fence_is_durable_before_it_is_obeyed() {
    let disk = memory();
    let store = open(&disk).await;
    store.fence(1, 7).await.unwrap();
    let before = disk.syncs();
    store.fence(1, 7).await.unwrap();
    assert_eq!(disk.syncs(), before);
    let (store, disk) = power_cut(store, &disk, 3).await;
    assert_eq!(store.fenced(), (1, 7));
    assert!(matches!(store.fence(1, 6).await, Err(Error::OldTerm { .. })));
    store.fence(2, 1).await.unwrap();
    assert!(matches!(store.fence(1, 9).await, Err(Error::OldTerm { .. })));
    let (store, _disk) = power_cut(store, &disk, 4).await;
    assert_eq!(store.fenced(), (2, 1));
}

// W6
#[tokio::test]
async fn a_failed_fsync_is_final() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    let fail = Arc::new(AtomicBool::new(true));
    let hook = fail.clone();
    disk.set_hook(Some(Arc::new(move |call| {
        if call == "sync" && hook.load(Ordering::SeqCst) {
            Err(io::Error::from(io::ErrorKind::StorageFull))
        } else {
            Ok(())
        }
    })));
    assert!(matches!(store.sync(id(1), version(1)).await, Err(Error::DiskFailed { .. })));
    fail.store(false, Ordering::SeqCst);
    let syncs = disk.syncs();
    assert!(matches!(store.sync(id(1), version(1)).await, Err(Error::DiskFailed { .. })), "never retried");
    assert!(matches!(read(&store, 1, 1, 0, 1).await, Err(Error::DiskFailed { .. })));
    store.close().await;
    assert_eq!(disk.syncs(), syncs);
    assert!(store.disks()[0].failed.is_some());
    // No mark of a clean stop: the chunk is dirty afterwards.
    let (store, _disk) = killed(store, &disk).await;
    assert!(store.unclean());
    assert_eq!(store.dirty_chunks(), [id(1)]);
}

#[tokio::test]
async fn a_full_disk_refuses_and_stays() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, &pattern(1, BLOCK)).await.unwrap();
    let full = |call: &str| if call == "write" { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) };
    disk.set_hook(Some(Arc::new(full)));
    assert!(matches!(write(&store, 1, 5, b"half?").await, Err(Error::NoSpace { .. })));
    disk.set_hook(None);
    assert!(store.disks()[0].failed.is_none());
    assert!(matches!(read(&store, 1, 1, 0, 1).await, Err(Error::Dirty { .. })), "half of it may be there");
    let prepared = prepare(&store, 1, 2).await.unwrap();
    assert!(!prepared.clean);
    store.complete(id(1), version(2)).await.unwrap();
    assert_eq!(read(&store, 1, 2, 0, BLOCK).await.unwrap(), pattern(1, BLOCK));
    disk.set_space(Space { total_bytes: 1 << 30, free_bytes: 1 << 20 });
    store.tick(1).await;
    assert!(matches!(write(&store, 2, 0, b"x").await, Err(Error::NoSpace { .. })));
}

#[tokio::test]
async fn new_chunks_go_where_there_is_room() {
    let (small, large) = (memory(), memory());
    small.set_space(Space { total_bytes: 10 << 30, free_bytes: 5 << 30 });
    large.set_space(Space { total_bytes: 10 << 30, free_bytes: 6 << 30 });
    let store = try_open(vec![small, large.clone()], 1).await.unwrap();
    store.adopt(CLUSTER, SERVER).await.unwrap();
    for chunk in 0..10 {
        write(&store, chunk, 0, b"x").await.unwrap();
    }
    let chunks = |store: &ChunkStore| store.disks().iter().map(|disk| disk.chunks).collect::<Vec<_>>();
    assert_eq!(chunks(&store), [0, 10]);
    large.kill();
    assert!(matches!(write(&store, 1, BLOCK, b"x").await, Err(Error::DiskFailed { .. })));
    write(&store, 20, 0, b"x").await.unwrap();
    assert_eq!(chunks(&store)[0], 1, "the healthy disk takes over");
}

// V3: clean stops leave nothing dirty; dirt stays over any number of restarts.
#[tokio::test]
async fn dirt_stays_until_it_is_recovered() {
    let disk = memory();
    let store = open(&disk).await;
    for chunk in 1..4 {
        write(&store, chunk, 0, b"x").await.unwrap();
    }
    store.close().await;
    drop(store);
    let store = open(&disk).await;
    assert!(store.dirty_chunks().is_empty() && !store.unclean());
    write(&store, 2, 0, b"y").await.unwrap();
    let (store, disk) = killed(store, &disk).await;
    assert_eq!(store.dirty_chunks(), [id(2)]);
    let (store, disk) = power_cut(store, &disk, 1).await;
    assert_eq!(store.dirty_chunks(), [id(2)]);
    store.close().await;
    drop(store);
    let store = open(&disk).await;
    assert_eq!(store.dirty_chunks(), [id(2)], "a clean stop recovers nothing");
    read(&store, 1, 1, 0, 1).await.unwrap();
    prepare(&store, 2, 2).await.unwrap();
    // The entry or the byte may have been lost alone.
    store.resum_damaged(id(2), version(2)).await.unwrap();
    store.complete(id(2), version(2)).await.unwrap();
    let content = read(&store, 2, 2, 0, 1).await.unwrap();
    assert!(content == "x" || content == "y");
    let (store, _disk) = power_cut(store, &disk, 2).await;
    assert!(store.dirty_chunks().is_empty());
    assert_eq!(read(&store, 2, 2, 0, 1).await.unwrap(), content);
}

#[tokio::test]
async fn without_a_journal_everything_is_doubtful() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    store.close().await;
    drop(store);
    disk.unlink("journal").unwrap();
    let store = open(&disk).await;
    assert_eq!(store.dirty_chunks(), [id(1)]);
}

/// A copy that was made anew on another disk, after the one that it was begun on had failed, is the one that was named.
#[tokio::test]
async fn of_two_replicas_of_a_version_the_complete_one_stays() {
    let disks = [memory(), memory()];
    let both = |disks: &[Arc<MemoryDisk>; 2]| -> Vec<Arc<dyn Disk>> { vec![disks[0].clone(), disks[1].clone()] };
    disks[0].set_space(Space { total_bytes: 10 << 30, free_bytes: 6 << 30 });
    disks[1].set_space(Space { total_bytes: 10 << 30, free_bytes: 5 << 30 });
    let store = try_open(both(&disks), 1).await.unwrap();
    store.adopt(CLUSTER, SERVER).await.unwrap();
    let join = Prepare { chunk: id(9), version: version(3), join: true, old_grant: grant(1) };
    store.prepare(join).await.unwrap();
    disks[0].kill();
    assert!(prepare(&store, 9, 4).await.is_err(), "its disk has failed");
    assert!(!store.prepare(join).await.unwrap().found, "on the other disk");
    store.complete(id(9), version(3)).await.unwrap();
    drop(store);
    let disks = disks.map(|disk| Arc::new(disk.restart()));
    let store = try_open(both(&disks), 1).await.unwrap();
    let kept = store.replica(id(9)).unwrap();
    assert!(kept.complete && kept.completed == version(3), "{kept:?}");
}

// R4: a disk that was replaced by an empty one is noticed only by what the leader counts on.
#[tokio::test]
async fn what_was_on_a_replaced_disk_is_told_as_lost() {
    let disks = [memory(), memory()];
    let store = try_open(vec![disks[0].clone(), disks[1].clone()], 1).await.unwrap();
    store.adopt(CLUSTER, SERVER).await.unwrap();
    for chunk in 1..=8 {
        write(&store, chunk, 0, b"x").await.unwrap();
    }
    store.close().await;
    drop(store);
    let gone: usize =
        disks[1].list("chunks").unwrap().iter().map(|d| disks[1].list(&format!("chunks/{d}")).unwrap().len()).sum();
    let store = try_open(vec![disks[0].clone(), memory()], 2).await.unwrap();
    assert!((1..8).contains(&gone), "both disks were used: {gone}");
    assert!(store.lost_chunks().is_empty(), "nothing here says so");
    let all: Vec<_> = (1..=8).map(|n| (id(n), ChunkVersion(1))).collect();
    store.expect(true, &all[..4]);
    store.expect(false, &all[4..]);
    let lost = store.lost_chunks();
    assert_eq!(lost.len(), gone);
    // A copy that is made here again is not missing any more.
    let again = (1..=8).find(|n| id(*n) == lost[0]).unwrap();
    write(&store, again, 0, b"y").await.unwrap();
    assert_eq!(store.lost_chunks(), lost[1..]);
    store.expect(true, &[]);
    assert!(store.lost_chunks().is_empty(), "the cluster has other copies by now");
    let versions = [(id(again), ChunkVersion(1)), (lost[1], ChunkVersion(0))];
    store.expect(true, &versions);
    assert_eq!(
        store.lost_chunks(),
        lost[1..2],
        "one is here as it should be, and an older leader says nothing of versions"
    );
    store.expect(true, &[(id(again), ChunkVersion(2))]);
    assert_eq!(store.lost_chunks(), [id(again)], "V5: what is here is an old one");
}

// R4: what a scan cannot place is kept and shown.
#[tokio::test]
async fn strange_files_go_to_the_quarantine() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    write(&store, 2, 0, b"x").await.unwrap();
    store.close().await;
    drop(store);
    disk.open("chunks/05/notes.txt", OpenMode::CreateNew).unwrap();
    disk.rename("chunks/02/0001000000000002.chunk", "chunks/03/0001000000000003.chunk").unwrap();
    for page in 0..3 {
        disk.damage("chunks/01/0001000000000001.chunk", page * 4096 + 20, 1);
    }
    let store = open(&disk).await;
    assert_eq!(store.lost_chunks(), [id(1)]);
    assert_eq!(store.disks()[0].chunks, 0);
    let mut found = disk.list("quarantine/found").unwrap();
    found.sort();
    assert_eq!(found, ["0001000000000001.chunk", "0001000000000003.chunk", "notes.txt"]);
    assert_eq!(store.purge_quarantine(u64::MAX, Duration::ZERO).await.files, 0);
}

// A damaged header copy may be the newest one.
#[tokio::test]
async fn a_damaged_header_copy_is_not_outvoted() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    prepare(&store, 1, 2).await.unwrap();
    store.close().await;
    drop(store);
    // Version 2, incomplete, is in the second place.
    disk.damage("chunks/01/0001000000000001.chunk", 4096 + 48, 1);
    let store = open(&disk).await;
    assert!(matches!(read(&store, 1, 1, 0, 1).await, Err(Error::Dirty { .. })), "the version it fenced is not served");
    prepare(&store, 1, 3).await.unwrap();
    store.complete(id(1), version(3)).await.unwrap();
    store.close().await;
    drop(store);
    let store = open(&disk).await;
    assert!(store.dirty_chunks().is_empty(), "the scar is gone");
    assert_eq!(read(&store, 1, 3, 0, 1).await.unwrap(), "x");
}

// A damaged table copy: an older one must not stand in for it.
#[tokio::test]
async fn a_damaged_table_copy_is_settled_by_the_data() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    write(&store, 1, BLOCK, b"y").await.unwrap();
    store.close().await;
    drop(store);
    disk.damage("chunks/01/0001000000000001.chunk", 16_384 + 8192 + 100, 1);
    let store = open(&disk).await;
    assert!(matches!(read(&store, 1, 1, BLOCK, 1).await, Err(Error::Corrupt { block: 1, .. })), "not served as a hole");
    let prepared = prepare(&store, 1, 2).await.unwrap();
    assert!(prepared.clean);
    assert_eq!([0, 1, 2].map(|block| block_state(&prepared, block).0), [GOOD, DAMAGED, HOLE]);
    let mut block = vec![0; BLOCK];
    block[0] = b'y';
    store.install_block(id(1), version(2), 1, Some(block.into())).await.unwrap();
    store.complete(id(1), version(2)).await.unwrap();
    store.close().await;
    drop(store);
    let store = open(&disk).await;
    assert_eq!(read(&store, 1, 2, 0, 1).await.unwrap(), "x");
    assert_eq!(read(&store, 1, 2, BLOCK, 2).await.unwrap(), "y\0");
}

// A hung disk is given up; the server goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_disk_does_not_hang_the_server() {
    let hanging = Arc::new(MemoryDisk::new("hanging").threaded());
    let healthy = Arc::new(MemoryDisk::new("healthy").threaded());
    healthy.set_space(Space { total_bytes: 1 << 40, free_bytes: 1 << 30 });
    let disks: Vec<Arc<dyn Disk>> = vec![hanging.clone(), healthy];
    let store = open_impatient(disks).await;
    write(&store, 1, 0, b"x").await.unwrap();
    let gate = Arc::new(Gate::default());
    hanging.set_hook(Some(gate.hook("read", 0)));
    let (first, second) = tokio::join!(read(&store, 1, 1, 0, 1), read(&store, 1, 1, 0, 1));
    for result in [first, second] {
        assert!(matches!(result, Err(Error::Hung { .. } | Error::DiskFailed { .. })));
    }
    assert!(store.disks()[0].failed.is_some());
    write(&store, 2, 0, b"on the other disk").await.unwrap();
    store.sync(id(2), version(1)).await.unwrap();
    store.fence(1, 2).await.unwrap();
    gate.open();
}

// W6: callers that wait for the same chunk share an fdatasync.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn syncs_of_one_chunk_are_grouped() {
    let disk = Arc::new(MemoryDisk::new("m").threaded());
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    let gate = Arc::new(Gate::default());
    disk.set_hook(Some(gate.hook("sync", 0)));
    let before = disk.syncs();
    let sync = || {
        let store = store.clone();
        tokio::spawn(async move { store.sync(id(1), version(1)).await })
    };
    let first = sync();
    while disk.syncs() == before {
        tokio::task::yield_now().await;
    }
    // Writers go on during the fdatasync (V4: in the third place).
    write(&store, 1, 0, b"y").await.unwrap();
    let others: Vec<_> = (0..10).map(|_| sync()).collect();
    tokio::task::yield_now().await;
    gate.open();
    first.await.unwrap().unwrap();
    for other in others {
        other.await.unwrap().unwrap();
    }
    assert!(disk.syncs() - before <= 4, "{} syncs for 11 callers", disk.syncs() - before);
    let (store, _disk) = power_cut(store, &disk, 1).await;
    prepare(&store, 1, 2).await.unwrap();
    store.complete(id(1), version(2)).await.unwrap();
    assert_eq!(read(&store, 1, 2, 0, 1).await.unwrap(), "y");
}

// The same on a real file system: threads, sparse files, a restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_real_folder() {
    let folder = tempfile::tempdir().unwrap();
    let open = || async {
        let disk: Arc<dyn Disk> = Arc::new(FileDisk::open(folder.path()).unwrap());
        let store = try_open(vec![disk], 1).await.unwrap();
        store.adopt(CLUSTER, SERVER).await.unwrap();
        store
    };
    // A job answers its caller before its thread lets go of the store, and the folder's lock goes with the last who does.
    let unlocked = || std::fs::File::open(folder.path()).unwrap().lock().unwrap();
    let store = open().await;
    let data = pattern(1, 1 << 20);
    let writes = (0..8u64).map(|chunk| {
        let (store, data) = (store.clone(), data.clone());
        tokio::spawn(async move {
            for piece in 0..16 {
                write(&store, chunk, piece * BLOCK, &data[piece * BLOCK..][..BLOCK]).await.unwrap();
            }
            write(&store, chunk, 60 << 20, b"far away").await.unwrap();
            store.sync(id(chunk), version(1)).await.unwrap();
        })
    });
    for write in writes.collect::<Vec<_>>() {
        write.await.unwrap();
    }
    store.tick(1).await;
    assert!(try_open(vec![Arc::new(FileDisk::open(folder.path()).unwrap())], 1).await.is_err(), "locked");
    // An unclean stop: the store is dropped while its threads may still finish.
    drop(store);
    unlocked();
    let store = open().await;
    assert!(store.unclean());
    for chunk in 0..8 {
        if store.replica(id(chunk)).unwrap().dirty {
            prepare(&store, chunk, 2).await.unwrap();
            store.complete(id(chunk), version(2)).await.unwrap();
        }
        let at = store.replica(id(chunk)).unwrap().version.0;
        assert_eq!(read(&store, chunk, at, 0, 1 << 20).await.unwrap(), data);
        assert_eq!(read(&store, chunk, at, (60 << 20) - 1, 9).await.unwrap(), "\0far away");
    }
    prepare(&store, 0, 9).await.unwrap();
    store.cut(id(0), version(9), 70_000).await.unwrap();
    store.complete(id(0), version(9)).await.unwrap();
    store.delete(id(1), version(5), 5).await.unwrap();
    assert_eq!(store.purge_quarantine(5, Duration::ZERO).await.files, 1);
    store.close().await;
    drop(store);
    unlocked();
    let store = open().await;
    assert!(!store.unclean() && store.dirty_chunks().is_empty());
    assert_eq!(read(&store, 0, 9, 69_999, 3).await.unwrap(), [data[69_999], 0, 0][..]);
    assert_eq!(store.disks()[0].chunks, 7);
}
