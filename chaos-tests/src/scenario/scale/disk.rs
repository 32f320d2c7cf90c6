//! How many bytes a metadata node's data folder takes on the disk. Table files that state and checkpoints share count once.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Bytes of one of the kernel's blocks.
const BLOCK_BYTES: u64 = 512;

/// A data folder's parts, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Disk {
    pub(super) state: u64,
    /// What checkpoints hold and the state does not.
    pub(super) checkpoints: u64,
    pub(super) log: u64,
}

/// Of one metadata node, which may be running.
pub(super) fn disk(data: &Path) -> Result<Disk> {
    let mut seen = BTreeSet::new();
    Ok(Disk {
        state: bytes(&data.join("state"), &mut seen)?,
        checkpoints: bytes(&data.join("snapshots"), &mut seen)?,
        log: bytes(&data.join("log"), &mut seen)?,
    })
}

/// Bytes of what has not been seen yet.
fn bytes(folder: &Path, seen: &mut BTreeSet<(u64, u64)>) -> Result<u64> {
    std::fs::metadata(folder).with_context(|| folder.display().to_string())?;
    let mut sum = 0;
    for entry in walkdir::WalkDir::new(folder) {
        let metadata = match entry.and_then(|entry| entry.metadata()) {
            Ok(metadata) => metadata,
            // A running node drops files.
            Err(error) if error.io_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => continue,
            Err(error) => return Err(error).with_context(|| folder.display().to_string()),
        };
        if seen.insert((metadata.dev(), metadata.ino())) {
            sum += metadata.blocks() * BLOCK_BYTES;
        }
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hard_links_count_once_and_for_the_state() {
        let data = tempfile::tempdir().expect("a folder");
        let [state, snapshots, log] = ["state", "snapshots", "log"].map(|name| data.path().join(name));
        for folder in [&state, &snapshots, &log] {
            std::fs::create_dir(folder).expect("made");
        }
        let empty = disk(data.path()).expect("counted");
        std::fs::write(state.join("1.sst"), vec![1; 100 << 10]).expect("written");
        std::fs::hard_link(state.join("1.sst"), snapshots.join("1.sst")).expect("linked");
        std::fs::write(log.join("1.seg"), vec![1; 50 << 10]).expect("written");
        let full = disk(data.path()).expect("counted");
        assert!(full.state - empty.state >= 100 << 10 && full.log - empty.log >= 50 << 10, "{full:?}");
        assert_eq!(full.checkpoints, empty.checkpoints);
        std::fs::remove_file(state.join("1.sst")).expect("removed");
        assert!(disk(data.path()).expect("counted").checkpoints - empty.checkpoints >= 100 << 10);
    }

    #[test]
    fn a_folder_that_is_not_there_is_no_empty_one() {
        assert!(disk(Path::new("/caribou-no-such-folder")).is_err());
    }
}
