//! The newest entries in memory: replication and apply read each entry again, a moment after it was appended (STACK, openraft 6).
//!
//! Bounded by bytes, but an entry that is not on disk yet is never dropped: then it could not be read at all.

use std::collections::VecDeque;

use crate::raft::types::{Entry, EntryPayload};

/// What an entry without payload counts.
const ENTRY_OVERHEAD: usize = 64;
/// What a membership entry counts.
const MEMBERSHIP_BYTES: usize = 512;

pub(super) fn entry_bytes(entry: &Entry) -> usize {
    ENTRY_OVERHEAD
        + match &entry.payload {
            EntryPayload::Blank => 0,
            EntryPayload::Normal(p) => p.0.len(),
            EntryPayload::Membership(_) => MEMBERSHIP_BYTES,
        }
}

#[derive(Debug)]
struct Cached {
    entry: Entry,
    bytes: usize,
    /// The queue's number of the append that brings it to disk.
    seq: u64,
}

/// Consecutive entries up to the end of the log.
#[derive(Debug)]
pub(super) struct Tail {
    entries: VecDeque<Cached>,
    /// Index of the first cached entry, or of the next entry if there is none. Everything below is on disk.
    first: u64,
    bytes: usize,
    max_bytes: usize,
    written_seq: u64,
}

impl Tail {
    pub(super) fn new(max_bytes: usize, next: u64) -> Self {
        Self { entries: VecDeque::new(), first: next, bytes: 0, max_bytes, written_seq: 0 }
    }

    pub(super) fn first(&self) -> u64 {
        self.first
    }

    pub(super) fn push(&mut self, entry: Entry, bytes: usize, seq: u64) {
        if self.entries.is_empty() {
            self.first = entry.log_id.index();
        }
        self.entries.push_back(Cached { entry, bytes, seq });
        self.bytes += bytes;
        self.evict();
    }

    /// Appends up to `seq` are on disk.
    pub(super) fn written(&mut self, seq: u64) {
        self.written_seq = seq;
        self.evict();
    }

    fn evict(&mut self) {
        while self.bytes > self.max_bytes
            && let Some(cached) = self.entries.pop_front_if(|c| c.seq <= self.written_seq)
        {
            self.bytes -= cached.bytes;
            self.first += 1;
        }
    }

    /// Drops entries from `from` on; what comes next is in memory again, not on disk.
    pub(super) fn truncate(&mut self, from: u64) {
        while let Some(cached) = self.entries.pop_back_if(|c| c.entry.log_id.index() >= from) {
            self.bytes -= cached.bytes;
        }
        if self.entries.is_empty() {
            self.first = self.first.min(from);
        }
    }

    /// Drops entries up to and with `upto`.
    pub(super) fn purge(&mut self, upto: u64) {
        while let Some(cached) = self.entries.pop_front_if(|c| c.entry.log_id.index() <= upto) {
            self.bytes -= cached.bytes;
        }
        self.first = self.first.max(upto + 1);
    }

    /// Entries of `[start, end)` that are here: at most `max_bytes`, but at least one.
    pub(super) fn read(&self, start: u64, end: u64, max_bytes: usize) -> Vec<Entry> {
        let mut bytes = 0;
        let from = start.saturating_sub(self.first) as usize;
        let count = end.saturating_sub(start.max(self.first)) as usize;
        let entries = self.entries.iter().skip(from).take(count);
        entries
            .take_while(|c| {
                let first = bytes == 0;
                bytes += c.bytes;
                first || bytes <= max_bytes
            })
            .map(|c| c.entry.clone())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::log_id;

    fn tail(max: usize, entries: std::ops::Range<u64>) -> Tail {
        let mut tail = Tail::new(max, entries.start);
        entries.for_each(|i| tail.push(Entry { log_id: log_id(1, i), payload: EntryPayload::Blank }, 10, i));
        tail
    }

    fn indices(entries: &[Entry]) -> Vec<u64> {
        entries.iter().map(|e| e.log_id.index()).collect()
    }

    #[test]
    fn unwritten_entries_stay() {
        let mut tail = tail(20, 5..10);
        assert_eq!(tail.first(), 5);
        tail.written(6);
        assert_eq!(tail.first(), 7);
        tail.written(9);
        assert_eq!((tail.first(), indices(&tail.read(0, 100, 1000))), (8, vec![8, 9]));
    }

    #[test]
    fn truncated_entries_come_anew() {
        let mut tail = tail(1000, 5..10);
        tail.written(9);
        tail.truncate(7);
        tail.push(Entry { log_id: log_id(2, 7), payload: EntryPayload::Blank }, 10, 10);
        assert_eq!(indices(&tail.read(6, 9, 1000)), [6, 7]);
        tail.truncate(2);
        assert_eq!(tail.first(), 2);
        tail.purge(4);
        assert_eq!(tail.first(), 5);
    }

    #[test]
    fn reads_are_bounded_but_give_something() {
        let tail = tail(1000, 5..10);
        assert_eq!(indices(&tail.read(6, 10, 25)), [6, 7]);
        assert_eq!(indices(&tail.read(6, 10, 1)), [6]);
        assert_eq!(indices(&tail.read(6, 8, 1000)), [6, 7]);
        assert!(tail.read(3, 5, 1000).is_empty());
    }
}
