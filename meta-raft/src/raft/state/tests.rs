//! The state on disk: crash, checkpoint, views across an installation.

use bytes::Bytes;
use caribou_proto::ids::NodeId;

use super::db::Stall;
use super::*;
use crate::fsm::FEATURE_LEVEL;
use crate::fsm::command::{Command, Entry, InitCluster};
use crate::fsm::error::Fatal;
use crate::fsm::tables::{Table, Tables, Visit, conformance, meta};
use crate::raft::codec::command::encode;
use crate::raft::types::{EntryPayload, Payload, log_id};

fn config(dir: &Path) -> RaftConfig {
    let mut config = RaftConfig::new(NodeId(1), dir);
    (config.block_cache_bytes, config.write_buffer_bytes) = (1 << 20, 4 << 20);
    config
}

fn commands(commands: Vec<Command>, time_ns: i64) -> Work {
    Work::Commands(Entry { feature_level: FEATURE_LEVEL, time_ns, commands })
}

fn init() -> Work {
    commands(vec![Command::InitCluster(InitCluster { uuid: [7; 16], generation: 1, nonce: 3, default_goal: 2 })], 1)
}

fn session(index: u64) -> (crate::raft::types::LogId, Work) {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&index.to_be_bytes());
    (log_id(1, index), commands(vec![Command::OpenSession { key, name: "c".into() }], 10 + index as i64))
}

fn filled(dir: &Path, upto: u64) -> StateStore {
    let store = StateStore::open(dir, &config(dir)).unwrap();
    store.apply(&[(log_id(1, 1), init())]).unwrap();
    store.apply(&(2..=upto).map(session).collect::<Vec<_>>()).unwrap();
    store
}

#[test]
fn grouping_shows_nowhere() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = filled(a.path(), 50);
    let other = StateStore::open(b.path(), &config(b.path())).unwrap();
    other.apply(&[(log_id(1, 1), init())]).unwrap();
    (2..=50).for_each(|i| drop(other.apply(&[session(i)]).unwrap()));
    assert_eq!(one.view().state_hash().unwrap(), other.view().state_hash().unwrap());
    assert_eq!(one.applied(), other.applied());
}

#[test]
fn who_flushes_merges_files_where_nobody_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let config = RaftConfig { merges_beside: false, ..config(dir.path()) };
    let store = StateStore::open(dir.path(), &config).unwrap();
    store.apply(&[(log_id(1, 1), init())]).unwrap();
    let mut most = 0;
    for index in 2..=50 {
        store.apply(&[session(index)]).unwrap();
        store.flush().unwrap();
        let db = store.db();
        let files = db.db().property_int_value_cf(db.family(Table::Sessions), db::FLUSHED_FILES).unwrap();
        most = most.max(files.unwrap());
    }
    assert_eq!(most, db::MERGE_FILES - 1, "the flush that makes them too many merges them");
    let other = tempfile::tempdir().unwrap();
    assert_eq!(store.view().state_hash().unwrap(), filled(other.path(), 50).view().state_hash().unwrap());
}

#[test]
fn what_is_not_in_memory_is_left_to_a_thread_that_may_wait() {
    let dir = tempfile::tempdir().unwrap();
    filled(dir.path(), 50).flush().unwrap();
    // Opened anew: the rows are on the disk alone. The retried opening looks for one of them.
    let store = StateStore::open(dir.path(), &config(dir.path())).unwrap();
    let (before, retried) = (store.view().state_hash().unwrap(), (log_id(1, 51), session(20).1));
    assert!(store.apply_in_memory(std::slice::from_ref(&retried)).unwrap().is_none());
    assert_eq!((store.applied_index(), store.view().state_hash().unwrap()), (50, before), "nothing has been done");
    let waited = store.apply(&[retried]).unwrap();
    // Now they are in the cache.
    let again = store.apply_in_memory(&[(log_id(1, 52), session(20).1)]).unwrap().expect("all in memory");
    assert_eq!((again.replies, store.applied_index()), (waited.replies, 52));
}

#[test]
fn the_tables_conform() {
    let dir = tempfile::tempdir().unwrap();
    let settings = db::Settings::new(1 << 20, 4 << 20);
    let mut db = StateDb::open(OwnedDir::new(dir.path().to_owned()), &settings).unwrap();
    conformance::run(&mut db, |db, changes| db.commit(changes, &AppliedState::default(), Stall::Wait).unwrap());
}

/// Each call sees a view of its own.
struct Views(StateStore);

impl Tables for Views {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        self.0.view().get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Fatal> {
        self.0.view().scan(table, from, visit)
    }
}

#[test]
fn views_conform() {
    let dir = tempfile::tempdir().unwrap();
    let mut views = Views(StateStore::open(dir.path(), &config(dir.path())).unwrap());
    conformance::run(&mut views, |views, changes| {
        views.0.db().commit(changes, &AppliedState::default(), Stall::Wait).unwrap()
    });
}

#[test]
fn a_flushed_state_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 20);
    let hash = store.view().state_hash().unwrap();
    store.flush().unwrap();
    drop(store);
    let store = StateStore::open(dir.path(), &config(dir.path())).unwrap();
    assert_eq!((store.applied_index(), store.view().state_hash().unwrap()), (20, hash));
}

#[test]
fn views_stay_as_they_are_even_when_the_state_is_replaced() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ahead = filled(a.path(), 40);
    let expected = ahead.checkpoint(&b.path().join("checkpoint")).unwrap();
    assert_eq!(expected, ahead.applied());
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 10);
    let old = store.view();
    store.apply(&[session(11)]).unwrap();
    let hash = old.state_hash().unwrap();
    std::fs::rename(b.path().join("checkpoint"), store.incoming()).unwrap();
    store.install(&store.incoming(), &expected).unwrap();
    assert_eq!(store.applied_index(), 40);
    assert_eq!(store.view().state_hash().unwrap(), ahead.view().state_hash().unwrap());
    assert_eq!(old.state_hash().unwrap(), hash);
    let mut rows = 0;
    old.scan(Table::Sessions, &[], &mut |_, _| {
        rows += 1;
        Visit::Next
    })
    .unwrap();
    assert_eq!(rows, 9);
    assert!(dir.path().join("00000001").exists());
    drop(old);
    assert!(!dir.path().join("00000001").exists(), "the old state goes with its last view");
    store.apply(&[session(41)]).unwrap();
    drop(store);
    let store = StateStore::open(dir.path(), &config(dir.path())).unwrap();
    assert_eq!(store.applied_index(), 40, "what was not flushed is brought back by the log");
    store.apply(&[session(41)]).unwrap();
    store.flush().unwrap();
    drop(store);
    assert_eq!(StateStore::open(dir.path(), &config(dir.path())).unwrap().applied_index(), 41);
}

#[test]
fn another_snapshot_than_announced_is_refused() {
    let (a, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut expected = filled(a.path(), 5).checkpoint(&a.path().join("checkpoint")).unwrap();
    expected.log_id = Some(log_id(1, 6));
    let store = filled(dir.path(), 3);
    std::fs::rename(a.path().join("checkpoint"), store.incoming()).unwrap();
    assert!(matches!(store.install(&store.incoming(), &expected), Err(StateError::WrongSnapshot { .. })));
    assert_eq!(store.applied_index(), 3);
}

#[test]
fn a_damaged_entry_stops_the_node() {
    let dir = tempfile::tempdir().unwrap();
    let store = filled(dir.path(), 3);
    let payload = |bytes: Bytes| EntryPayload::Normal(Payload(bytes));
    let bad = Work::decode(4, payload(Bytes::from_static(b"\xff\xff")));
    assert!(matches!(bad, Err(StateError::Command { index: 4, .. })));
    let above = Entry { feature_level: FEATURE_LEVEL + 1, time_ns: 99, commands: Vec::new() };
    let error = Work::decode(4, payload(encode(above.clone()))).unwrap_err();
    assert!(error.to_string().contains("upgrade this node"), "{error}");
    let error = store.apply(&[(log_id(1, 4), Work::Commands(above))]).unwrap_err();
    assert!(error.to_string().contains("upgrade this node"), "{error}");
    assert_eq!(store.applied_index(), 3);
    assert!(meta::cluster(&store.view()).unwrap().is_some());
}
