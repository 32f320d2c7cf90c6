//! Snapshots are checkpoints of the state: hard links in a folder of their own, made in milliseconds while entries go on being applied.
//!
//! `snapshots/<term>-<index>-<number>` exists only once it is complete and fsynced; the newest one is kept, older ones go when their last
//! reader is done. [`receive`] gathers one that is sent to this node.

pub(crate) mod receive;
#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caribou_failpoints::{self as failpoints, Point};
use parking_lot::Mutex;

use super::codec::entry::AppliedState;
use super::files::{self, OwnedDir};
use super::state::{StateError, StateStore};
use super::types::SnapshotMeta;

/// The folder's prefix while a checkpoint is being made.
const BUILDING: &str = "building-";

/// A complete, durable checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    dir: OwnedDir,
    applied: AppliedState,
}

/// One file of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SnapshotFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// What travels through the library.
#[derive(Debug)]
pub(crate) enum SnapshotData {
    /// Made here.
    Checkpoint(Arc<Checkpoint>),
    /// Sent by the leader: complete and fsynced in this folder.
    Received(receive::Received),
}

impl Checkpoint {
    pub(crate) fn meta(&self) -> SnapshotMeta {
        SnapshotMeta { last_log_id: self.applied.log_id, last_membership: self.applied.membership.clone() }
    }

    pub(crate) fn feature_level(&self) -> u32 {
        self.applied.feature_level
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The same id from the same node stands for the same bytes.
    pub(crate) fn id(&self) -> String {
        self.path().file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn files(&self) -> io::Result<Vec<SnapshotFile>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(self.path())? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if is_snapshot_file(&name) {
                files.push(SnapshotFile { name, bytes: entry.metadata()?.len() });
            }
        }
        files.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(files)
    }
}

/// Table files and what describes them; not RocksDB's own log, lock and identity.
pub(crate) fn is_snapshot_file(name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    name == "CURRENT"
        || name.strip_suffix(".sst").is_some_and(number)
        || name.strip_prefix("MANIFEST-").is_some_and(number)
        || name.strip_prefix("OPTIONS-").is_some_and(number)
}

/// The checkpoints of this node.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    dir: PathBuf,
    current: Mutex<Option<Arc<Checkpoint>>>,
    /// One checkpoint at a time.
    building: Mutex<u64>,
}

impl SnapshotStore {
    /// Finds the newest checkpoint; everything else in the folder goes.
    pub(crate) fn open(dir: &Path, state: &StateStore) -> Result<Self, StateError> {
        files::create_dir(dir)?;
        let mut complete = Vec::new();
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            match parse(&path) {
                Some(position) => complete.push((position, path)),
                None => files::remove_dir(&path)?,
            }
        }
        complete.sort();
        let newest = complete.pop();
        for (_, old) in complete {
            files::remove_dir(&old)?;
        }
        let number = newest.as_ref().map_or(0, |((_, _, number), _)| *number);
        let current = newest
            .map(|(_, path)| {
                let applied = state.applied_in(&path)?;
                Ok::<_, StateError>(Arc::new(Checkpoint { dir: OwnedDir::new(path), applied }))
            })
            .transpose()?;
        Ok(Self { dir: dir.to_owned(), current: Mutex::new(current), building: Mutex::new(number) })
    }

    pub(crate) fn current(&self) -> Option<Arc<Checkpoint>> {
        self.current.lock().clone()
    }

    /// Makes a checkpoint of the state as it is and keeps it as the current one.
    pub(crate) fn build(&self, state: &StateStore) -> Result<Arc<Checkpoint>, StateError> {
        let mut number = self.building.lock();
        *number += 1;
        let building = self.dir.join(format!("{BUILDING}{number}"));
        files::remove_dir(&building)?;
        let applied = state.checkpoint(&building)?;
        failpoints::pass(Point::CheckpointMade);
        let (term, index) = applied.log_id.map_or((0, 0), |id| (id.committed_leader_id().term, id.index()));
        let path = self.dir.join(format!("{term:020}-{index:020}-{number:08}"));
        // RocksDB has fsynced the files and the folder itself; the name in its parent is ours to make durable before the log is purged.
        files::rename_into(&self.dir, &building, &path)?;
        failpoints::pass(Point::CheckpointRenamed);
        let checkpoint = Arc::new(Checkpoint { dir: OwnedDir::new(path), applied });
        // Let go of outside the lock, which Raft's one thread takes too: the last user of the old one deletes its folder.
        let old = self.current.lock().replace(Arc::clone(&checkpoint));
        if let Some(old) = old {
            old.dir.mark_obsolete();
        }
        tracing::info!(index, "a checkpoint of the state has been made");
        Ok(checkpoint)
    }

    /// Makes a snapshot the state, and the current snapshot.
    pub(crate) fn install(
        &self,
        state: &StateStore,
        meta: &SnapshotMeta,
        data: SnapshotData,
    ) -> Result<(), StateError> {
        let expected =
            AppliedState { log_id: meta.last_log_id, membership: meta.last_membership.clone(), feature_level: 0 };
        let received = match data {
            SnapshotData::Received(received) => received.path().to_owned(),
            SnapshotData::Checkpoint(checkpoint) => link_into(&checkpoint, &state.incoming())?,
        };
        state.install(&received, &expected)?;
        self.build(state)?;
        Ok(())
    }
}

/// `(term, index, number)` of a complete checkpoint's name.
fn parse(path: &Path) -> Option<(u64, u64, u64)> {
    let name = path.file_name()?.to_str()?;
    let mut parts = name.split('-').map(|part| part.parse().ok());
    let position = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(position)
}

/// Hard links of a checkpoint's files in a fresh folder.
fn link_into(checkpoint: &Checkpoint, dir: &Path) -> io::Result<PathBuf> {
    files::remove_dir(dir)?;
    files::create_dir(dir)?;
    for file in checkpoint.files()? {
        let (from, to) = (checkpoint.path().join(&file.name), dir.join(&file.name));
        // Table files are never changed; the others may be, so they are copied.
        if file.name.ends_with(".sst") { fs::hard_link(from, to)? } else { fs::copy(from, to).map(drop)? }
    }
    files::sync_tree(dir)?;
    Ok(dir.to_owned())
}
