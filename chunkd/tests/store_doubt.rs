//! What an unclean start may have lost, and how long that is remembered (M16, M17).

mod store_support;

use caribou_chunkd::store::Write;
use store_support::*;

// M16: only what was dirtied in this boot, all of it, is known to be whole; and it stays known over any number of kills, until it is recovered.
#[tokio::test]
async fn a_kill_is_told_from_a_power_cut() {
    for ticks in [false, true] {
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
        let (store, disk) = power_cut(store, &disk, 3).await;
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
