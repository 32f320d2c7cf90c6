//! Counters of what the server did since its start, for the log.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

#[derive(Default)]
pub(crate) struct Stats {
    writes: AtomicU64,
    written_bytes: AtomicU64,
    syncs: AtomicU64,
    reads: AtomicU64,
    read_bytes: AtomicU64,
    commands: AtomicU64,
    fetched_bytes: AtomicU64,
}

/// The counters at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Snapshot {
    pub(crate) writes: u64,
    pub(crate) written_bytes: u64,
    pub(crate) syncs: u64,
    pub(crate) reads: u64,
    pub(crate) read_bytes: u64,
    pub(crate) commands: u64,
    pub(crate) fetched_bytes: u64,
}

impl Stats {
    pub(crate) fn wrote(&self, bytes: usize) {
        self.writes.fetch_add(1, Relaxed);
        self.written_bytes.fetch_add(bytes as u64, Relaxed);
    }
    pub(crate) fn synced(&self) {
        self.syncs.fetch_add(1, Relaxed);
    }
    pub(crate) fn read(&self, bytes: usize) {
        self.reads.fetch_add(1, Relaxed);
        self.read_bytes.fetch_add(bytes as u64, Relaxed);
    }
    pub(crate) fn commanded(&self) {
        self.commands.fetch_add(1, Relaxed);
    }
    pub(crate) fn fetched(&self, bytes: usize) {
        self.fetched_bytes.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot {
            writes: self.writes.load(Relaxed),
            written_bytes: self.written_bytes.load(Relaxed),
            syncs: self.syncs.load(Relaxed),
            reads: self.reads.load(Relaxed),
            read_bytes: self.read_bytes.load(Relaxed),
            commands: self.commands.load(Relaxed),
            fetched_bytes: self.fetched_bytes.load(Relaxed),
        }
    }
}
