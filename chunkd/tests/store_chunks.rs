//! What the store does with chunks, rule by rule, on a disk in memory.

mod store_support;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_chunkd::store::memory::MemoryDisk;
use caribou_chunkd::store::{Error, Prepare, Write};
use futures::FutureExt;
use store_support::*;

// W3: fragments of any size and alignment; the file is what a plain array would be.
#[tokio::test]
async fn writes_of_any_alignment_read_back() {
    let disk = memory();
    let store = open(&disk).await;
    let mut model = vec![0u8; 1 << 20];
    for (seed, (offset, length)) in
        [(0, 10), (65_530, 12), (100, 65_536), (131_072, 65_536), (200_000, 300_001), (65_536, 65_536), (5, 1)]
            .into_iter()
            .enumerate()
    {
        let data = pattern(seed as u64, length);
        write(&store, 1, offset, &data).await.unwrap();
        model[offset..offset + length].copy_from_slice(&data);
        assert_eq!(read(&store, 1, 1, 0, 1 << 20).await.unwrap(), model);
    }
    assert_eq!(read(&store, 1, 1, 65_529, 7).await.unwrap(), model[65_529..65_536]);
    assert!(read(&store, 1, 1, (64 << 20) - 10, 10).await.unwrap().iter().all(|byte| *byte == 0), "V4: a hole");
    assert!(matches!(read(&store, 1, 1, (64 << 20) - 10, 11).await, Err(Error::Invalid(_))));
}

// W3: the checksum follows from the old fragment; the rest of the block is not read.
#[tokio::test]
async fn an_overwrite_reads_only_the_old_fragment() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, &pattern(1, BLOCK)).await.unwrap();
    let before = disk.bytes_read();
    write(&store, 1, 4096, &pattern(2, 4096)).await.unwrap();
    assert_eq!(disk.bytes_read() - before, 4096);
}

#[tokio::test]
async fn damage_at_rest_is_never_returned_and_survives_overwrites() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, &pattern(1, 2 * BLOCK)).await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    disk.damage("chunks/01/0001000000000001.chunk", 65_536 + 70_000, 0x10);
    assert!(matches!(read(&store, 1, 1, 0, 2 * BLOCK).await, Err(Error::Corrupt { block: 1, .. })));
    read(&store, 1, 1, 0, BLOCK).await.unwrap();
    assert_eq!(store.damaged_chunks(), [(id(1), 1)], "R3: a hint");
    assert!(store.lost_chunks().is_empty(), "all but one block of it are sound");
    // An overwrite beside it does not hide it, one over it mends it.
    write(&store, 1, BLOCK + 30_000, b"beside").await.unwrap();
    assert!(matches!(read(&store, 1, 1, BLOCK, 1).await, Err(Error::Corrupt { block: 1, .. })));
    assert_eq!(store.damaged_chunks(), [(id(1), 1)]);
    write(&store, 1, BLOCK, &pattern(3, BLOCK)).await.unwrap();
    assert_eq!(read(&store, 1, 1, BLOCK, BLOCK).await.unwrap(), pattern(3, BLOCK));
    assert!(store.damaged_chunks().is_empty());
}

#[tokio::test]
async fn what_does_not_fit_is_refused_without_effect() {
    let disk = memory();
    let store = open(&disk).await;
    let plain = |write: Write| Write { create: false, ..write };
    assert!(matches!(store.write(plain(fragment(1, 0, b"x"))).await, Err(Error::NoReplica { .. })), "W2");
    let damaged = Write { crc: 1, ..fragment(1, 0, b"x") };
    assert!(matches!(store.write(damaged).await, Err(Error::DamagedFragment { .. })));
    assert_eq!(store.replica(id(1)), None);
    write(&store, 1, 0, b"first").await.unwrap();
    let wrong = Write { version: version(2), ..fragment(1, 0, b"x") };
    assert!(matches!(store.write(wrong).await, Err(Error::WrongVersion { .. })));
    let empty = Write { data: Bytes::new(), crc: 0, ..fragment(1, 0, b"x") };
    assert!(matches!(store.write(empty).await, Err(Error::Invalid(_))));
    assert!(matches!(write(&store, 1, 64 << 20, b"x").await, Err(Error::Invalid(_))));
    assert!(matches!(read(&store, 1, 2, 0, 1).await, Err(Error::WrongVersion { .. })), "R1");
    assert!(matches!(read(&store, 2, 1, 0, 1).await, Err(Error::NoReplica { .. })));
    assert_eq!(read(&store, 1, 1, 0, 5).await.unwrap(), "first");
}

// F3: compared per chunk, over a restart too (V5).
#[tokio::test]
async fn a_lower_grant_is_refused() {
    let disk = memory();
    let store = open(&disk).await;
    let by = |number, data: &[u8]| Write { grant: grant(number), ..fragment(1, 0, data) };
    store.write(by(5, b"five")).await.unwrap();
    store.write(by(7, b"seven")).await.unwrap();
    assert!(matches!(store.write(by(6, b"late")).await, Err(Error::OldGrant { .. })));
    store.write(by(7, b"again")).await.unwrap();
    write(&store, 2, 0, b"other chunk").await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    store.close().await;
    drop(store);
    let store = open(&disk).await;
    assert!(matches!(store.write(by(6, b"late")).await, Err(Error::OldGrant { .. })));
    assert_eq!(store.replica(id(1)).unwrap().last_grant, grant(7));
}

// R1
#[tokio::test]
async fn blocks_in_flight_are_not_served() {
    let disk = memory();
    let store = open(&disk).await;
    let head = |offset, data: &[u8]| Write { tail: false, ..fragment(1, offset, data) };
    let first = store.write(head(0, &pattern(1, 2 * BLOCK))).await.unwrap().ticket.unwrap();
    let second = store.write(head(BLOCK, b"again")).await.unwrap().ticket.unwrap();
    assert!(matches!(read(&store, 1, 1, 0, 10).await, Err(Error::NotYet { block: 0, .. })));
    read(&store, 1, 1, 2 * BLOCK, 10).await.unwrap();
    store.acknowledged(first);
    read(&store, 1, 1, 0, 10).await.unwrap();
    assert!(matches!(read(&store, 1, 1, 0, BLOCK + 1).await, Err(Error::NotYet { block: 1, .. })));
    // V1: the list is what a Prepare says may differ, and recovery empties it.
    let prepared = prepare(&store, 1, 2).await.unwrap();
    assert_eq!(block_state(&prepared, 0).0, GOOD);
    assert_eq!(block_state(&prepared, 1).0, UNACKED);
    assert_eq!(block_state(&prepared, 2).0, HOLE);
    store.complete(id(1), version(2)).await.unwrap();
    store.acknowledged(second);
    read(&store, 1, 2, 0, 2 * BLOCK).await.unwrap();
}

// V1, F2, F3
#[tokio::test]
async fn prepare_fences_and_never_goes_back() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, &pattern(1, 100)).await.unwrap();
    let prepared = prepare(&store, 1, 3).await.unwrap();
    assert!(prepared.found && prepared.clean);
    assert_eq!((prepared.had_version, prepared.last_grant), (version(1), grant(1)));
    assert_eq!(prepared.incarnation, store.incarnation());
    assert!(matches!(write(&store, 1, 0, b"late").await, Err(Error::WrongVersion { .. })));
    assert!(matches!(read(&store, 1, 1, 0, 1).await, Err(Error::WrongVersion { .. })));
    assert!(matches!(read(&store, 1, 3, 0, 1).await, Err(Error::WrongVersion { complete: false, .. })));
    assert!(matches!(store.sync(id(1), version(1)).await, Err(Error::WrongVersion { .. })));
    assert!(matches!(prepare(&store, 1, 2).await, Err(Error::WrongVersion { .. })));
    assert_eq!(prepare(&store, 1, 3).await.unwrap(), prepared, "idempotent");
    assert!(matches!(store.complete(id(1), version(2)).await, Err(Error::WrongVersion { .. })));
    store.complete(id(1), version(3)).await.unwrap();
    store.complete(id(1), version(3)).await.unwrap();
    let confirmed = prepare(&store, 1, 3).await.unwrap();
    assert_eq!(confirmed.had_version, version(3), "F2: confirmed");
    assert_eq!(read(&store, 1, 3, 0, 100).await.unwrap(), pattern(1, 100));
    let old = Write { version: version(3), ..fragment(1, 0, b"x") };
    assert!(matches!(store.write(old.clone()).await, Err(Error::OldGrant { .. })), "the old grant is fenced");
    store.write(Write { grant: grant(2), ..old }).await.unwrap();
}

#[tokio::test]
async fn a_joining_holder_is_filled_and_completed() {
    let disk = memory();
    let store = open(&disk).await;
    assert!(!prepare(&store, 1, 2).await.unwrap().found);
    assert_eq!(store.replica(id(1)), None, "made only where asked for");
    let join = Prepare { chunk: id(1), version: version(2), join: true, old_grant: grant(4) };
    let prepared = store.prepare(join).await.unwrap();
    assert!(!prepared.found);
    let (a, b) = (pattern(1, BLOCK), pattern(2, BLOCK));
    store.install_block(id(1), version(2), 0, Some(a.clone().into())).await.unwrap();
    store.install_block(id(1), version(2), 900, Some(b.clone().into())).await.unwrap();
    store.install_block(id(1), version(2), 901, Some(b.clone().into())).await.unwrap();
    store.install_block(id(1), version(2), 901, None).await.unwrap();
    assert!(matches!(store.install_block(id(1), version(1), 0, None).await, Err(Error::WrongVersion { .. })));
    assert!(matches!(store.install_block(id(1), version(2), 0, Some("short".into())).await, Err(Error::Invalid(_))));
    let recovery = store.read_recovery(id(1), version(2), 899, 3).await.unwrap();
    assert_eq!(&recovery.written[..], [0, 1, 0]);
    assert_eq!(recovery.data[BLOCK..2 * BLOCK], b);
    assert_eq!(recovery.crc, crc32c::crc32c(&recovery.data));
    store.complete(id(1), version(2)).await.unwrap();
    assert_eq!(read(&store, 1, 2, 0, BLOCK).await.unwrap(), a);
    assert_eq!(read(&store, 1, 2, 900 * BLOCK, 2 * BLOCK).await.unwrap()[..BLOCK], b);
    let late = Write { version: version(2), grant: grant(4), ..fragment(1, 0, b"x") };
    assert!(matches!(store.write(late).await, Err(Error::OldGrant { .. })));
}

#[tokio::test]
async fn a_cut_leaves_holes_and_a_right_checksum() {
    let disk = memory();
    let store = open(&disk).await;
    let data = pattern(1, 5 * BLOCK);
    write(&store, 1, 0, &data).await.unwrap();
    prepare(&store, 1, 2).await.unwrap();
    let length = BLOCK + 1000;
    store.cut(id(1), version(2), length as u32).await.unwrap();
    store.cut(id(1), version(2), length as u32).await.unwrap();
    let prepared = prepare(&store, 1, 2).await.unwrap();
    assert_eq!([0, 1, 2, 4].map(|block| block_state(&prepared, block).0), [GOOD, GOOD, HOLE, HOLE]);
    let mut cut = data[BLOCK..length].to_vec();
    cut.resize(BLOCK, 0);
    assert_eq!(block_state(&prepared, 1).1, crc32c::crc32c(&cut));
    store.complete(id(1), version(2)).await.unwrap();
    let mut model = data[..length].to_vec();
    model.resize(5 * BLOCK, 0);
    assert_eq!(read(&store, 1, 2, 0, 5 * BLOCK).await.unwrap(), model);
}

// V2
#[tokio::test]
async fn damage_that_no_copy_can_mend_is_summed_as_it_is() {
    let disk = memory();
    let store = open(&disk).await;
    let mut data = pattern(1, BLOCK);
    write(&store, 1, 0, &data).await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    disk.damage("chunks/01/0001000000000001.chunk", 65_536 + 9, 1);
    data[9] ^= 1;
    let (store, _disk) = killed(store, &disk).await;
    assert_eq!(store.dirty_chunks(), [id(1)]);
    assert!(matches!(read(&store, 1, 1, 0, 1).await, Err(Error::Dirty { .. })));
    assert!(matches!(write(&store, 1, 0, b"x").await, Err(Error::Dirty { .. })));
    let prepared = prepare(&store, 1, 2).await.unwrap();
    assert!(!prepared.clean);
    assert_eq!(block_state(&prepared, 0).0, DAMAGED);
    assert!(matches!(store.read_recovery(id(1), version(2), 0, 1).await, Err(Error::Corrupt { .. })));
    assert_eq!(store.resum_damaged(id(1), version(2)).await.unwrap(), 1);
    store.complete(id(1), version(2)).await.unwrap();
    assert_eq!(read(&store, 1, 2, 0, BLOCK).await.unwrap(), data);
    assert!(store.dirty_chunks().is_empty());
}

// R4, ADR 1.9
#[tokio::test]
async fn deletion_goes_through_the_quarantine_and_leaves_a_tombstone() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"data").await.unwrap();
    prepare(&store, 1, 2).await.unwrap();
    assert!(matches!(store.delete(id(1), version(1), 1000).await, Err(Error::WrongVersion { .. })));
    store.delete(id(1), version(2), 1000).await.unwrap();
    store.delete(id(1), version(2), 1000).await.unwrap();
    store.delete(id(9), version(2), 1000).await.unwrap();
    assert_eq!(store.replica(id(1)), None);
    for chunk in [1, 9] {
        assert!(matches!(write(&store, chunk, 0, b"late").await, Err(Error::Deleted { .. })));
        assert!(matches!(read(&store, chunk, 1, 0, 1).await, Err(Error::Deleted { .. })));
    }
    let day = Duration::from_secs(86_400);
    assert_eq!(store.purge_quarantine(1000 + 86_399_999, day).await.kept, 1);
    let purged = store.purge_quarantine(1000 + 86_400_000, day).await;
    assert_eq!((purged.files, purged.kept), (1, 0));
    // A committed command may bring it back.
    let join = Prepare { chunk: id(1), version: version(3), join: true, old_grant: grant(1) };
    assert!(!store.prepare(join).await.unwrap().found);
    assert!(matches!(write(&store, 1, 0, b"late").await, Err(Error::WrongVersion { .. })));
}

/// A recovery joins a replica while the deletion of the chunk's last one here is still on its way: the join finds the old one, and runs after it.
#[tokio::test(start_paused = true)]
async fn a_join_behind_a_deletion_makes_a_replica_that_is_known() {
    let disk = Arc::new(MemoryDisk::new("memory").paced(Arc::new(|| Duration::from_millis(5))));
    let store = open(&disk).await;
    write(&store, 1, 0, b"data").await.unwrap();
    let join = Prepare { chunk: id(1), version: version(2), join: true, old_grant: grant(1) };
    let (deleted, prepared) = tokio::join!(store.delete(id(1), version(1), 1000), store.prepare(join));
    deleted.unwrap();
    assert!(!prepared.unwrap().found);
    store.install_block(id(1), version(2), 0, Some(pattern(1, BLOCK).into())).await.unwrap();
    store.complete(id(1), version(2)).await.unwrap();
    assert_eq!(read(&store, 1, 2, 0, BLOCK).await.unwrap(), pattern(1, BLOCK));
}

/// M5: what a Fix had queued when it was given up is carried out before the Prepare that ended it, never after it.
#[tokio::test(start_paused = true)]
async fn what_was_queued_before_a_prepare_runs_before_it() {
    let disk = Arc::new(MemoryDisk::new("memory").paced(Arc::new(|| Duration::from_millis(5))));
    let store = open(&disk).await;
    let join = Prepare { chunk: id(1), version: version(2), join: true, old_grant: grant(1) };
    store.prepare(join).await.unwrap();
    let data = Bytes::from(pattern(1, BLOCK));
    for block in 0..4 {
        let install = store.install_block(id(1), version(2), block, Some(data.clone()));
        assert!(install.now_or_never().is_none(), "queued, and its caller is gone");
    }
    let prepared = store.prepare(join).await.unwrap();
    assert_eq!([0, 3, 4].map(|block| block_state(&prepared, block).0), [GOOD, GOOD, HOLE]);
}

// V3: the first write of an old chunk pays one journal fsync, the next ones none, new chunks none.
#[tokio::test]
async fn the_journal_is_paid_once() {
    let disk = memory();
    let store = open(&disk).await;
    let before = disk.syncs();
    for chunk in 1..20 {
        write(&store, chunk, 0, b"new").await.unwrap();
    }
    assert_eq!(disk.syncs(), before, "new chunks are above the watermark");
    for chunk in 1..20 {
        store.sync(id(chunk), version(1)).await.unwrap();
    }
    store.tick(40_000).await;
    let before = disk.syncs();
    write(&store, 3, 0, b"old").await.unwrap();
    assert_eq!(disk.syncs(), before + 1);
    write(&store, 3, 0, b"old").await.unwrap();
    store.sync(id(3), version(1)).await.unwrap();
    write(&store, 3, 0, b"again").await.unwrap();
    assert_eq!(disk.syncs(), before + 2, "it lingers in the journal");
    store.sync(id(3), version(1)).await.unwrap();
    store.tick(69_000).await;
    store.tick(71_000).await;
    let before = disk.syncs();
    write(&store, 3, 0, b"later").await.unwrap();
    assert_eq!(disk.syncs(), before + 1, "after 30 s idle it pays again");
}

// W6: a sync without anything to sync costs nothing.
#[tokio::test]
async fn a_sync_of_nothing_is_free() {
    let disk = memory();
    let store = open(&disk).await;
    write(&store, 1, 0, b"x").await.unwrap();
    store.sync(id(1), version(1)).await.unwrap();
    let before = disk.syncs();
    store.sync(id(1), version(1)).await.unwrap();
    assert_eq!(disk.syncs(), before);
}

// More chunks than may be open at a time.
#[tokio::test]
async fn open_files_are_bounded() {
    let disk = memory();
    let store = open(&disk).await;
    for chunk in 0..1200 {
        write(&store, chunk, 0, &chunk.to_le_bytes()).await.unwrap();
    }
    for chunk in 0..1200 {
        assert_eq!(read(&store, chunk, 1, 0, 8).await.unwrap(), chunk.to_le_bytes()[..]);
    }
    assert_eq!(store.disks()[0].chunks, 1200);
}
