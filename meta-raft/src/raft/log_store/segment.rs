//! One file of the log: as large as it will ever be before its first frame is written.
//!
//! A write into blocks that exist already and have been written before changes no inode, so that its fsync is one write and one flush.
//! Files are therefore filled with zeros, and used again once what they held is purged.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use caribou_failpoints::{self as failpoints, Point};

use super::format::{HEADER_BYTES, Header, damaged};
use crate::raft::files;

/// Number of a log's first segment.
pub(super) const FIRST_SEGMENT: u64 = 1;
const SUFFIX: &str = "seg";
/// What is not finished; removed at the next start.
const UNFINISHED: &str = "new";
/// What waits to be used again, or is being made into another segment; removed at the next start.
const RETIRED: &str = "used";
/// Found in a log of another form.
const FOREIGN: &str = "CURRENT";
/// Zeros are written and synced in steps, so that an append that comes meanwhile waits for one of them at most.
const ZEROS_BYTES: usize = 1 << 20;

/// An open segment; every write is on disk when it returns.
#[derive(Debug)]
pub(super) struct Segment {
    header: Header,
    path: PathBuf,
    file: File,
}

fn path_of(dir: &Path, number: u64, suffix: &str) -> PathBuf {
    dir.join(format!("{number:016x}.{suffix}"))
}

/// What is in a log's folder.
#[derive(Debug, Default)]
pub(super) struct Listed {
    /// The segments' numbers, rising.
    pub(super) numbers: Vec<u64>,
    /// What is no segment any more, or none yet.
    pub(super) leftovers: Vec<PathBuf>,
}

/// Looks, and changes nothing.
pub(super) fn list(dir: &Path) -> io::Result<Listed> {
    let mut listed = Listed::default();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let part = |part: Option<&OsStr>| part.and_then(OsStr::to_str).unwrap_or_default().to_owned();
        match part(path.extension()).as_str() {
            UNFINISHED | RETIRED => listed.leftovers.push(path),
            SUFFIX => {
                let number = u64::from_str_radix(&part(path.file_stem()), 16)
                    .map_err(|_| damaged(format!("{} is not the name of a segment", path.display())))?;
                listed.numbers.push(number);
            }
            _ if path.ends_with(FOREIGN) => {
                return Err(damaged("it is a RocksDB instance, which this version does not read"));
            }
            _ => {}
        }
    }
    listed.numbers.sort_unstable();
    Ok(listed)
}

impl Segment {
    /// Makes segment `number` of `bytes`, out of a retired one if there is one.
    pub(super) fn create(dir: &Path, number: u64, bytes: u64, retired: Option<PathBuf>) -> io::Result<Self> {
        let unfinished = retired.unwrap_or_else(|| path_of(dir, number, UNFINISHED));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&unfinished)?;
        let have = file.metadata()?.len();
        if have > bytes {
            file.set_len(bytes)?;
        }
        fill(&file, have.min(bytes), bytes)?;
        let header = Header { number, salt: rand::random() };
        file.write_all_at(&header.encode(), 0)?;
        file.sync_all()?;
        failpoints::pass(Point::SegmentFilled);
        let path = path_of(dir, number, SUFFIX);
        files::rename_into(dir, &unfinished, &path)?;
        failpoints::pass(Point::SegmentRenamed);
        Ok(Self { header, file: open(&path)?, path })
    }

    /// Opens segment `number`; its bytes after the header.
    pub(super) fn open(dir: &Path, number: u64) -> io::Result<(Self, Vec<u8>)> {
        let path = path_of(dir, number, SUFFIX);
        let mut bytes = fs::read(&path)?;
        let header = Header::decode(&bytes)?;
        if header.number != number {
            return Err(damaged(format!("it says that it is segment {:x}", header.number)));
        }
        let segment = Self { header, file: open(&path)?, path };
        Ok((segment, bytes.split_off(bytes.len().min(HEADER_BYTES as usize))))
    }

    pub(super) fn number(&self) -> u64 {
        self.header.number
    }

    pub(super) fn salt(&self) -> u64 {
        self.header.salt
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Takes it out of the log; its file can be used again, unless an earlier try has renamed it. Durably, so that the names that are left
    /// have no gap.
    pub(super) fn retire(&self, dir: &Path) -> io::Result<Option<PathBuf>> {
        let retired = path_of(dir, self.number(), RETIRED);
        let is_there = done_before(fs::rename(&self.path, &retired))?;
        files::sync_dir(dir)?;
        Ok(is_there.then_some(retired))
    }

    /// Takes it out of the log for good, as durably.
    pub(super) fn remove(&self, dir: &Path) -> io::Result<()> {
        done_before(fs::remove_file(&self.path))?;
        files::sync_dir(dir)
    }

    /// Writes and syncs.
    pub(super) fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    pub(super) fn read(&self, from: u64, to: u64) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; (to - from) as usize];
        self.file.read_exact_at(&mut bytes, from)?;
        Ok(bytes)
    }

    /// Makes durable what is in memory only: after a process's death its last write, the frame of `len` bytes that ends at `end`, may be. It
    /// is written again, not only synced: if its first write has failed, the page cache holds it as if it were on disk, and a sync does nothing.
    pub(super) fn settle(&self, end: u64, len: u64) -> io::Result<()> {
        let frame = self.read(end - len, end)?;
        self.write(&frame, end - len)?;
        self.file.sync_all()
    }
}

/// Whether a change of a name was made now; an earlier try may have made it and then failed.
fn done_before(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(libc::O_DSYNC).open(path)
}

fn fill(file: &File, from: u64, to: u64) -> io::Result<()> {
    let zeros = vec![0; ZEROS_BYTES];
    let mut at = from;
    while at < to {
        let step = (to - at).min(ZEROS_BYTES as u64);
        file.write_all_at(&zeros[..step as usize], at)?;
        file.sync_data()?;
        at += step;
    }
    Ok(())
}
