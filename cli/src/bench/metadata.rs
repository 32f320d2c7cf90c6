//! Empty files and folders: what a directory tree costs without any data.
//!
//! Each step works on what the step before left. Reads look at another thread's files in an order of chance. The last step removes the
//! folders, which fails if a name was left over.

use std::fs::{self, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use anyhow::Result;

use super::caches::Caches;
use super::close::close;
use super::figure::{Figure, Placement, Unit};
use super::folders::{Folders, shuffled};
use super::measure::{Spec, measure, wrong};
use super::progress::Progress;

/// One folder is made and removed for so many files.
const FILES_PER_FOLDER: usize = 4;

/// How much of it.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    pub threads: usize,
    pub placement: Placement,
    /// Over all threads.
    pub files: usize,
    pub caches: Caches,
}

/// All steps below `root`, one figure each.
pub fn run(root: &Path, load: Load, progress: &Progress) -> Result<Vec<Figure>> {
    let folders = Folders::make(root, load.threads, load.placement)?;
    let steps = Steps { each: (load.files / load.threads).max(1), folders, load, progress };
    let figures = vec![
        steps.mkdir()?,
        steps.rmdir()?,
        steps.create()?,
        steps.stat("stat")?,
        steps.stat_cold()?,
        steps.open()?,
        steps.list()?,
        steps.rename()?,
        steps.unlink()?,
    ];
    steps.folders.remove()?;
    Ok(figures)
}

struct Steps<'a> {
    folders: Folders,
    load: Load,
    /// Files of one thread.
    each: usize,
    progress: &'a Progress,
}

impl Steps<'_> {
    /// One operation for each of so many names of the thread's own.
    fn own(
        &self,
        workload: &'static str,
        each: usize,
        act: impl Fn(usize, usize) -> io::Result<()> + Sync,
    ) -> Result<Figure> {
        let spec = self.spec(workload, Unit::Operations, each * self.load.threads);
        measure(&spec, self.progress, |worker| {
            let thread = worker.number;
            (0..each).try_for_each(|index| worker.operation(|| act(thread, index).map(|()| 1)))
        })
    }

    /// One operation for each file of the neighbour's, in an order of chance.
    fn neighbours(&self, workload: &'static str, act: impl Fn(&Path) -> io::Result<()> + Sync) -> Result<Figure> {
        let spec = self.spec(workload, Unit::Operations, self.each * self.load.threads);
        measure(&spec, self.progress, |worker| {
            let thread = self.folders.neighbour(worker.number);
            let order = shuffled(self.each, &mut worker.random);
            order.into_iter().try_for_each(|index| {
                let path = self.folders.path('f', thread, index);
                worker.operation(|| act(&path).map(|()| 1))
            })
        })
    }

    fn spec(&self, workload: &'static str, unit: Unit, total: usize) -> Spec {
        let Load { threads, placement, .. } = self.load;
        Spec { workload, threads, placement: Some(placement), unit, total: total as u64 }
    }

    fn mkdir(&self) -> Result<Figure> {
        self.own("mkdir", self.dirs(), |thread, index| fs::create_dir(self.folders.path('d', thread, index)))
    }

    fn rmdir(&self) -> Result<Figure> {
        self.own("rmdir", self.dirs(), |thread, index| fs::remove_dir(self.folders.path('d', thread, index)))
    }

    fn dirs(&self) -> usize {
        self.each.div_ceil(FILES_PER_FOLDER)
    }

    fn create(&self) -> Result<Figure> {
        self.own("create", self.each, |thread, index| {
            let path = self.folders.path('f', thread, index);
            close(OpenOptions::new().write(true).create_new(true).open(path)?)
        })
    }

    fn stat(&self, workload: &'static str) -> Result<Figure> {
        self.neighbours(workload, |path| {
            let found = fs::symlink_metadata(path)?;
            if found.is_file() && found.len() == 0 {
                Ok(())
            } else {
                Err(wrong(format!("{found:?} for an empty file")))
            }
        })
    }

    fn stat_cold(&self) -> Result<Figure> {
        self.load.caches.drop_now()?;
        self.stat(self.load.caches.name("stat, cold", "stat again"))
    }

    fn open(&self) -> Result<Figure> {
        self.neighbours("open-read-close", |path| match fs::File::open(path)?.read(&mut [0; 64])? {
            0 => Ok(()),
            n => Err(wrong(format!("{n} bytes in an empty file"))),
        })
    }

    /// A whole listing with attributes, as `ls -l` takes it.
    fn list(&self) -> Result<Figure> {
        self.load.caches.drop_now()?;
        let expected = match self.load.placement {
            Placement::Private => self.each,
            Placement::Shared => self.each * self.load.threads,
        };
        let spec = self.spec("readdir + stat", Unit::Entries, expected * self.load.threads);
        measure(&spec, self.progress, |worker| {
            let folder = self.folders.folder(self.folders.neighbour(worker.number));
            worker.operation(|| {
                let mut found = 0;
                for entry in fs::read_dir(&folder)? {
                    found += usize::from(entry?.metadata()?.is_file());
                }
                if found == expected {
                    Ok(found as u64)
                } else {
                    Err(wrong(format!("{found} of {expected} files listed")))
                }
            })
        })
    }

    fn rename(&self) -> Result<Figure> {
        self.own("rename", self.each, |thread, index| {
            fs::rename(self.folders.path('f', thread, index), self.folders.path('r', thread, index))
        })
    }

    fn unlink(&self) -> Result<Figure> {
        self.own("unlink", self.each, |thread, index| fs::remove_file(self.folders.path('r', thread, index)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_gives_a_figure_and_nothing_is_left() {
        for placement in [Placement::Private, Placement::Shared] {
            let root = tempfile::tempdir().expect("a folder");
            let load = Load { threads: 3, placement, files: 30, caches: Caches::Kept };
            let figures = run(root.path(), load, &Progress::default()).expect("a local disk does all of it");
            let operations: Vec<_> = figures.iter().map(|f| (f.workload.as_str(), f.operations)).collect();
            let dirs = 9;
            let expected = [
                ("mkdir", dirs),
                ("rmdir", dirs),
                ("create", 30),
                ("stat", 30),
                ("stat again", 30),
                ("open-read-close", 30),
                ("readdir + stat", 3),
                ("rename", 30),
                ("unlink", 30),
            ];
            assert_eq!(operations, expected);
            let listed = figures[6].value * figures[6].seconds;
            let entries = if placement == Placement::Shared { 90.0 } else { 30.0 };
            assert!((listed - entries).abs() < 1e-6, "{listed} entries were listed");
            assert_eq!(fs::read_dir(root.path()).expect("a folder").count(), 0);
        }
    }

    #[test]
    fn a_file_that_is_missing_fails_the_step() {
        let root = tempfile::tempdir().expect("a folder");
        let load = Load { threads: 1, placement: Placement::Shared, files: 5, caches: Caches::Kept };
        let folders = Folders::make(root.path(), 1, load.placement).expect("an empty folder");
        let progress = Progress::default();
        let steps = Steps { each: 5, folders, load, progress: &progress };
        steps.create().expect("created");
        fs::remove_file(steps.folders.path('f', 0, 3)).expect("removed behind its back");
        assert!(steps.stat("stat").is_err());
        assert!(steps.list().expect_err("one is missing").to_string().contains("4 of 5 files listed"));
        assert!(steps.rename().is_err());
    }
}
