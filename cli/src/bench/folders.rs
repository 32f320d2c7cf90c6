//! Which thread works in which folder, and what its files are called: named by thread and index, so that any thread can reach another's.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::{Rng, seq::SliceRandom};

use super::figure::Placement;

/// The folders of one run below a root.
#[derive(Debug, Clone)]
pub struct Folders {
    root: PathBuf,
    threads: usize,
    placement: Placement,
}

impl Folders {
    /// Makes them; none may be there.
    pub fn make(root: &Path, threads: usize, placement: Placement) -> Result<Self> {
        let folders = Self { root: root.to_owned(), threads, placement };
        folders.each(|path| std::fs::create_dir(path))?;
        Ok(folders)
    }

    /// Removes them; they have to be empty, or something was not removed that should have been.
    pub fn remove(self) -> Result<()> {
        self.each(|path| std::fs::remove_dir(path))
    }

    fn each(&self, act: impl Fn(&Path) -> std::io::Result<()>) -> Result<()> {
        let count = if self.placement == Placement::Shared { 1 } else { self.threads };
        for thread in 0..count {
            let path = self.folder(thread);
            act(&path).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    pub fn folder(&self, thread: usize) -> PathBuf {
        match self.placement {
            Placement::Private => self.root.join(format!("private{thread}")),
            Placement::Shared => self.root.join("shared"),
        }
    }

    /// A name of one kind (`f`, `d`, …) in a thread's folder.
    pub fn path(&self, kind: char, thread: usize, index: usize) -> PathBuf {
        self.folder(thread).join(format!("{kind}{thread}.{index}"))
    }

    /// The thread whose files this one reads, so that nobody reads what he wrote himself.
    pub fn neighbour(&self, thread: usize) -> usize {
        (thread + 1) % self.threads
    }
}

/// 0 to `count`, in an order of chance.
pub fn shuffled(count: usize, random: &mut impl Rng) -> Vec<usize> {
    let mut all: Vec<usize> = (0..count).collect();
    all.shuffle(random);
    all
}
