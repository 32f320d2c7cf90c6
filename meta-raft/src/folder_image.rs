//! What a crash leaves of a node's folder: all files as they are at one moment, while the stores are still open. For tests and simulations.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Copies the folder. RocksDB's threads may be at work in it: a copy during which something changed is taken again.
pub fn take(from: &Path, to: &Path) -> io::Result<()> {
    loop {
        let before = listing(from);
        let copied = copy_tree(from, to);
        if copied.is_ok() && listing(from) == before {
            return Ok(());
        }
        // Only what has vanished meanwhile is no failure.
        if copied.as_ref().is_err_and(|error| error.kind() != io::ErrorKind::NotFound) {
            return copied;
        }
        std::fs::remove_dir_all(to)?;
    }
}

fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Names and lengths of all files.
fn listing(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut files = BTreeMap::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(m) if m.is_dir() => files.append(&mut listing(&entry.path())),
            Ok(m) => drop(files.insert(entry.path(), m.len())),
            // Gone since: the next listing differs.
            Err(_) => drop(files.insert(entry.path(), u64::MAX)),
        }
    }
    files
}
