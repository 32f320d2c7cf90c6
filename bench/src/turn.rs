//! What is measured in one turn, and the short warm-up before it.

use std::path::Path;

use anyhow::Result;
use caribou_cli::bench::big::BigFile;
use caribou_cli::bench::content::BLOCK_BYTES;
use caribou_cli::bench::{Caches, Figure, Placement, Progress, metadata, small};

use crate::plan::{Group, Sizes};
use crate::programs;
use crate::source::Source;

/// Threads and folders of the metadata workloads. With one thread a shared folder is a private one.
const METADATA: [(usize, Placement); 5] = [
    (1, Placement::Private),
    (4, Placement::Private),
    (16, Placement::Private),
    (4, Placement::Shared),
    (16, Placement::Shared),
];
/// Threads of small files and of random reads.
const DATA_THREADS: [usize; 2] = [1, 16];
/// Files of the warm-up.
const WARM_FILES: usize = 200;

/// A system at hand, and what is done with it.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// An empty folder, which is left empty.
    pub root: &'a Path,
    pub sizes: &'a Sizes,
    pub source: &'a Source,
    pub caches: Caches,
    pub progress: &'a Progress,
}

impl Work<'_> {
    /// Work that nobody looks at: connections are made, first chunks allotted, code is in memory.
    pub fn warm_up(&self) -> Result<()> {
        let (threads, files, caches) = (4, WARM_FILES, self.caches);
        let load = metadata::Load { threads, placement: Placement::Shared, files, caches };
        metadata::run(self.root, load, self.progress)?;
        small::run(self.root, small::Load { threads, files, bytes: BLOCK_BYTES, caches }, self.progress)?;
        Ok(())
    }

    /// All workloads of a group.
    pub fn measure(&self, group: Group) -> Result<Vec<Figure>> {
        match group {
            Group::Metadata => self.metadata(),
            Group::Small => self.small(),
            Group::Big => self.big(),
            Group::OneCopy | Group::ThreeCopies => self.copies(),
            Group::Programs => programs::run(self),
        }
    }

    fn metadata(&self) -> Result<Vec<Figure>> {
        let [one, four, sixteen] = self.sizes.metadata_files;
        let mut figures = Vec::new();
        for (threads, placement) in METADATA {
            let files = match threads {
                1 => one,
                4 => four,
                _ => sixteen,
            };
            let files = if placement == Placement::Shared { files / 2 } else { files };
            let load = metadata::Load { threads, placement, files, caches: self.caches };
            figures.extend(metadata::run(self.root, load, self.progress)?);
        }
        Ok(figures)
    }

    fn small(&self) -> Result<Vec<Figure>> {
        let mut figures = Vec::new();
        for (threads, files) in DATA_THREADS.into_iter().zip(self.sizes.small_files) {
            let load = small::Load { threads, files, bytes: BLOCK_BYTES, caches: self.caches };
            figures.extend(small::run(self.root, load, self.progress)?);
        }
        Ok(figures)
    }

    fn big(&self) -> Result<Vec<Figure>> {
        let (mut file, written) = BigFile::write(self.root, self.sizes.big_bytes, self.caches, self.progress)?;
        let mut figures = vec![written, file.read()?];
        for threads in DATA_THREADS {
            figures.push(file.read_random(threads, self.sizes.random_time)?);
        }
        figures.push(file.write_random(self.sizes.random_writes)?);
        figures.push(file.write_random_synced(self.sizes.random_time)?);
        file.verify_and_remove()?;
        Ok(figures)
    }

    fn copies(&self) -> Result<Vec<Figure>> {
        let (file, written) = BigFile::write(self.root, self.sizes.big_bytes, self.caches, self.progress)?;
        let figures = vec![written, file.read()?];
        file.verify_and_remove()?;
        Ok(figures)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So small that it is over at once.
    const TINY: Sizes = Sizes { metadata_files: [8, 8, 16], small_files: [4, 16], big_bytes: 1 << 20, ..Sizes::QUICK };

    #[test]
    fn every_group_gives_figures_and_leaves_nothing() {
        let (source, progress) = (Source::default(), Progress::default());
        for (group, count) in [(Group::Metadata, 45), (Group::Small, 6), (Group::Big, 6), (Group::OneCopy, 2)] {
            let root = tempfile::tempdir().expect("a folder");
            // Kept: a test has no business dropping the caches of the machine.
            let (root, caches) = (root.path(), Caches::Kept);
            let work = Work { root, sizes: &TINY, source: &source, caches, progress: &progress };
            let figures = work.measure(group).expect("a local disk does it");
            assert_eq!(figures.len(), count, "{group:?}");
            assert!(figures.iter().all(|f| f.value > 0.0 && f.value.is_finite()), "{figures:?}");
            assert_eq!(std::fs::read_dir(root).expect("a folder").count(), 0, "{group:?}");
        }
    }

    #[test]
    fn the_programs_copy_check_and_remove_a_tree() {
        let folders = [0; 3].map(|_| tempfile::tempdir().expect("a folder"));
        let [tree, packed, root] = &folders;
        std::fs::create_dir(tree.path().join("d")).expect("made");
        std::fs::write(tree.path().join("d/one"), "1").expect("written");
        std::fs::write(tree.path().join("two"), "22").expect("written");
        let source = Source::pack(tree.path(), 10, packed.path()).expect("packed");
        let (sizes, progress, root) = (Sizes { sqlite_transactions: 3, ..TINY }, Progress::default(), root.path());
        let work = Work { root, sizes: &sizes, source: &source, caches: Caches::Kept, progress: &progress };
        assert_eq!(work.measure(Group::Programs).expect("a local disk does it").len(), 6);
    }
}
