//! The control of a power cut: un-synced blocks that are in the files of all replicas when the power goes, so that nothing but the cut can
//! take them. Their client has sent them, syncs nothing by itself, and dies before it could send them again (W5).

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use caribou_chunkd::store::stored::{DATA_AT, chunk_path};
use caribou_cli::cmd::file::info;

use super::round::IDS_PER_ROUND;
use super::{blocking, replicas};
use crate::block::{self, BLOCK, Content};
use crate::lab::Lab;
use crate::ledger::FileLedger;
use crate::report::Verdict;
use crate::wait;
use crate::workload::blocks::unsynced_places;
use crate::workload::worker::{Work, Worker};

/// 4 MiB: whole runs of 1 MiB leave the client at once, and it holds back less than one of them.
const BLOCKS: u64 = 1024;
/// How many of them have to be seen on the disks.
const LEAST_SEEN: usize = 512;
/// Its client syncs nothing in the background before the power goes.
const MOUNT: [&str; 2] = ["-o", "sync-after=10m"];
/// How long its writes may take, and then their way to the disks' page caches; the kernel leaves dirty pages alone for 30 s.
const PATIENCE: Duration = Duration::from_secs(10);
const LOOK: Duration = Duration::from_millis(10);

/// Its client and its writer, until the power goes.
pub(super) struct Control {
    id: u64,
    name: String,
    mount: PathBuf,
    worker: Worker,
    /// Un-synced blocks that all replicas have.
    seen: BTreeSet<u64>,
}

/// What is to be looked for afterwards.
pub(super) struct Remains {
    id: u64,
    name: String,
    ledger: FileLedger,
    seen: BTreeSet<u64>,
}

impl Control {
    /// Writes, and waits until the un-synced blocks are where the power cut is to take them from.
    pub(super) async fn begin(lab: &mut Lab, round: usize) -> Result<Self> {
        let mount = lab.mount(&MOUNT).await?;
        let (id, name) = ((round as u64 + 1) * IDS_PER_ROUND - 1, format!("control{round}"));
        let worker = Worker::start(&Work::Control { path: mount.join(&name), id, blocks: BLOCKS })?;
        let is_written = wait::until(PATIENCE, LOOK, async || worker.progress() > 0).await;
        ensure!(is_written, "the control's {BLOCKS} blocks were not written within {PATIENCE:?}");
        let seen = wait_seen(&replicas_of(lab, &name).await?, id).await?;
        Ok(Self { id, name, mount, worker, seen })
    }

    /// How many un-synced blocks all replicas have.
    pub(super) fn seen(&self) -> usize {
        self.seen.len()
    }

    /// After the cut, and before any server is back.
    pub(super) fn end(self, lab: &mut Lab) -> Result<Remains> {
        lab.cluster.kill_mount(&self.mount)?;
        let ledger = self.worker.finish()?;
        Ok(Remains { id: self.id, name: self.name, ledger, seen: self.seen })
    }
}

impl Remains {
    /// How many of the blocks that were seen are lost. What else is not as it was written is a violation.
    pub(super) async fn check(self, mount: &Path, verdict: &mut Verdict) -> Result<usize> {
        let path = mount.join(&self.name);
        let (wrong, lost) = blocking(move || {
            let lost = self.ledger.lost_unsynced(self.id, &path);
            Ok((self.ledger.verify(self.id, &path), lost.intersection(&self.seen).count()))
        })
        .await?;
        verdict.found(wrong);
        Ok(lost)
    }
}

/// The files of all replicas of the control's one chunk.
async fn replicas_of(lab: &Lab, name: &str) -> Result<Vec<PathBuf>> {
    let client = replicas::connect(lab, "control of a power cut").await?;
    let found = info(&client, &Path::new("/").join(name)).await;
    client.shutdown().await;
    let chunk = found?.chunks.into_iter().next().context("the control has no chunk, though it was fsynced")?;
    let place = chunk_path(replicas::id(&chunk)?);
    let files = replicas::folders(lab, &chunk).into_iter().map(|folder| folder.join(&place));
    let files: Vec<PathBuf> = files.filter(|file| file.exists()).collect();
    ensure!(files.len() == chunk.goal as usize, "the control has {} replicas, its goal is {}", files.len(), chunk.goal);
    Ok(files)
}

async fn wait_seen(files: &[PathBuf], id: u64) -> Result<BTreeSet<u64>> {
    let end = Instant::now() + PATIENCE;
    loop {
        let seen = seen_in(files, id)?;
        if seen.len() >= LEAST_SEEN {
            return Ok(seen);
        }
        ensure!(
            Instant::now() < end,
            "only {} of the control's {BLOCKS} blocks came to the servers' disks within {PATIENCE:?}: the power cut would show nothing",
            seen.len()
        );
        tokio::time::sleep(LOOK).await;
    }
}

/// Un-synced blocks that all of these files have. They are written once, so that any whole write is the one.
fn seen_in(files: &[PathBuf], id: u64) -> Result<BTreeSet<u64>> {
    let files = files.iter().map(File::open).collect::<std::io::Result<Vec<File>>>()?;
    let mut bytes = vec![0; BLOCK];
    let mut seen = BTreeSet::new();
    for place in unsynced_places(BLOCKS) {
        let mut copies = 0;
        for file in &files {
            file.read_exact_at(&mut bytes, DATA_AT + place * BLOCK as u64)?;
            copies += usize::from(matches!(block::read(id, place, &bytes), Content::Write { .. }));
        }
        if copies == files.len() {
            seen.insert(place);
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_that_all_replicas_have_are_seen() {
        let dir = tempfile::tempdir().expect("a folder");
        let paths = ["one", "other"].map(|name| dir.path().join(name));
        let files = [0, 1].map(|at| File::create(&paths[at]).expect("made"));
        for file in &files {
            file.set_len(DATA_AT + BLOCKS * BLOCK as u64).expect("made longer");
        }
        let write = |file: &File, place: u64, bytes: &[u8]| {
            file.write_all_at(bytes, DATA_AT + place * BLOCK as u64).expect("written");
        };
        for place in [0, 3, 5, 6] {
            write(&files[0], place, &block::make(7, place, 9));
        }
        for place in [0, 3, 4, 6] {
            write(&files[1], place, &block::make(7, place, 9));
        }
        write(&files[1], 6, b"mixed up");
        assert_eq!(seen_in(&paths, 7).expect("read"), BTreeSet::from([3]), "the first block is synced");
        assert_eq!(seen_in(&paths, 8).expect("read"), BTreeSet::new(), "another file's");
    }
}
