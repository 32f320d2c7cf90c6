//! The door to a data folder: what the store needs from a file system, and nothing more.
//!
//! Calls block; only the threads of a disk's own pool make them (or, for a disk in memory, the caller itself).
//! Names are relative to the folder, parts separated by `/`. Nothing is durable before `sync_data` (a file's bytes and
//! length) or `sync_dir` (names) has returned. Implementations: [`super::file::FileDisk`], [`super::memory::MemoryDisk`];
//! one conformance suite runs on both (`tests/store_disk.rs`).

use std::any::Any;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// How long the next job on a disk in memory takes.
pub type JobTime = dyn Fn() -> Duration + Send + Sync;

/// Where the jobs on a disk run.
#[derive(Clone)]
pub enum Pace {
    /// On threads of the disk's own, which may block.
    Threads,
    /// At once, on the calling task: calls never block.
    AtOnce,
    /// As tasks, each at the end of its time: calls never block (simulation).
    Tasks(Arc<JobTime>),
}

impl Pace {
    pub fn never_blocks(&self) -> bool {
        !matches!(self, Self::Threads)
    }
}

/// One data folder.
pub trait Disk: Send + Sync + 'static {
    /// For people and logs.
    fn path(&self) -> &str;
    /// Opens a file for reading and writing.
    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn DiskFile>>;
    /// Replaces `to` if it exists. Not durable before `sync_dir` of both folders.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn unlink(&self, name: &str) -> io::Result<()>;
    /// Succeeds if the folder exists already.
    fn create_dir(&self, name: &str) -> io::Result<()>;
    /// Names in a folder (`""` is the data folder itself), in no order.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes the names in a folder durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Takes the folder until the guard is dropped, without changing anything in it. `WouldBlock` if another one has it.
    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>>;
    fn space(&self) -> io::Result<Space>;
    /// M16: stays the same for exactly as long as the page cache of this folder's file system lives. `None`: that cannot be known.
    fn boot(&self) -> Option<Boot> {
        None
    }
    /// Where the store runs its jobs on this disk.
    fn pace(&self) -> Pace {
        Pace::Threads
    }
}

/// An open file.
pub trait DiskFile: Send + Sync {
    /// Fills `buf` from `offset`; fewer bytes only at the end of the file.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()>;
    /// `fdatasync`: everything written before the call, and the length, is durable when it returns. A failure is final (W6).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes a range read as zeros, giving its space back where possible; the length stays.
    fn punch(&self, offset: u64, length: u64) -> io::Result<()>;
    /// Makes the file at least so long; what was never written reads as zeros.
    fn extend(&self, length: u64) -> io::Result<()>;
    fn len(&self) -> io::Result<u64>;
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// Which life of a page cache: of which boot, and since which mount of the file system within it (a volume that is taken away and
/// mounted again loses what was not synced, although the machine stays up).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    pub kernel: u64,
    pub mount: u64,
}

/// How to open a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// `NotFound` if it is missing.
    Existing,
    /// `AlreadyExists` if it is there.
    CreateNew,
    /// Created if missing, emptied if there.
    Truncate,
}

/// A file system's space.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    pub total_bytes: u64,
    pub free_bytes: u64,
}
