//! One big file: written and read in sequence, then read and overwritten at random places.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use rand::RngExt;
use rustix::fs::Advice;

use super::caches::Caches;
use super::close::close;
use super::content::{BLOCK_BYTES, Content};
use super::figure::{Figure, Unit};
use super::folders::shuffled;
use super::measure::{Spec, Worker, measure, wrong};
use super::progress::Progress;

/// Bytes of one call of the sequential workloads.
const CALL_BYTES: usize = 1 << 20;
/// The file's number in its stamps.
const FILE: u64 = 1;

/// The file and what each of its blocks should hold.
pub struct BigFile<'a> {
    path: PathBuf,
    /// Which write of a block was the last; 0 is the first, sequential one.
    generations: Vec<u64>,
    content: Content,
    caches: Caches,
    progress: &'a Progress,
}

impl<'a> BigFile<'a> {
    /// Writes `bytes` (rounded down to whole calls, at least one) in sequence, then fsync and close, all of it timed.
    pub fn write(root: &Path, bytes: u64, caches: Caches, progress: &'a Progress) -> Result<(Self, Figure)> {
        let calls = (bytes as usize / CALL_BYTES).max(1);
        let generations = vec![0; calls * (CALL_BYTES / BLOCK_BYTES)];
        let this = Self { path: root.join("big"), generations, content: Content::default(), caches, progress };
        let figure = measure(&this.sequential("sequential write + fsync"), progress, |worker| {
            let file = File::create_new(&this.path)?;
            let mut buffer = vec![0; CALL_BYTES];
            for call in 0..calls {
                this.content.fill(&mut buffer, FILE, first_block(call), |_| 0);
                worker.operation(|| {
                    file.write_all_at(&buffer, (call * CALL_BYTES) as u64)?;
                    Ok(CALL_BYTES as u64)
                })?;
            }
            file.sync_all()?;
            close(file)
        })?;
        Ok((this, figure))
    }

    /// Reads the file in sequence after the caches were dropped.
    pub fn read(&self) -> Result<Figure> {
        self.caches.drop_now()?;
        let workload = self.caches.name("sequential read, cold", "sequential read");
        measure(&self.sequential(workload), self.progress, |worker| {
            let file = File::open(&self.path)?;
            let mut buffer = vec![0; CALL_BYTES];
            for call in 0..self.bytes() / CALL_BYTES {
                worker.operation(|| {
                    file.read_exact_at(&mut buffer, (call * CALL_BYTES) as u64)?;
                    Ok(CALL_BYTES as u64)
                })?;
                self.check(&buffer, first_block(call))?;
            }
            Ok(())
        })
    }

    /// Reads blocks at random places, none of them twice, for as long as `time` or until there is none left.
    pub fn read_random(&self, threads: usize, time: Duration) -> Result<Figure> {
        self.caches.drop_now()?;
        let order = shuffled(self.generations.len(), &mut super::measure::seeded(threads as u64));
        let workload = self.caches.name("random read 4 KiB, cold", "random read 4 KiB");
        let spec = Spec { workload, threads, placement: None, unit: Unit::Operations, total: 0 };
        measure(&spec, self.progress, |worker| {
            let file = File::open(&self.path)?;
            rustix::fs::fadvise(&file, 0, None, Advice::Random)?;
            let mut buffer = vec![0; BLOCK_BYTES];
            for &block in order.iter().skip(worker.number).step_by(threads) {
                if worker.elapsed() >= time {
                    break;
                }
                worker.operation(|| file.read_exact_at(&mut buffer, offset(block)).map(|()| 1))?;
                self.check(&buffer, block as u64)?;
            }
            Ok(())
        })
    }

    /// Overwrites so many blocks at random places, then one fsync, which is part of the time.
    pub fn write_random(&mut self, writes: usize) -> Result<Figure> {
        let spec = Spec {
            workload: "random write 4 KiB",
            threads: 1,
            placement: None,
            unit: Unit::Operations,
            total: writes as u64,
        };
        self.overwrite(&spec, |done, _| done < writes, false)
    }

    /// Overwrites blocks at random places with an fsync after each, for as long as `time`.
    pub fn write_random_synced(&mut self, time: Duration) -> Result<Figure> {
        let spec = Spec {
            workload: "random write 4 KiB + fsync",
            threads: 1,
            placement: None,
            unit: Unit::Operations,
            total: 0,
        };
        self.overwrite(&spec, |_, worker| worker.elapsed() < time, true)
    }

    fn overwrite(
        &mut self,
        spec: &Spec,
        goes_on: impl Fn(usize, &Worker<'_>) -> bool + Sync,
        sync_each: bool,
    ) -> Result<Figure> {
        // One thread writes; the lock only carries the table there and back.
        let generations = std::sync::Mutex::new(std::mem::take(&mut self.generations));
        let figure = measure(spec, self.progress, |worker| {
            let mut generations = generations.lock().expect("there is one thread only");
            let file = OpenOptions::new().write(true).open(&self.path)?;
            let mut buffer = vec![0; BLOCK_BYTES];
            let mut done = 0;
            while goes_on(done, worker) {
                let block = worker.random.random_range(0..generations.len());
                // Noted before it is tried: nothing is compared after an error.
                generations[block] += 1;
                self.content.fill(&mut buffer, FILE, block as u64, |_| generations[block]);
                worker.operation(|| {
                    file.write_all_at(&buffer, offset(block))?;
                    if sync_each {
                        file.sync_all()?;
                    }
                    Ok(1)
                })?;
                done += 1;
            }
            file.sync_all()?;
            close(file)
        });
        self.generations = generations.into_inner().expect("there was one thread only");
        figure
    }

    /// Compares every byte with what was written last, and removes the file. Not timed.
    pub fn verify_and_remove(self) -> Result<()> {
        self.read()?;
        std::fs::remove_file(&self.path)?;
        Ok(())
    }

    fn check(&self, bytes: &[u8], first: u64) -> std::io::Result<()> {
        match self.content.first_wrong(bytes, FILE, first, |block| self.generations[block as usize]) {
            None => Ok(()),
            Some(block) => Err(wrong(format!("block {block} of {} is not what was written last", self.path.display()))),
        }
    }

    fn sequential(&self, workload: &'static str) -> Spec {
        Spec { workload, threads: 1, placement: None, unit: Unit::Megabytes, total: self.bytes() as u64 }
    }

    fn bytes(&self) -> usize {
        self.generations.len() * BLOCK_BYTES
    }
}

fn first_block(call: usize) -> u64 {
    (call * (CALL_BYTES / BLOCK_BYTES)) as u64
}

fn offset(block: usize) -> u64 {
    (block * BLOCK_BYTES) as u64
}

/// Refuses a file that the file system has no room for, before it is half written.
pub fn check_room(root: &Path, bytes: u64, what: &str) -> Result<()> {
    let room = rustix::fs::statvfs(root)?;
    let free = room.f_bavail * room.f_frsize;
    if free < bytes {
        bail!("{} has {free} bytes free, {what} needs {bytes}", root.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIME: Duration = Duration::from_millis(50);

    #[test]
    fn sequential_and_random_reads_find_what_random_writes_left() {
        let root = tempfile::tempdir().expect("a folder");
        let progress = Progress::default();
        let (mut file, written) = BigFile::write(root.path(), 3 << 20, Caches::Kept, &progress).expect("written");
        assert_eq!(written.operations, 3);
        assert!((written.value * written.seconds - 3.145_728).abs() < 1e-6, "{written:?}");
        assert_eq!(file.write_random(500).expect("overwritten").operations, 500);
        assert!(file.write_random_synced(TIME).expect("overwritten").operations > 0);
        let read = file.read_random(4, Duration::from_secs(60)).expect("read");
        assert_eq!(read.operations, 768, "each block once, then it ends");
        assert_eq!(file.read().expect("read").operations, 3);
        file.verify_and_remove().expect("every byte is right");
        assert_eq!(std::fs::read_dir(root.path()).expect("a folder").count(), 0);
    }

    #[test]
    fn a_block_that_went_back_in_time_is_found() {
        let root = tempfile::tempdir().expect("a folder");
        let progress = Progress::default();
        let (mut file, _) = BigFile::write(root.path(), 1 << 20, Caches::Kept, &progress).expect("written");
        let before = std::fs::read(&file.path).expect("it is there");
        file.write_random(100).expect("overwritten");
        std::fs::write(&file.path, before).expect("put back");
        assert!(file.read().is_err());
        assert!(file.read_random(2, Duration::from_secs(60)).is_err());
        assert!(file.verify_and_remove().is_err());
    }
}
