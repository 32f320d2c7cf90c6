//! A snapshot on its way to this node: files are gathered in `state/incoming` and resumed where they were after a broken connection.
//!
//! Every piece is checked against its CRC-32C as it comes; the files are fsynced before the whole is installed. After a write or an fsync
//! that failed nothing of it counts: the next offer begins with an empty folder.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use caribou_failpoints::{self as failpoints, Point};

use super::{SnapshotFile, is_snapshot_file};
use crate::raft::config::MAX_SNAPSHOT_FILES;
use crate::raft::files;

/// A complete, fsynced folder of a snapshot's files.
#[derive(Debug)]
pub(crate) struct Received {
    path: PathBuf,
}

impl Received {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// How far a snapshot under way has come, for operators.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    received: AtomicU64,
    total: AtomicU64,
}

impl Progress {
    /// Bytes received and in total; zeros when none is under way.
    pub(crate) fn get(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.total.load(Ordering::Relaxed))
    }

    pub(crate) fn set(&self, received: u64, total: u64) {
        self.received.store(received, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }
}

/// Why a piece or an offer is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    #[error("the snapshot's offer is invalid: {0}")]
    BadOffer(&'static str),
    #[error("a piece of file {file} at {offset} does not follow what has arrived")]
    OutOfOrder { file: u32, offset: u64 },
    #[error("a piece of file {file} at {offset} has been damaged on its way")]
    Damaged { file: u32, offset: u64 },
    #[error("files of the snapshot are missing")]
    Incomplete,
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What identifies the bytes that are being gathered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub(crate) from_node: u64,
    pub(crate) snapshot_id: String,
    pub(crate) files: Vec<SnapshotFile>,
}

/// The one snapshot that is being gathered.
#[derive(Debug)]
pub(crate) struct Gathering {
    dir: PathBuf,
    source: Option<Source>,
    have: Vec<u64>,
    open: Option<(u32, File)>,
}

impl Gathering {
    /// Nothing yet; `dir` is emptied when the first offer comes.
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, source: None, have: Vec::new(), open: None }
    }

    /// Begins or resumes: how many bytes of each file are already here.
    pub(crate) fn offer(&mut self, source: Source) -> Result<&[u64], ReceiveError> {
        check(&source.files)?;
        if self.source.as_ref() != Some(&source) {
            self.forget();
            files::remove_dir(&self.dir)?;
            files::create_dir(&self.dir)?;
            self.have = vec![0; source.files.len()];
            for file in source.files.iter().filter(|f| f.bytes == 0) {
                File::create(self.dir.join(&file.name))?;
            }
            self.source = Some(source);
            failpoints::pass(Point::SnapshotOffered);
        }
        Ok(&self.have)
    }

    /// Takes in one piece.
    pub(crate) fn data(&mut self, file: u32, offset: u64, data: &Bytes, crc32c: u32) -> Result<(), ReceiveError> {
        let (Some(source), Some(have)) = (&self.source, self.have.get(file as usize)) else {
            return Err(ReceiveError::OutOfOrder { file, offset });
        };
        let expected = &source.files[file as usize];
        if offset != *have || data.len() as u64 > expected.bytes - *have {
            return Err(ReceiveError::OutOfOrder { file, offset });
        }
        if crc32c::crc32c(data) != crc32c {
            return Err(ReceiveError::Damaged { file, offset });
        }
        let path = self.dir.join(&expected.name);
        if let Err(error) = self.write(file, &path, data, offset) {
            // What there is of a full disk's snapshot stays: the piece is written again at its place, and the sync at the end is the judge.
            if !matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
                self.forget();
            }
            return Err(error.into());
        }
        failpoints::pass(Point::SnapshotPieceWritten);
        self.have[file as usize] += data.len() as u64;
        Ok(())
    }

    fn write(&mut self, file: u32, path: &Path, data: &[u8], offset: u64) -> io::Result<()> {
        if self.open.as_ref().is_none_or(|(open, _)| *open != file) {
            self.open = Some((file, OpenOptions::new().create(true).truncate(false).write(true).open(path)?));
        }
        let (_, open) = self.open.as_ref().expect("opened above");
        open.write_all_at(data, offset)
    }

    pub(crate) fn received(&self) -> u64 {
        self.have.iter().sum()
    }

    pub(crate) fn total(&self) -> u64 {
        self.source.as_ref().map_or(0, |s| s.files.iter().map(|f| f.bytes).sum())
    }

    /// All files are here: makes them durable and hands them over.
    pub(crate) fn finish(&mut self) -> Result<Received, ReceiveError> {
        self.finish_with(files::sync_tree)
    }

    /// The same with another fsync, for tests.
    pub(super) fn finish_with(&mut self, sync: impl FnOnce(&Path) -> io::Result<()>) -> Result<Received, ReceiveError> {
        if self.source.is_none() || self.received() != self.total() {
            return Err(ReceiveError::Incomplete);
        }
        let durable = self.make_durable(sync);
        // Also if it has failed: an fsync that is tried again reports success, although the pages that the first one could not write are lost.
        self.forget();
        durable.map(|()| Received { path: self.dir.clone() })
    }

    fn make_durable(&self, sync: impl FnOnce(&Path) -> io::Result<()>) -> Result<(), ReceiveError> {
        for file in self.source.iter().flat_map(|source| &source.files) {
            if fs::metadata(self.dir.join(&file.name))?.len() != file.bytes {
                return Err(ReceiveError::Incomplete);
            }
        }
        failpoints::pass(Point::SnapshotGathered);
        sync(&self.dir)?;
        failpoints::pass(Point::SnapshotSynced);
        Ok(())
    }

    fn forget(&mut self) {
        self.source = None;
        self.have.clear();
        self.open = None;
    }
}

fn check(files: &[SnapshotFile]) -> Result<(), ReceiveError> {
    if files.is_empty() || files.len() > MAX_SNAPSHOT_FILES {
        return Err(ReceiveError::BadOffer("it has no files, or too many"));
    }
    if !files.iter().all(|f| is_snapshot_file(&f.name)) {
        return Err(ReceiveError::BadOffer("it has a file that is no part of a checkpoint"));
    }
    if !files.is_sorted_by(|a, b| a.name < b.name) {
        return Err(ReceiveError::BadOffer("its files are not in order"));
    }
    Ok(())
}
