//! Dropping this machine's caches of pages, names and attributes, so that what is read next comes from the file system.

use std::io;

/// Where the kernel takes the wish.
const DROP_CACHES: &str = "/proc/sys/vm/drop_caches";
/// Pages, names and inodes.
const ALL: &str = "3";

/// Whether caches can be dropped here, which only root may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caches {
    Dropped,
    /// Reads may come from the cache; workloads that would be called cold are not.
    Kept,
}

impl Caches {
    /// Tries it.
    pub fn probe() -> Self {
        match drop_all() {
            Ok(()) => Self::Dropped,
            Err(_) => Self::Kept,
        }
    }

    /// Writes everything out and drops the caches, if that is possible.
    ///
    /// # Errors
    /// If it was possible before and now is not: a figure would carry the wrong name.
    pub fn drop_now(self) -> io::Result<()> {
        match self {
            Self::Dropped => drop_all(),
            Self::Kept => Ok(()),
        }
    }

    /// The name of a workload that reads right after the drop.
    pub fn name(self, cold: &'static str, otherwise: &'static str) -> &'static str {
        match self {
            Self::Dropped => cold,
            Self::Kept => otherwise,
        }
    }
}

fn drop_all() -> io::Result<()> {
    rustix::fs::sync();
    std::fs::write(DROP_CACHES, ALL)
}
