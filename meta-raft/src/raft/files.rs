//! Files and folders that have to survive a power cut, and folders that live as long as somebody reads them.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use caribou_failpoints::{self as failpoints, Point};

/// Makes the names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates `dir` (and its parents) durably.
pub(crate) fn create_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    sync_dir(dir)?;
    dir.parent().filter(|p| !p.as_os_str().is_empty()).map_or(Ok(()), sync_dir)
}

/// Renames a finished file or folder into place within `dir`, durably.
pub(crate) fn rename_into(dir: &Path, from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_dir(dir)
}

/// Replaces a small file, the identity, atomically and durably.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().ok_or_else(|| io::Error::other("a file has a folder"))?;
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    failpoints::pass(Point::IdentityWritten);
    rename_into(dir, &new, path)?;
    failpoints::pass(Point::IdentityRenamed);
    Ok(())
}

/// Removes a folder with its content; that it is not there is fine.
pub(crate) fn remove_dir(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Fsyncs every file in `dir` and the folder itself.
pub(crate) fn sync_tree(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            File::open(entry.path())?.sync_all()?;
        }
    }
    sync_dir(dir)
}

/// A folder that is removed when its last user lets go of it, once it has been marked obsolete.
#[derive(Debug)]
pub(crate) struct OwnedDir {
    path: PathBuf,
    obsolete: AtomicBool,
}

impl OwnedDir {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, obsolete: AtomicBool::new(false) }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn mark_obsolete(&self) {
        self.obsolete.store(true, Ordering::Release);
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        if !self.obsolete.load(Ordering::Acquire) {
            return;
        }
        failpoints::pass(Point::FolderObsolete);
        if let Err(error) = remove_dir(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "an obsolete folder could not be removed");
        }
        failpoints::pass(Point::FolderRemoved);
    }
}
