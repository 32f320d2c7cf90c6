//! Small files, each in one write: as they come, with fsync before close, and read by another thread.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::Result;

use super::caches::Caches;
use super::close::close;
use super::content::Content;
use super::figure::{Figure, Placement, Unit};
use super::folders::{Folders, shuffled};
use super::measure::{Spec, measure, wrong};
use super::progress::Progress;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub threads: usize,
    /// Over all threads, for each of the two ways of writing.
    pub files: usize,
    pub bytes: usize,
    pub caches: Caches,
}

/// Writes, reads, writes with fsync; each thread in its own folder. Leaves nothing.
pub fn run(root: &Path, load: Load, progress: &Progress) -> Result<Vec<Figure>> {
    let steps = Steps { each: (load.files / load.threads).max(1), content: Content::default(), load, progress };
    let folders = Folders::make(root, load.threads, Placement::Private)?;
    let mut figures = vec![steps.write(&folders, 'f', Sync::No)?, steps.read(&folders, 'f')?];
    steps.remove(&folders, 'f')?;
    figures.push(steps.write(&folders, 's', Sync::BeforeClose)?);
    steps.read(&folders, 's')?;
    steps.remove(&folders, 's')?;
    folders.remove()?;
    Ok(figures)
}

/// Whether a file is synced before it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sync {
    No,
    BeforeClose,
}

struct Steps<'a> {
    load: Load,
    /// Files of one thread.
    each: usize,
    content: Content,
    progress: &'a Progress,
}

impl Steps<'_> {
    fn spec(&self, workload: &'static str) -> Spec {
        let total = (self.each * self.load.threads) as u64;
        Spec { workload, threads: self.load.threads, placement: None, unit: Unit::Operations, total }
    }

    fn write(&self, folders: &Folders, kind: char, sync: Sync) -> Result<Figure> {
        let workload = match sync {
            Sync::No => "write",
            Sync::BeforeClose => "write + fsync",
        };
        measure(&self.spec(workload), self.progress, |worker| {
            let thread = worker.number;
            let mut buffer = vec![0; self.load.bytes];
            (0..self.each).try_for_each(|index| {
                self.content.fill(&mut buffer, self.file(thread, index), 0, |_| 0);
                let path = folders.path(kind, thread, index);
                worker.operation(|| {
                    let mut file = File::create_new(&path)?;
                    file.write_all(&buffer)?;
                    if sync == Sync::BeforeClose {
                        file.sync_all()?;
                    }
                    close(file)?;
                    Ok(1)
                })
            })
        })
    }

    fn read(&self, folders: &Folders, kind: char) -> Result<Figure> {
        self.write_out(folders, kind)?;
        self.load.caches.drop_now()?;
        let workload = self.load.caches.name("read, cold", "read");
        measure(&self.spec(workload), self.progress, |worker| {
            let thread = folders.neighbour(worker.number);
            let mut buffer = Vec::with_capacity(self.load.bytes + 1);
            shuffled(self.each, &mut worker.random).into_iter().try_for_each(|index| {
                let path = folders.path(kind, thread, index);
                worker.operation(|| {
                    buffer.clear();
                    File::open(&path)?.read_to_end(&mut buffer)?;
                    Ok(1)
                })?;
                let right = buffer.len() == self.load.bytes
                    && self.content.first_wrong(&buffer, self.file(thread, index), 0, |_| 0).is_none();
                if right { Ok(()) } else { Err(wrong(format!("{} does not hold what was written", path.display()))) }
            })
        })
    }

    /// Not told: what a mount still holds in its own memory cannot be dropped, and would be read from there.
    fn write_out(&self, folders: &Folders, kind: char) -> Result<()> {
        measure(&self.spec("writing out"), self.progress, |worker| {
            let thread = worker.number;
            (0..self.each).try_for_each(|index| {
                let path = folders.path(kind, thread, index);
                worker.operation(|| File::options().write(true).open(&path)?.sync_all().map(|()| 1))
            })
        })
        .map(drop)
    }

    /// By all threads, because it takes time; its figure is not told, `metadata.rs` measures unlinks.
    fn remove(&self, folders: &Folders, kind: char) -> Result<()> {
        measure(&self.spec("removing"), self.progress, |worker| {
            let thread = worker.number;
            (0..self.each).try_for_each(|index| {
                worker.operation(|| fs::remove_file(folders.path(kind, thread, index)).map(|()| 1))
            })
        })
        .map(drop)
    }

    /// A number of each file, for its stamp.
    fn file(&self, thread: usize, index: usize) -> u64 {
        (thread * self.each + index) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::content::BLOCK_BYTES;

    const LOAD: Load = Load { threads: 2, files: 20, bytes: BLOCK_BYTES, caches: Caches::Kept };

    #[test]
    fn files_are_written_both_ways_read_and_removed() {
        let root = tempfile::tempdir().expect("a folder");
        let figures = run(root.path(), LOAD, &Progress::default()).expect("a local disk does all of it");
        let seen: Vec<_> = figures.iter().map(|f| (f.workload.as_str(), f.operations)).collect();
        assert_eq!(seen, [("write", 20), ("read", 20), ("write + fsync", 20)]);
        assert_eq!(fs::read_dir(root.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_byte_that_changed_and_a_file_that_grew_are_found() {
        let root = tempfile::tempdir().expect("a folder");
        let progress = Progress::default();
        let steps = Steps { each: 3, content: Content::default(), load: LOAD, progress: &progress };
        let folders = Folders::make(root.path(), LOAD.threads, Placement::Private).expect("an empty folder");
        steps.write(&folders, 'f', Sync::No).expect("written");
        let path = folders.path('f', 1, 2);
        let mut bytes = fs::read(&path).expect("it is there");
        bytes[4000] ^= 1;
        fs::write(&path, &bytes).expect("damaged");
        assert!(steps.read(&folders, 'f').expect_err("damaged").to_string().contains("f1.2"));
        bytes[4000] ^= 1;
        bytes.push(0);
        fs::write(&path, &bytes).expect("longer");
        assert!(steps.read(&folders, 'f').is_err());
    }
}
