//! What a run does, line by line, in a file: two runs of one seed are compared by theirs (`twice.rs`). Off unless it is asked for.
//!
//! There is a line for each frame that arrives anywhere, Raft's included, with its length and checksum; for what is done to machines and lines; for
//! each step; for each state that a metadata node comes to. Left out is what a seed does not decide: the bytes of snapshots, since RocksDB
//! writes times and random numbers into its files, and what is logged, which names folders.

use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;

use parking_lot::Mutex;

/// See the module.
#[derive(Debug, Default)]
pub struct Trail(Mutex<Option<BufWriter<File>>>);

impl Trail {
    /// Everything from now on goes to this file.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn begin(&self, path: &Path) -> io::Result<()> {
        *self.0.lock() = Some(BufWriter::new(File::create(path)?));
        Ok(())
    }

    pub fn line(&self, at: u128, what: impl FnOnce() -> String) {
        if let Some(file) = self.0.lock().as_mut() {
            writeln!(file, "{at} {}", what()).expect("there is room for the trail");
        }
    }

    /// What is still done does not count.
    ///
    /// # Errors
    /// When there is no room.
    pub fn end(&self) -> io::Result<()> {
        self.0.lock().take().map_or(Ok(()), |mut file| file.flush())
    }
}
