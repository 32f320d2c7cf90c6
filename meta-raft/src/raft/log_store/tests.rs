//! The library's own store suite, and what it does not cover: restart, group commit, reads beyond memory.

use std::ops::Bound;

use bytes::Bytes;
use openraft::StorageError;
use openraft::storage::{RaftLogReader as _, RaftLogStorageExt as _};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::TypeConfigExt as _;
use tempfile::TempDir;
use tokio::sync::watch;

use super::*;
use crate::raft::config::RaftConfig;
use crate::raft::snapshot::SnapshotStore;
use crate::raft::state::StateStore;
use crate::raft::state_machine::StateMachine;
use crate::raft::types::{EntryPayload, Payload, log_id, vote};

/// Small, so that the tests go through several.
const SEGMENT: u64 = 64 << 10;

struct Stores;

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Stores {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let mut config = RaftConfig::new(caribou_proto::ids::NodeId(0), dir.path());
        (config.block_cache_bytes, config.write_buffer_bytes) = (1 << 20, 4 << 20);
        let log = LogStore::open(&dir.path().join("log"), 1 << 20, SEGMENT, Blocking::Threads).unwrap();
        let state = Arc::new(StateStore::open(&dir.path().join("state"), &config).unwrap());
        let snapshots = Arc::new(SnapshotStore::open(&dir.path().join("snapshots"), &state).unwrap());
        let machine =
            StateMachine::new(state, snapshots, log.handle(), Arc::new(|_| {}), watch::channel(0).0, Blocking::Threads);
        Ok((dir, log, machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_library_s_store_suite() {
    Suite::test_all(Stores).await.unwrap();
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Payload(Bytes::from(vec![index as u8; bytes]))) }
}

fn indices(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|e| e.log_id.index()).collect()
}

async fn all(log: &mut LogStore) -> Vec<Entry> {
    log.get_log_reader().await.try_get_log_entries((Bound::Included(0), Bound::Unbounded)).await.unwrap()
}

#[tokio::test]
async fn a_restart_finds_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 1 << 20, SEGMENT, Blocking::Threads).unwrap();
    log.save_vote(&vote(2, 1, true)).await.unwrap();
    log.blocking_append((0..20).map(|i| entry(2, i, 10))).await.unwrap();
    log.truncate_after(Some(log_id(2, 14))).await.unwrap();
    log.blocking_append((15..18).map(|i| entry(3, i, 10))).await.unwrap();
    log.purge(log_id(2, 3)).await.unwrap();
    log.handle().sync().await.unwrap();
    let before = all(&mut log).await;
    drop(log);

    let mut log = LogStore::open(dir.path(), 1 << 20, SEGMENT, Blocking::Threads).unwrap();
    assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), Some(vote(2, 1, true)));
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(log_id(2, 3)), Some(log_id(3, 17))));
    assert_eq!(all(&mut log).await, before);
    assert_eq!(indices(&before), (4..18).collect::<Vec<_>>());
}

#[tokio::test]
async fn what_memory_has_let_go_comes_from_disk() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 10_000, SEGMENT, Blocking::Threads).unwrap();
    for i in 0..100 {
        log.blocking_append([entry(1, i, 1000)]).await.unwrap();
    }
    assert!(log.shared.memory.read().tail.first() > 80);
    assert_eq!(indices(&all(&mut log).await), (0..100).collect::<Vec<_>>());
    let mut reader = log.get_log_reader().await;
    assert_eq!(indices(&reader.limited_get_log_entries(70, 75).await.unwrap()), [70, 71, 72, 73, 74]);
    log.truncate_after(Some(log_id(1, 49))).await.unwrap();
    log.blocking_append([entry(2, 50, 10)]).await.unwrap();
    let after = reader.limited_get_log_entries(48, 60).await.unwrap();
    assert_eq!(after.iter().map(|e| e.log_id).collect::<Vec<_>>(), [log_id(1, 48), log_id(1, 49), log_id(2, 50)]);
}

#[tokio::test]
async fn reads_are_bounded_by_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 64 << 20, SEGMENT, Blocking::Threads).unwrap();
    log.blocking_append((0..10).map(|i| entry(1, i, 400 << 10))).await.unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(indices(&reader.limited_get_log_entries(3, 10).await.unwrap()), [3, 4]);
    drop((log, reader));
    let mut log = LogStore::open(dir.path(), 1 << 20, SEGMENT, Blocking::Threads).unwrap();
    let mut reader = log.get_log_reader().await;
    assert_eq!(indices(&reader.limited_get_log_entries(3, 10).await.unwrap()), [3, 4]);
    assert_eq!(indices(&all(&mut log).await).len(), 10);
    assert!(log.handle().bytes() > 9 * (400 << 10));
}

#[tokio::test]
async fn what_has_queued_shares_an_fsync() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 64 << 20, SEGMENT, Blocking::Threads).unwrap();
    let mut flushed = Vec::new();
    for i in 0..500 {
        let (tx, rx) = TypeConfig::oneshot();
        log.append([entry(1, i, 100)], IOFlushed::signal(tx)).await.unwrap();
        flushed.push(rx);
    }
    for done in flushed {
        done.await.unwrap().unwrap();
    }
    let fsyncs = log.handle().counters().fsyncs.load(Ordering::Relaxed);
    assert!(fsyncs < 400, "{fsyncs} fsyncs for 500 appends");
}

#[tokio::test]
async fn a_hole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), 1 << 20, SEGMENT, Blocking::Threads).unwrap();
    log.blocking_append([entry(1, 0, 1), entry(1, 1, 1)]).await.unwrap();
    assert!(log.append([entry(1, 3, 1)], IOFlushed::noop()).await.is_err());
}
