//! The applied state: one RocksDB instance with a column family per table and one, `raft`, for how far it has come.
//!
//! Its write-ahead log is off: the Raft log is it. One batch per applied group of entries carries the changes and the applied log id
//! together, and `atomic_flush` keeps the families together, so after a crash it opens at some earlier applied index and the log is
//! applied again from there. Each installed snapshot gets a folder of its own; views of the old one stay good until they are dropped.

mod apply;
mod db;
#[cfg(test)]
mod tests;
mod view;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use caribou_failpoints::{self as failpoints, Point};
use caribou_planted::{self as planted, Bug};
use parking_lot::RwLock;

use super::codec::entry::AppliedState;
use super::config::RaftConfig;
use super::files::{self, OwnedDir};
pub(crate) use apply::{Outcome, Work};
use db::StateDb;
pub use view::StateView;

/// Where a snapshot's files are gathered before they become the state.
pub(crate) const INCOMING: &str = "incoming";

/// Why the state cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StateError {
    #[error("the state's store failed: {0}")]
    Store(#[from] rocksdb::Error),
    #[error("the state's folder: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Record(#[from] super::codec::entry::RecordError),
    #[error("log entry {index}: {source}")]
    Command { index: u64, source: super::codec::command::CodecError },
    #[error("applying log entry {index} failed: {source}")]
    Apply { index: u64, source: crate::fsm::error::Fatal },
    #[error("log entry {index} comes after entry {applied} has been applied")]
    OutOfOrder { index: u64, applied: u64 },
    #[error("the snapshot holds {found}, its sender said {expected}")]
    WrongSnapshot { found: String, expected: String },
    #[error("the state has the table {0}, which this build does not know: upgrade this node")]
    UnknownTable(String),
}

impl From<StateError> for io::Error {
    fn from(e: StateError) -> Self {
        Self::other(e)
    }
}

/// The current state and the way to the next.
#[derive(Debug)]
pub(crate) struct StateStore {
    dir: PathBuf,
    options: db::Settings,
    current: RwLock<Current>,
}

#[derive(Debug)]
struct Current {
    db: Arc<StateDb>,
    number: u64,
    applied: AppliedState,
}

impl StateStore {
    /// Opens the newest state in `dir`, or makes an empty one. Left-overs of broken installs go.
    pub(crate) fn open(dir: &Path, config: &RaftConfig) -> Result<Self, StateError> {
        files::create_dir(dir)?;
        files::remove_dir(&dir.join(INCOMING))?;
        let mut numbers = numbered(dir)?;
        numbers.sort_unstable();
        let number = numbers.pop().unwrap_or(1);
        for old in numbers {
            files::remove_dir(&dir.join(name(old)))?;
        }
        let mut options = db::Settings::new(config.block_cache_bytes, config.write_buffer_bytes);
        options.merges_beside = config.merges_beside;
        let db = StateDb::open(OwnedDir::new(dir.join(name(number))), &options)?;
        files::sync_dir(dir)?;
        let applied = db.applied()?;
        let current = Current { db: Arc::new(db), number, applied };
        Ok(Self { dir: dir.to_owned(), options, current: RwLock::new(current) })
    }

    /// A consistent view of the state as it is now.
    pub(crate) fn view(&self) -> StateView {
        StateView::new(self.db())
    }

    pub(crate) fn applied(&self) -> AppliedState {
        self.current.read().applied.clone()
    }

    /// Index of the last applied entry, 0 before the first.
    pub(crate) fn applied_index(&self) -> u64 {
        self.current.read().applied.log_id.map_or(0, |id| id.index())
    }

    fn db(&self) -> Arc<StateDb> {
        Arc::clone(&self.current.read().db)
    }

    /// The folder in which snapshots are gathered.
    pub(crate) fn incoming(&self) -> PathBuf {
        self.dir.join(INCOMING)
    }

    /// Makes everything applied so far durable.
    pub(crate) fn flush(&self) -> Result<(), StateError> {
        let db = self.db();
        db.flush()?;
        if !self.options.merges_beside {
            db.merge()?;
        }
        Ok(())
    }

    /// Writes a checkpoint to `path`, which must not exist; returns what it holds, read from inside.
    pub(crate) fn checkpoint(&self, path: &Path) -> Result<AppliedState, StateError> {
        if !self.options.merges_beside {
            self.flush()?;
        }
        self.db().checkpoint(path)?;
        db::applied_in(path, &self.options)
    }

    /// What a checkpoint holds.
    pub(crate) fn applied_in(&self, path: &Path) -> Result<AppliedState, StateError> {
        db::applied_in(path, &self.options)
    }

    /// Makes the complete, fsynced folder `from` (inside the state's folder) the state. Reads go on meanwhile, on the old one.
    pub(crate) fn install(&self, from: &Path, expected: &AppliedState) -> Result<(), StateError> {
        let found = db::applied_in(from, &self.options)?;
        if found.log_id != expected.log_id || found.membership != expected.membership {
            return Err(StateError::WrongSnapshot {
                found: format!("{:?}", found.log_id),
                expected: format!("{:?}", expected.log_id),
            });
        }
        let number = self.current.read().number + 1;
        let to = self.dir.join(name(number));
        files::rename_into(&self.dir, from, &to)?;
        failpoints::pass(Point::InstallRenamed);
        let db = Arc::new(StateDb::open(OwnedDir::new(to), &self.options)?);
        failpoints::pass(Point::InstallOpened);
        if planted::is(Bug::SnapshotWithoutTable) {
            db.forget_inline_data()?;
        }
        let old = {
            let mut current = self.current.write();
            std::mem::replace(&mut *current, Current { db, number, applied: found })
        };
        failpoints::pass(Point::InstallSwapped);
        old.db.mark_obsolete();
        Ok(())
    }
}

fn name(number: u64) -> String {
    format!("{number:08}")
}

fn numbered(dir: &Path) -> io::Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(dir)? {
        if let Some(number) = entry?.file_name().to_str().filter(|n| n.len() == 8).and_then(|n| n.parse().ok()) {
            numbers.push(number);
        }
    }
    Ok(numbers)
}
