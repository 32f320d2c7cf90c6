//! Replicas that are here and that nobody counts on (R4): which the store names, and when it says nothing.

mod store_support;

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use caribou_chunkd::store::{ChunkStore, Prepare};
use caribou_proto::ids::{ChunkId, ChunkVersion};
use store_support::*;

/// All ids that there can be.
fn everything() -> Option<RangeInclusive<ChunkId>> {
    range(0, u64::MAX)
}

fn range(from: u64, up_to: u64) -> Option<RangeInclusive<ChunkId>> {
    Some(ChunkId(from)..=ChunkId(up_to))
}

fn ids(counters: &[u64]) -> BTreeSet<ChunkId> {
    counters.iter().copied().map(id).collect()
}

/// A store with these chunks at version 1.
async fn store_of(chunks: RangeInclusive<u64>) -> Arc<ChunkStore> {
    let store = open(&memory()).await;
    for chunk in chunks {
        write(&store, chunk, 0, b"x").await.unwrap();
    }
    store
}

fn strays(store: &ChunkStore) -> Vec<(u64, u64)> {
    let counter = |chunk: ChunkId| chunk.0 - id(0).0;
    store.stray_chunks().into_iter().map(|(chunk, ChunkVersion(version))| (counter(chunk), version)).collect()
}

#[tokio::test]
async fn what_a_page_covers_and_does_not_name_is_a_stray() {
    let store = store_of(1..=8).await;
    assert_eq!(strays(&store), [], "nobody has said anything");
    assert_eq!(store.all_chunks().len(), 8);
    store.compare(true, range(0, id(3).0), &ids(&[1, 3]));
    assert_eq!(strays(&store), [(2, 1)], "of the others nothing is known yet");
    // Two that are not here: they are missing, which is another matter.
    store.compare(false, range(id(4).0, id(6).0), &ids(&[4, 5, 6, 99]));
    store.compare(false, range(id(7).0, u64::MAX), &ids(&[100]));
    assert_eq!(strays(&store), [(2, 1), (7, 1), (8, 1)]);
    store.compare(true, range(0, id(3).0), &ids(&[1, 2, 3]));
    assert_eq!(strays(&store), [], "what was said before is out of date");
}

#[tokio::test]
async fn a_leader_that_says_no_range_makes_no_strays() {
    let store = store_of(1..=3).await;
    store.compare(true, everything(), &ids(&[1]));
    assert_eq!(strays(&store).len(), 2);
    store.compare(true, None, &ids(&[1]));
    assert_eq!(strays(&store), []);
    // No more does one that says nonsense.
    store.compare(true, range(id(3).0, id(1).0), &ids(&[]));
    assert_eq!(strays(&store), []);
}

#[tokio::test]
async fn a_stray_is_told_at_the_version_that_its_header_has_until_it_is_gone() {
    let store = store_of(1..=2).await;
    let join = Prepare { chunk: id(3), version: version(5), join: true, old_grant: grant(1) };
    store.prepare(join).await.unwrap();
    store.compare(true, everything(), &ids(&[1]));
    assert_eq!(strays(&store), [(2, 1), (3, 5)], "complete or not");
    prepare(&store, 2, 4).await.unwrap();
    assert_eq!(strays(&store), [(2, 4), (3, 5)], "a Delete up to 1 would be refused now");
    store.delete(id(3), version(5), 1).await.unwrap();
    assert_eq!(strays(&store), [(2, 4)]);
    // What is made anew was not there when the leader spoke.
    store.prepare(join).await.unwrap();
    assert_eq!(strays(&store), [(2, 4)]);
}

/// Its deletion would be refused as long as that disk may come back.
#[tokio::test]
async fn what_is_on_a_failed_disk_too_is_not_told() {
    let (failing, healthy) = (memory(), memory());
    let store = try_open(vec![failing.clone(), healthy], 1).await.unwrap();
    store.adopt(CLUSTER, SERVER).await.unwrap();
    for chunk in 1..=8 {
        write(&store, chunk, 0, b"x").await.unwrap();
    }
    let before = store.disks()[0].chunks;
    assert!((1..8).contains(&before), "both disks are used: {before}");
    store.compare(true, everything(), &ids(&[]));
    assert_eq!(strays(&store).len(), 8);
    failing.kill();
    for chunk in 1..=8 {
        let _ = write(&store, chunk, BLOCK, b"y").await;
    }
    assert!(store.disks()[0].failed.is_some());
    assert_eq!(strays(&store).len() as u64, 8 - before);
    // A copy that is made beside it does not change that.
    let gone = store.all_chunks().into_iter().find(|chunk| store.lost_chunks().contains(chunk)).unwrap();
    let join = Prepare { chunk: gone, version: version(2), join: true, old_grant: grant(1) };
    store.prepare(join).await.unwrap();
    assert!(!store.stray_chunks().iter().any(|(chunk, _)| *chunk == gone));
}
