//! What a log is after restarts, torn writes and damage, against a naive list of entries.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use openraft::storage::{RaftLogReader as _, RaftLogStorageExt as _};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::segment::Segment;
use super::*;
use crate::raft::types::{EntryPayload, Payload, log_id, vote};

const SEGMENT: u64 = 64 << 10;

fn open(dir: &Path) -> io::Result<LogStore> {
    LogStore::open(dir, 16 << 10, SEGMENT, Blocking::Threads)
}

fn entry(term: u64, index: u64, bytes: usize) -> Entry {
    Entry { log_id: log_id(term, index), payload: EntryPayload::Normal(Payload(Bytes::from(vec![index as u8; bytes]))) }
}

async fn all(log: &mut LogStore) -> Vec<Entry> {
    log.get_log_reader().await.try_get_log_entries(0..u64::MAX).await.unwrap()
}

/// Where the next frame goes.
fn end(log: &LogStore) -> (PathBuf, u64) {
    let (segment, at) = log.shared.disk.end();
    (segment.path().to_owned(), at)
}

fn flip(path: &Path, at: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x20], at).unwrap();
}

/// Ten entries, each in a frame of its own; where each frame begins, and the end.
async fn ten(dir: &Path) -> Vec<(PathBuf, u64)> {
    let mut log = open(dir).unwrap();
    let mut ends = vec![end(&log)];
    for index in 0..10 {
        log.blocking_append([entry(1, index, 100)]).await.unwrap();
        ends.push(end(&log));
    }
    ends
}

#[tokio::test]
async fn a_torn_end_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let ends = ten(dir.path()).await;
    flip(&ends[9].0, ends[9].1 + 40);
    let mut log = open(dir.path()).unwrap();
    assert_eq!(all(&mut log).await.len(), 9);
    log.blocking_append([entry(2, 9, 10)]).await.unwrap();
    drop(log);
    let last = all(&mut open(dir.path()).unwrap()).await.pop().unwrap();
    assert_eq!(last.log_id, log_id(2, 9));
}

#[tokio::test]
async fn damage_before_the_end_is_refused() {
    for frame in 0..9 {
        let dir = tempfile::tempdir().unwrap();
        let ends = ten(dir.path()).await;
        flip(&ends[frame].0, ends[frame].1 + 40);
        let refused = open(dir.path()).unwrap_err().to_string();
        assert!(refused.contains("a frame that others follow is damaged"), "{frame}: {refused}");
    }
}

#[tokio::test]
async fn a_missing_segment_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let mut paths = vec![end(&log).0];
    for index in 0..200 {
        log.blocking_append([entry(1, index, 1000)]).await.unwrap();
        if end(&log).0 != paths[paths.len() - 1] {
            paths.push(end(&log).0);
        }
    }
    drop(log);
    assert!(paths.len() >= 3);
    std::fs::remove_file(&paths[1]).unwrap();
    let refused = open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("the one before it is missing"), "{refused}");
}

/// Entries of 1000 bytes until the log is in its sixth segment; the segments' paths and the last index in each.
async fn six_segments(log: &mut LogStore) -> Vec<(PathBuf, u64)> {
    let mut segments = vec![(end(log).0, 0)];
    for index in 0.. {
        log.blocking_append([entry(1, index, 1000)]).await.unwrap();
        let now = end(log).0;
        if segments[segments.len() - 1].0 != now {
            segments.push((now, index));
        }
        if segments.len() == 6 {
            break;
        }
        let newest = segments.len() - 1;
        segments[newest].1 = index;
    }
    segments
}

/// A segment whose name cannot be taken away stays, and so do those after it until that works: no name goes before an older one.
#[tokio::test]
async fn a_segment_that_could_not_be_dropped_leaves_no_gap() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let segments = six_segments(&mut log).await;
    let in_the_way = segments[0].0.with_extension("used");
    std::fs::create_dir(&in_the_way).unwrap();
    for (_, last) in &segments[..2] {
        log.purge(log_id(1, *last)).await.unwrap();
        log.handle().sync().await.unwrap();
    }
    // The writer drops after it has answered; the next answer comes after that.
    log.handle().sync().await.unwrap();
    assert!(segments.iter().all(|(path, _)| path.exists()), "nothing goes before the first one");
    std::fs::remove_dir(&in_the_way).unwrap();
    drop(log);
    let mut log = open(dir.path()).unwrap();
    log.purge(log_id(1, segments[2].1)).await.unwrap();
    for _ in 0..2 {
        log.handle().sync().await.unwrap();
    }
    let left: Vec<bool> = segments.iter().map(|(path, _)| path.exists()).collect();
    assert_eq!(left, [false, false, false, true, true, true]);
    drop(log);
    assert_eq!(all(&mut open(dir.path()).unwrap()).await[0].log_id, log_id(1, segments[2].1 + 1));
}

#[tokio::test]
async fn a_log_without_its_first_segments_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let segments = six_segments(&mut log).await;
    drop(log);
    std::fs::remove_file(&segments[0].0).unwrap();
    let refused = open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("the first segments of the Raft log are missing"), "{refused}");
}

fn files(dir: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().path()).collect()
}

/// Which numbers its frames should have is not known then, and those of the segments after it are far from a log's first one.
#[tokio::test]
async fn damage_to_the_oldest_frame_is_refused_and_every_file_stays() {
    // A segment has fewer than 256 frames, so that 600 are beyond what is looked for behind frame 1.
    const SMALL: u64 = 8 << 10;
    let dir = tempfile::tempdir().unwrap();
    let open = || LogStore::open(dir.path(), 16 << 10, SMALL, Blocking::Threads);
    let mut log = open().unwrap();
    for index in 0..1000 {
        log.blocking_append([entry(1, index, 0)]).await.unwrap();
    }
    log.purge(log_id(1, 600)).await.unwrap();
    // The writer drops after it has answered; the next answer comes after that.
    for _ in 0..2 {
        log.handle().sync().await.unwrap();
    }
    drop(log);
    let before = files(dir.path());
    let segments: Vec<_> = before.iter().filter(|path| path.extension().is_some_and(|e| e == "seg")).collect();
    assert!(segments.len() >= 4 && !segments[0].ends_with("0000000000000001.seg"), "{segments:?}");

    flip(segments[0], 4096 + 20);
    let refused = open().unwrap_err().to_string();
    assert!(refused.contains("the first frame of the oldest segment is damaged"), "{refused}");
    assert_eq!(files(dir.path()), before);

    flip(segments[0], 4096 + 20);
    let entries = all(&mut open().unwrap()).await;
    assert_eq!((entries[0].log_id, entries[entries.len() - 1].log_id), (log_id(1, 601), log_id(1, 999)));
}

/// A crash between the beginning of a segment and its first frame leaves two without frames.
#[tokio::test]
async fn what_a_log_does_not_need_goes_only_if_the_log_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let ends = ten(dir.path()).await;
    let spare = Segment::create(dir.path(), 3, SEGMENT, None).unwrap().path().to_owned();
    let (unfinished, retired) = (spare.with_extension("new"), spare.with_extension("used"));
    std::fs::write(&unfinished, "").unwrap();
    std::fs::write(&retired, "").unwrap();
    let before = files(dir.path());

    flip(&ends[4].0, ends[4].1 + 40);
    open(dir.path()).unwrap_err();
    assert_eq!(files(dir.path()), before);

    flip(&ends[4].0, ends[4].1 + 40);
    let mut log = open(dir.path()).unwrap();
    assert_eq!(all(&mut log).await.len(), 10);
    let left = files(dir.path());
    assert!([&spare, &unfinished, &retired].iter().all(|path| !left.contains(*path)), "{left:?}");
}

#[test]
fn a_log_of_another_form_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("CURRENT"), "MANIFEST-000004\n").unwrap();
    let refused = open(dir.path()).unwrap_err().to_string();
    assert!(refused.contains("RocksDB"), "{refused}");
}

/// The state was flushed while the truncation of what it had replaced was still queued, and then the power went.
#[tokio::test]
async fn entries_in_the_place_of_applied_ones_are_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.blocking_append((0..=10).map(|index| entry(1, index, 100))).await.unwrap();
    for applied in [log_id(1, 5), log_id(1, 10), log_id(2, 11), log_id(3, 20)] {
        log.drop_conflicting(applied).unwrap();
        assert_eq!(all(&mut log).await.len(), 11, "{applied}");
    }
    log.drop_conflicting(log_id(2, 5)).unwrap();
    for _ in 0..2 {
        assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(log_id(1, 4)));
        assert_eq!(all(&mut log).await.len(), 5);
        drop(log);
        log = open(dir.path()).unwrap();
    }
    log.blocking_append([entry(2, 5, 100)]).await.unwrap();
    assert_eq!(all(&mut log).await.pop().unwrap().log_id, log_id(2, 5));
}

/// What the log must be.
#[derive(Default)]
struct Model {
    entries: BTreeMap<u64, Entry>,
    purged: Option<LogId>,
    vote: Option<Vote>,
    term: u64,
    next: u64,
}

impl Model {
    async fn check(&self, log: &mut LogStore, what: &str) {
        let state = log.get_log_state().await.unwrap();
        let last = self.entries.values().last().map(|e| e.log_id).or(self.purged);
        assert_eq!((state.last_purged_log_id, state.last_log_id), (self.purged, last), "{what}");
        assert_eq!(log.get_log_reader().await.read_vote().await.unwrap(), self.vote, "{what}");
        let found = all(log).await;
        assert!(found.iter().eq(self.entries.values()), "{what}: {} entries", found.len());
    }

    async fn step(&mut self, log: &mut LogStore, rng: &mut StdRng) {
        match rng.random_range(0..20) {
            0 => {
                self.term += 1;
                self.vote = Some(vote(self.term, 1, rng.random()));
                log.save_vote(&self.vote.unwrap()).await.unwrap();
            }
            1 if !self.entries.is_empty() => {
                let first = *self.entries.first_key_value().unwrap().0;
                let from = rng.random_range(first..=self.next);
                let before = self.entries.range(..from).next_back().map(|(_, e)| e.log_id).or(self.purged);
                log.truncate_after(before).await.unwrap();
                self.entries.split_off(&before.map_or(0, |id| id.index() + 1));
                self.next = before.map_or(0, |id| id.index() + 1);
                self.term += 1;
            }
            2 | 3 if !self.entries.is_empty() => {
                let (first, last) = (*self.entries.first_key_value().unwrap().0, self.next - 1);
                let upto = self.entries[&rng.random_range(first..=last)].log_id;
                log.purge(upto).await.unwrap();
                self.entries = self.entries.split_off(&(upto.index() + 1));
                self.purged = Some(upto);
            }
            _ => {
                let sizes: Vec<usize> = (0..rng.random_range(1..6)).map(|_| rng.random_range(0..4000)).collect();
                let entries: Vec<Entry> =
                    (self.next..).zip(sizes).map(|(i, bytes)| entry(self.term, i, bytes)).collect();
                self.next += entries.len() as u64;
                self.entries.extend(entries.iter().map(|e| (e.log_id.index(), e.clone())));
                log.blocking_append(entries).await.unwrap();
            }
        }
    }
}

/// Every kind of change, restarts, and writes that the power cut in the middle, over many segments that are used again.
#[tokio::test]
async fn random_changes_restarts_and_torn_writes() {
    for seed in 0..8 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut log = open(dir.path()).unwrap();
        let mut model = Model { term: 1, ..Model::default() };
        for step in 0..400 {
            let what = format!("seed {seed}, step {step}");
            model.step(&mut log, &mut rng).await;
            if rng.random_ratio(1, 10) {
                log.handle().sync().await.unwrap();
                let before = end(&log);
                let is_torn = rng.random();
                if is_torn {
                    let unanswered = entry(model.term, model.next, rng.random_range(0..3000));
                    log.blocking_append([unanswered]).await.unwrap();
                }
                let after = end(&log);
                drop(log);
                if is_torn && before.0 == after.0 {
                    // Not in the padding at the end, which nobody reads.
                    flip(&before.0, rng.random_range(before.1..after.1 - 7));
                } else if is_torn {
                    // The frame is in a new segment, behind one that says how things stand.
                    flip(&after.0, after.1 - 8);
                }
                log = open(dir.path()).unwrap_or_else(|e| panic!("{what}: {e}"));
            }
            model.check(&mut log, &what).await;
        }
        let files = std::fs::read_dir(dir.path()).unwrap().count() as u64;
        let bound = log.handle().bytes() / SEGMENT + 4;
        assert!(files <= bound.max(6), "seed {seed}: {files} files");
    }
}
