//! Checkpoints and the gathering of one that is sent.

use bytes::Bytes;
use caribou_proto::ids::NodeId;

use super::receive::{Gathering, ReceiveError, Source};
use super::*;
use crate::raft::config::RaftConfig;
use crate::raft::state::Work;
use crate::raft::types::log_id;

fn state(dir: &Path) -> StateStore {
    let mut config = RaftConfig::new(NodeId(1), dir);
    (config.block_cache_bytes, config.write_buffer_bytes) = (1 << 20, 4 << 20);
    StateStore::open(&dir.join("state"), &config).unwrap()
}

#[test]
fn the_newest_checkpoint_is_kept_and_older_ones_live_as_long_as_they_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let state = state(dir.path());
    let folder = dir.path().join("snapshots");
    let store = SnapshotStore::open(&folder, &state).unwrap();
    assert!(store.current().is_none());
    state.apply(&[(log_id(1, 1), Work::Blank)]).unwrap();
    let first = store.build(&state).unwrap();
    state.apply(&[(log_id(2, 2), Work::Blank)]).unwrap();
    store.build(&state).unwrap();
    assert_eq!(first.meta().last_log_id, Some(log_id(1, 1)));
    let path = first.path().to_owned();
    assert!(path.exists());
    drop(first);
    assert!(!path.exists());
    // Left-overs of a crash.
    fs::create_dir(folder.join("building-9.tmp")).unwrap();
    drop(store);
    let again = SnapshotStore::open(&folder, &state).unwrap();
    assert_eq!(again.current().unwrap().meta().last_log_id, Some(log_id(2, 2)));
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    // A checkpoint of the same position has a name of its own.
    assert_ne!(again.build(&state).unwrap().path(), path);
}

fn source(files: &[(&str, u64)]) -> Source {
    let files = files.iter().map(|(name, bytes)| SnapshotFile { name: (*name).to_owned(), bytes: *bytes }).collect();
    Source { from_node: 2, snapshot_id: "s".to_owned(), files }
}

fn piece(gathering: &mut Gathering, file: u32, offset: u64, text: &'static str) -> Result<(), ReceiveError> {
    let data = Bytes::from_static(text.as_bytes());
    let crc = crc32c::crc32c(&data);
    gathering.data(file, offset, &data, crc)
}

#[test]
fn gathering_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let incoming = dir.path().join("incoming");
    let mut gathering = Gathering::new(incoming.clone());
    let files = source(&[("000001.sst", 6), ("CURRENT", 0), ("MANIFEST-000002", 4)]);
    assert_eq!(gathering.offer(files.clone()).unwrap(), [0, 0, 0]);
    piece(&mut gathering, 0, 0, "abc").unwrap();
    assert!(matches!(gathering.finish(), Err(ReceiveError::Incomplete)));
    assert_eq!(gathering.offer(files.clone()).unwrap(), [3, 0, 0]);
    assert!(matches!(piece(&mut gathering, 0, 0, "abc"), Err(ReceiveError::OutOfOrder { .. })));
    assert!(matches!(piece(&mut gathering, 0, 3, "defg"), Err(ReceiveError::OutOfOrder { .. })));
    assert!(matches!(piece(&mut gathering, 9, 0, "x"), Err(ReceiveError::OutOfOrder { .. })));
    let damaged = gathering.data(0, 3, &Bytes::from_static(b"def"), 1);
    assert!(matches!(damaged, Err(ReceiveError::Damaged { .. })));
    piece(&mut gathering, 0, 3, "def").unwrap();
    piece(&mut gathering, 2, 0, "mani").unwrap();
    let received = gathering.finish().unwrap();
    assert_eq!(fs::read(received.path().join("000001.sst")).unwrap(), b"abcdef");
    assert!(received.path().join("CURRENT").exists());
    // Another snapshot begins anew.
    assert_eq!(gathering.offer(source(&[("000003.sst", 6)])).unwrap(), [0]);
    assert!(!incoming.join("000001.sst").exists());
}

#[test]
fn a_sync_that_has_failed_is_not_believed_the_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let incoming = dir.path().join("incoming");
    let mut gathering = Gathering::new(incoming.clone());
    let files = source(&[("000001.sst", 3), ("CURRENT", 0)]);
    assert_eq!(gathering.offer(files.clone()).unwrap(), [0, 0]);
    piece(&mut gathering, 0, 0, "abc").unwrap();
    let failed = gathering.finish_with(|_| Err(io::Error::other("the disk has lost a page")));
    assert!(matches!(failed, Err(ReceiveError::Io(_))), "{failed:?}");
    assert!(matches!(gathering.finish(), Err(ReceiveError::Incomplete)));
    assert_eq!(gathering.offer(files).unwrap(), [0, 0], "all of it is sent again");
    assert!(!incoming.join("000001.sst").exists());
    piece(&mut gathering, 0, 0, "abc").unwrap();
    gathering.finish().unwrap();
}

#[test]
fn a_piece_that_cannot_be_written_begins_it_anew() {
    let dir = tempfile::tempdir().unwrap();
    let incoming = dir.path().join("incoming");
    let mut gathering = Gathering::new(incoming.clone());
    let files = source(&[("000001.sst", 3), ("000002.sst", 3)]);
    gathering.offer(files.clone()).unwrap();
    piece(&mut gathering, 0, 0, "abc").unwrap();
    fs::create_dir(incoming.join("000002.sst")).unwrap();
    assert!(matches!(piece(&mut gathering, 1, 0, "def"), Err(ReceiveError::Io(_))));
    assert_eq!(gathering.offer(files).unwrap(), [0, 0]);
    assert_eq!(fs::read_dir(&incoming).unwrap().count(), 0);
}

#[test]
fn offers_cannot_name_other_files() {
    let dir = tempfile::tempdir().unwrap();
    let mut gathering = Gathering::new(dir.path().join("incoming"));
    for bad in
        [&[("../identity", 1)][..], &[("LOCK", 1)], &[], &[("000002.sst", 1), ("000001.sst", 1)], &[("x/1.sst", 1)]]
    {
        assert!(matches!(gathering.offer(source(bad)), Err(ReceiveError::BadOffer(_))), "{bad:?}");
    }
}
