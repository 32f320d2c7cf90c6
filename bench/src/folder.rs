//! The folder of a run: one run at a time on a machine, on a real disk; what a crashed one left behind is cleaned up first.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use caribou_cli::failure::usage;
use caribou_cli::local::{Binaries, Layout, LocalCluster};
use rustix::fs::FlockOperation;
use rustix::mount::UnmountFlags;

use crate::system::moosefs;

/// Prefix of every folder that a run makes.
const PREFIX: &str = "caribou-bench-run-";
/// Held by the run of this machine: two would measure each other.
const LOCK: &str = "/run/caribou-bench.lock";
/// What statfs says of a file system in memory.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// A folder that is removed with everything below it.
pub struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes one in `dir`.
    pub fn make(dir: &Path, binaries: Option<&Binaries>) -> Result<Self> {
        let lock = File::create(LOCK).context(LOCK)?;
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| usage("another run is measuring on this machine: wait for it"))?;
        for left in leftovers(dir) {
            eprintln!("cleaning up after a run that did not: {}", left.display());
            clean(&left, binaries)?;
        }
        let path =
            tempfile::Builder::new().prefix(PREFIX).tempdir_in(dir).with_context(|| dir.display().to_string())?;
        Ok(Self { path: path.keep(), _lock: lock })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An empty folder for one turn.
    pub fn turn(&self) -> Result<PathBuf> {
        let path = self.path.join("turn");
        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// Leaves everything behind, for somebody who wants to look.
    pub fn keep(mut self) -> PathBuf {
        std::mem::take(&mut self.path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.path.as_os_str().is_empty() {
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("caribou-bench: {} could not be removed: {error}", self.path.display());
        }
    }
}

/// Refuses memory: nobody keeps data there, and the systems would be measured without a disk.
pub fn check_is_on_disk(dir: &Path) -> Result<()> {
    let found = rustix::fs::statfs(dir).map_err(|e| usage(format!("{}: {e}", dir.display())))?;
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
    if found.f_type as i64 == TMPFS_MAGIC {
        return Err(usage(format!("{} is in memory: name a folder on a disk with --dir", dir.display())));
    }
    Ok(())
}

/// Folders of runs that ended without removing them. The lock is held, so none of them is at work.
fn leftovers(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter(|e| e.file_name().to_string_lossy().starts_with(PREFIX)).map(|e| e.path()).collect()
}

/// Processes, mounts and files below the folder of a crashed run.
fn clean(folder: &Path, binaries: Option<&Binaries>) -> Result<()> {
    let (data, mount) = (folder.join("turn/data"), folder.join("turn/mnt"));
    if Layout::exists(&data) {
        let binaries = binaries.cloned().map_or_else(|| Binaries::find(None), Ok)?;
        LocalCluster::open(&data, binaries)?.kill_all();
    } else if moosefs::version().is_ok() {
        moosefs::take_down()?;
    }
    // A mount whose process is gone: nothing else can be done with it.
    let _ = rustix::mount::unmount(&mount, UnmountFlags::DETACH);
    std::fs::remove_dir_all(folder).with_context(|| folder.display().to_string())
}
