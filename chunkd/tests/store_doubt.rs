//! What an unclean start may have lost, and how long that is remembered (M16, M17).

mod store_support;

use std::sync::Arc;

use caribou_chunkd::store::disk::Disk;
use caribou_chunkd::store::memory::MemoryDisk;
use caribou_chunkd::store::{ChunkStore, Error, Prepare, Write};
use caribou_proto::ids::ChunkId;
use store_support::*;

// M16: only what was dirtied in this boot, all of it, is known to be whole; and it stays known over any number of kills, until it is recovered.
#[tokio::test]
async fn a_kill_is_told_from_a_power_cut() {
    for seed in 0..10 {
        let ticks = seed % 2 == 1;
        let disk = memory();
        let mut store = open(&disk).await;
        if ticks {
            // The chunk has an entry of its own, instead of lying above the watermark.
            write(&store, 9, 0, &[1; 512]).await.unwrap();
            store.sync(id(9), version(1)).await.unwrap();
            store.tick(100_000).await;
        }
        write(&store, 1, 0, &[1; 512]).await.unwrap();
        let mut disk = disk;
        for to in 2..4 {
            (store, disk) = killed(store, &disk).await;
            let prepared = prepare(&store, 1, to).await.unwrap();
            assert!(!prepared.clean && prepared.same_boot);
        }
        store.complete(id(1), version(3)).await.unwrap();
        assert!(!prepare(&store, 1, 4).await.unwrap().same_boot, "clean");
        store.complete(id(1), version(4)).await.unwrap();
        let late = Write { version: version(4), grant: grant(9), ..fragment(1, 0, &[2; 512]) };
        store.write(late.clone()).await.unwrap();
        let (store, disk) = power_cut(store, &disk, seed).await;
        let (store, disk) = killed(store, &disk).await;
        let prepared = prepare(&store, 1, 5).await.unwrap();
        assert!(!prepared.clean && !prepared.same_boot, "dirtied in an earlier boot");
        store.resum_damaged(id(1), version(5)).await.unwrap();
        let (store, disk) = killed(store, &disk).await;
        assert!(!prepare(&store, 1, 5).await.unwrap().same_boot, "a Fix that did not end changes nothing");
        store.resum_damaged(id(1), version(5)).await.unwrap();
        store.complete(id(1), version(5)).await.unwrap();
        store.write(Write { version: version(5), grant: grant(10), ..late }).await.unwrap();
        let (store, _disk) = killed(store, &disk).await;
        assert!(prepare(&store, 1, 6).await.unwrap().same_boot, "the recovery ended the doubt");
    }
}

// V2: a disk hangs between a block and its checksum, and its server ends. Whatever holds the chunk alone then has no whole copy of that block, which
// was never acknowledged, and keeps it as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_hangs_within_a_write_leaves_a_torn_block() {
    let (old, new) = (pattern(1, BLOCK), pattern(2, BLOCK));
    let mut seen = Vec::new();
    // Neither is written; the block is, and its checksum is not.
    for calls in 0..2 {
        let disk = Arc::new(MemoryDisk::new("hanging").threaded());
        let store = open_impatient(vec![disk.clone()]).await;
        write(&store, 1, 0, &old).await.unwrap();
        store.sync(id(1), version(1)).await.unwrap();
        let gate = Arc::new(Gate::default());
        disk.set_hook(Some(gate.hook("write", calls)));
        assert!(matches!(write(&store, 1, 0, &new).await, Err(Error::Hung { .. })), "not acknowledged");
        let (store, _disk) = killed(store, &disk).await;
        gate.open();
        let prepared = prepare(&store, 1, 2).await.unwrap();
        assert!(!prepared.clean);
        seen.push(block_state(&prepared, 0).0);
        assert_eq!(store.resum_damaged(id(1), version(2)).await.unwrap(), calls);
        store.complete(id(1), version(2)).await.unwrap();
        assert_eq!(read(&store, 1, 2, 0, BLOCK).await.unwrap(), [&old, &new][calls as usize]);
    }
    assert_eq!(seen, [GOOD, DAMAGED]);
}

// V2: what no copy of the table calls written is a hole without being read.
#[tokio::test]
async fn a_dirty_chunk_costs_what_was_written_of_it() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 5 * BLOCK, &pattern(1, 512)).await.unwrap();
    let (store, disk) = killed(store, &disk).await;
    let before = disk.bytes_read();
    let prepared = prepare(&store, 1, 2).await.unwrap();
    assert!(!prepared.clean);
    assert_eq!((block_state(&prepared, 5).0, block_state(&prepared, 6)), (GOOD, (HOLE, 0)));
    assert!(disk.bytes_read() - before < 4 * BLOCK as u64, "of 64 MiB");
}

/// A store whose chunk 5 went in a power cut, file and name, before it was synced; `None` if this cut left it.
async fn after_a_vanishing(seed: u64) -> Option<(Arc<ChunkStore>, Arc<MemoryDisk>)> {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, &[1; 512]).await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    store.tick(100_000).await;
    write(&store, 5, 0, &[1; 512]).await.unwrap();
    let (store, disk) = power_cut(store, &disk, seed).await;
    store.replica(id(5)).is_none().then_some((store, disk))
}

// M17: a chunk whose file has gone with its name is dirty without blocks, not missing, so that its recovery can end.
#[tokio::test]
async fn a_new_chunk_that_vanished_counts_as_dirty() {
    let mut tried = 0;
    for seed in 0..40 {
        let Some((store, _disk)) = after_a_vanishing(seed).await else { continue };
        tried += 1;
        let prepared = prepare(&store, 5, 2).await.unwrap();
        assert!(!prepared.found && !prepared.clean);
        // What the journal does not cover was never here, or was synced.
        assert!(prepare(&store, 0, 2).await.unwrap().clean);
        store.delete(id(5), version(9), 0).await.unwrap();
        assert!(prepare(&store, 5, 2).await.unwrap().clean, "deleted, not vanished");
    }
    assert!(tried > 0, "no power cut took the file");
}

/// What the leader counts on here, all of it.
async fn told(store: &ChunkStore, counted: impl IntoIterator<Item = u64>) {
    let counted = counted.into_iter().map(id).collect();
    store.expect_vanished(true, Some(id(0)..=ChunkId(u64::MAX)), &counted);
    store.tick(0).await;
}

// M17: once the leader has said what it counts on, what else is not here was never here, or was lost in another way.
#[tokio::test]
async fn what_may_have_vanished_is_known_by_name_once_the_leader_has_told() {
    let mut tried = 0;
    for seed in 0..40 {
        let Some((store, disk)) = after_a_vanishing(seed).await else { continue };
        tried += 1;
        let is_clean = async |store: &ChunkStore, chunk| prepare(store, chunk, 2).await.unwrap().clean;
        // A part of it says nothing of the rest.
        store.expect_vanished(true, Some(id(0)..=id(3)), &[id(1)].into());
        assert!(!is_clean(&store, 5).await && !is_clean(&store, 6).await);
        told(&store, [1, 5]).await;
        assert!(!is_clean(&store, 5).await && is_clean(&store, 6).await && is_clean(&store, 9).await);
        let (store, disk) = power_cut(store, &disk, seed + 100).await;
        assert!(!is_clean(&store, 5).await);
        told(&store, [1]).await;
        let (store, _disk) = power_cut(store, &disk, seed + 200).await;
        told(&store, [1]).await;
        assert!(is_clean(&store, 5).await, "given up by the leader");
    }
    assert!(tried > 0, "no power cut took the file");
}

// M17: what is on a folder that is not here has not vanished, and without a loss of power nothing has.
#[tokio::test]
async fn what_may_be_elsewhere_has_not_vanished() {
    let both = [MemoryDisk::new("a"), MemoryDisk::new("b")].map(Arc::new);
    let start = async |disks: &[Arc<MemoryDisk>]| {
        let disks = disks.iter().map(|disk| disk.clone() as Arc<dyn Disk>).collect();
        let store = try_open(disks, 1).await.unwrap();
        store.adopt(CLUSTER, SERVER).await.unwrap();
        store
    };
    let store = start(&both).await;
    for chunk in 1..=6 {
        write(&store, chunk, 0, &[1; 512]).await.unwrap();
        store.sync(id(chunk), version(1)).await.unwrap();
    }
    let is_clean = async |store: &ChunkStore, chunk| prepare(store, chunk, 2).await.unwrap().clean;
    let both = both.map(|disk| Arc::new(disk.restart()));
    drop(store);
    let store = start(&both).await;
    assert!(is_clean(&store, 99).await, "only the process has died");
    let both = both.map(|disk| Arc::new(disk.power_cut(1)));
    drop(store);
    let store = start(&both).await;
    assert!(!is_clean(&store, 99).await);
    let both = both.map(|disk| Arc::new(disk.power_cut(2)));
    drop(store);
    let store = start(&both[..1]).await;
    let elsewhere: Vec<u64> = (1..=6).filter(|chunk| store.replica(id(*chunk)).is_none()).collect();
    assert!(!elsewhere.is_empty() && elsewhere.len() < 6);
    for chunk in &elsewhere {
        assert!(is_clean(&store, *chunk).await, "missing, since its folder is");
    }
    let left = Arc::new(both[0].power_cut(3));
    drop(store);
    let store = start(std::slice::from_ref(&left)).await;
    for chunk in &elsewhere {
        assert!(is_clean(&store, *chunk).await, "it is still missing after a further cut");
    }
    told(&store, 1..=6).await;
    let left = Arc::new(left.power_cut(4));
    drop(store);
    let store = start(std::slice::from_ref(&left)).await;
    for chunk in &elsewhere {
        assert!(is_clean(&store, *chunk).await, "the leader counted on it before the power went");
    }
    assert!(!is_clean(&store, 99).await, "what is made from now on may vanish");
    let both = [left, both[1].clone()].map(|disk| Arc::new(disk.power_cut(5)));
    drop(store);
    let store = start(&both).await;
    assert!(elsewhere.iter().all(|chunk| store.replica(id(*chunk)).is_some()));
    assert!(is_clean(&store, 98).await, "the folders have changed");
}

// M17: what was missing before the power went has not vanished with it, whatever its id.
#[tokio::test]
async fn what_was_lost_before_has_not_vanished() {
    let disk = memory();
    let store = open(&disk).await;
    assert!(prepare(&store, 40, 2).await.unwrap().clean, "a new server");
    write(&store, 1, 0, &[1; 512]).await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    told(&store, [1, 40]).await;
    let (store, _disk) = power_cut(store, &disk, 1).await;
    assert!(prepare(&store, 40, 2).await.unwrap().clean);
    assert!(!prepare(&store, 41, 2).await.unwrap().clean);
}

/// What comes between two losses of power.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Between {
    Nothing,
    /// The leader asks for it, and has to wait for other holders for long.
    Prepare,
    /// The server is told to stop after that, and loses no power.
    CleanStop,
    /// Chunks with higher ids are written and at rest.
    Others,
    /// The leader says that it counts on it.
    Told,
    /// It is deleted.
    Delete,
}

// M17, P5: simulation, seed 1 with 4,000 steps of power cuts. Each holder had lost the chunk, said so, and lost power again before the others were
// there; then nobody knew any more that there was nothing to wait for.
#[tokio::test]
async fn a_new_chunk_that_vanished_counts_as_dirty_after_further_power_cuts_too() {
    let join = |to| Prepare { chunk: id(5), version: version(to), join: true, old_grant: grant(1) };
    use Between::{CleanStop, Delete, Nothing, Others, Told};
    for between in [Nothing, Between::Prepare, CleanStop, Others, Told, Delete] {
        let mut tried = 0;
        for seed in 0..40 {
            let Some((store, disk)) = after_a_vanishing(seed).await else { continue };
            // A newer one is there.
            write(&store, 7, 0, &[1; 512]).await.unwrap();
            store.sync(id(7), version(1)).await.unwrap();
            if matches!(between, Between::Prepare | CleanStop) {
                assert!(!prepare(&store, 5, 2).await.unwrap().clean);
                // Long enough for everything that is at rest to be forgotten.
                store.tick(1).await;
                store.tick(10_000_000).await;
                write(&store, 8, 0, &[1; 512]).await.unwrap();
                store.tick(20_000_000).await;
            }
            if between == Told {
                told(&store, [1, 5, 7]).await;
            }
            if between == Others {
                store.tick(1).await;
                store.tick(10_000_000).await;
            }
            if between == Delete {
                prepare(&store, 5, 2).await.unwrap();
                store.delete(id(5), version(9), 0).await.unwrap();
                store.tick(1).await;
                store.tick(10_000_000).await;
            }
            let (store, disk) = if between == CleanStop {
                store.close().await;
                drop(store);
                (open(&disk).await, disk)
            } else {
                power_cut(store, &disk, seed + 100).await
            };
            if between == Delete {
                told(&store, [1, 7]).await;
            }
            let prepared = prepare(&store, 5, 2).await.unwrap();
            assert_eq!((prepared.found, prepared.clean), (false, between == Delete), "{between:?} {seed}");
            if between == Delete {
                continue;
            }
            tried += 1;
            assert!(!store.prepare(join(2)).await.unwrap().clean);
            store.complete(id(5), version(2)).await.unwrap();
            store.tick(30_000_000).await;
            store.tick(40_000_000).await;
            let (store, _disk) = power_cut(store, &disk, seed + 200).await;
            assert!(prepare(&store, 5, 3).await.unwrap().clean, "recovered and at rest: {between:?} {seed}");
        }
        assert!(tried > 0 || between == Delete, "no power cut took the file");
    }
}

// M17: an empty replica in its place is dirty too, for every leader and over every restart, until a recovery has completed it.
#[tokio::test]
async fn an_empty_replica_for_one_that_vanished_counts_as_dirty() {
    let join = |chunk, to| Prepare { chunk: id(chunk), version: version(to), join: true, old_grant: grant(1) };
    let mut tried = 0;
    for seed in 0..40 {
        let Some((store, disk)) = after_a_vanishing(seed).await else { continue };
        tried += 1;
        let joined = store.prepare(join(5, 2)).await.unwrap();
        assert!(!joined.found && !joined.clean);
        // One that was never here: a copy, which has nothing to lose.
        assert!(store.prepare(join(0, 2)).await.unwrap().clean);
        store.tick(100_000).await;
        store.tick(200_000).await;
        let again = prepare(&store, 5, 3).await.unwrap();
        assert_eq!((again.found, again.had_version, again.clean), (true, version(0), false));
        let (store, disk) = killed(store, &disk).await;
        assert!(store.dirty_chunks().contains(&id(5)));
        let (store, disk) = power_cut(store, &disk, seed).await;
        let again = prepare(&store, 5, 4).await.unwrap();
        assert_eq!((again.found, again.clean, again.same_boot), (true, false, false));
        assert!(prepare(&store, 0, 4).await.unwrap().clean);
        store.complete(id(5), version(4)).await.unwrap();
        assert_eq!(read(&store, 5, 4, 0, 512).await.unwrap(), [0; 512][..], "a hole");
        let (store, _disk) = killed(store, &disk).await;
        assert!(
            store.dirty_chunks().iter().all(|chunk| *chunk != id(5)) || prepare(&store, 5, 5).await.unwrap().same_boot
        );
    }
    assert!(tried > 0, "no power cut took the file");
}
