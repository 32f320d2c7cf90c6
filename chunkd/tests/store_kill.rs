//! A process dies after each change of its data folder, as by SIGKILL, on a real file system and from its very first start on: the folder
//! opens, and holds what had been done, and of what was being done any part.
//!
//! What a loss of power leaves is the matter of `store_crash.rs`, where the disk is in memory.

#![cfg(debug_assertions)] // a release build has no points

mod store_support;

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use caribou_chunkd::store::ChunkStore;
use caribou_chunkd::store::file::FileDisk;
use caribou_failpoints::{CHUNKD, FILE, Point, last_words};
use store_support::*;

/// Where the process works that is to die: with its folder `data`, and `done`, a byte for each step that it has done.
const PLACE: &str = "CARIBOU_TEST_PLACE";
const SIZE: usize = 2 * BLOCK;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Adopt,
    Fence,
    Write {
        chunk: u64,
        offset: usize,
        length: usize,
        byte: u8,
    },
    Sync {
        chunk: u64,
    },
    /// A minute later.
    Tick,
    Prepare,
    Complete,
    Delete,
    Purge,
    Close,
}

/// Chunk 1 is written and recovered, chunk 2 deleted.
const STORY: [Step; 15] = [
    Step::Adopt,
    Step::Fence,
    Step::Write { chunk: 1, offset: 0, length: 100_000, byte: 1 },
    Step::Sync { chunk: 1 },
    // Over the border of two blocks.
    Step::Write { chunk: 1, offset: 60_000, length: 9_000, byte: 2 },
    Step::Sync { chunk: 1 },
    Step::Tick,
    Step::Write { chunk: 1, offset: 10, length: 500, byte: 3 },
    Step::Prepare,
    Step::Complete,
    Step::Write { chunk: 2, offset: 0, length: 3_000, byte: 4 },
    Step::Sync { chunk: 2 },
    Step::Delete,
    Step::Purge,
    Step::Close,
];

async fn open_folder(place: &Path) -> Arc<ChunkStore> {
    let disk = FileDisk::open(&place.join("data")).unwrap();
    try_open(vec![Arc::new(disk)], 1).await.unwrap()
}

async fn carry_out(store: &ChunkStore, step: Step) {
    match step {
        Step::Adopt => store.adopt(CLUSTER, SERVER).await.unwrap(),
        Step::Fence => store.fence(1, 7).await.unwrap(),
        Step::Write { chunk, offset, length, byte } => {
            write(store, chunk, offset, &vec![byte; length]).await.map(drop).unwrap();
        }
        Step::Sync { chunk } => store.sync(id(chunk), version(1)).await.unwrap(),
        Step::Tick => store.tick(60_000).await,
        Step::Prepare => assert!(prepare(store, 1, 2).await.unwrap().found),
        Step::Complete => store.complete(id(1), version(2)).await.unwrap(),
        Step::Delete => store.delete(id(2), version(1), 1000).await.unwrap(),
        Step::Purge => assert_eq!(store.purge_quarantine(2000, Duration::ZERO).await.files, 1),
        Step::Close => store.close().await,
    }
}

/// What the process does that is to die; by itself it is no test.
#[tokio::test]
async fn story() {
    let Some(place) = std::env::var_os(PLACE) else { return };
    let place = Path::new(&place);
    let store = open_folder(place).await;
    let mut done = OpenOptions::new().create(true).append(true).open(place.join("done")).unwrap();
    for step in STORY {
        carry_out(&store, step).await;
        done.write_all(b".").unwrap();
    }
}

/// Lets a process live through the story until it passes a point for the `nth` time; whether it has died there.
fn dies(place: &Path, point: Point, nth: u64) -> bool {
    fs::create_dir(place.join("data")).unwrap();
    let order = place.join("kill");
    fs::write(&order, format!("{point:?}:{nth}")).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["story", "--exact", "--nocapture"]).env(PLACE, place).env(FILE, order);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return false;
    }
    let killed = output.status.signal() == Some(rustix::process::Signal::KILL.as_raw());
    assert!(killed && said.contains(&last_words(point)), "{point:?}:{nth}: {}\n{said}", output.status);
    true
}

/// A chunk's bytes after some steps; `None`: there is no replica.
fn content(chunk: u64, steps: &[Step]) -> Option<Vec<u8>> {
    let mut content = None;
    for step in steps {
        match *step {
            Step::Write { chunk: of, offset, length, byte } if of == chunk => {
                content.get_or_insert_with(|| vec![0; SIZE])[offset..offset + length].fill(byte);
            }
            Step::Delete if chunk == 2 => content = None,
            _ => {}
        }
    }
    content
}

/// The folder holds what has been done, and of the step after that any part.
async fn check(place: &Path) {
    let done = fs::read(place.join("done")).map_or(0, |bytes| bytes.len());
    let (before, after) = (&STORY[..done], &STORY[..STORY.len().min(done + 1)]);
    let store = open_folder(place).await;
    let has = |step| before.contains(&step);
    let is_or_was = |step| after.contains(&step);
    assert!(store.cluster() == Some(CLUSTER) || !has(Step::Adopt));
    assert!(store.fenced() == (1, 7) || (store.fenced() == (0, 0) && !has(Step::Fence)));
    assert!(!(has(Step::Close) && store.unclean()));
    assert_eq!((store.lost_chunks(), store.damaged_chunks()), (vec![], vec![]), "a kill is no damage");
    let deleted = fs::read_dir(place.join("data/quarantine/deleted")).unwrap().count();
    match deleted {
        0 => assert!(!has(Step::Delete) || is_or_was(Step::Purge), "R4"),
        1 => assert!(is_or_was(Step::Delete) && !has(Step::Purge)),
        _ => panic!("{deleted} replicas have been deleted"),
    }
    for chunk in [1, 2] {
        check_chunk(&store, chunk, content(chunk, before), content(chunk, after)).await;
    }
}

/// Each byte is as before, or as after what was being done.
async fn check_chunk(store: &ChunkStore, chunk: u64, before: Option<Vec<u8>>, after: Option<Vec<u8>>) {
    let Some(info) = store.replica(id(chunk)) else {
        assert!(before.is_none() || after.is_none(), "chunk {chunk} is gone");
        return;
    };
    assert!(before.is_some() || after.is_some(), "chunk {chunk} is there");
    let changes = before != after;
    let zeros = || vec![0; SIZE];
    let (before, after) = (before.unwrap_or_else(zeros), after.unwrap_or_else(zeros));
    let to = info.version.0 + 1;
    prepare(store, chunk, to).await.unwrap();
    let summed = store.resum_damaged(id(chunk), version(to)).await.unwrap();
    assert!(summed == 0 || changes, "{summed} blocks of chunk {chunk} are torn");
    store.complete(id(chunk), version(to)).await.unwrap();
    let found = read(store, chunk, to, 0, SIZE).await.unwrap();
    let wrong = (0..SIZE).find(|at| ![before[*at], after[*at]].contains(&found[*at]));
    assert_eq!(wrong, None, "chunk {chunk} has a byte that nobody wrote there");
}

#[tokio::test]
async fn a_folder_outlives_each_death() {
    for point in CHUNKD {
        for nth in 1.. {
            let place = tempfile::tempdir().unwrap();
            let died = dies(place.path(), *point, nth);
            check(place.path()).await;
            if !died {
                assert!(nth > 1, "{point:?} is never passed");
                break;
            }
        }
    }
}
