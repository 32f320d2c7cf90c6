//! Reads of the log: from memory where possible, else from disk on a thread that may block.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

use futures::Stream;
use openraft::storage::RaftLogReader;

use super::Shared;
use crate::raft::config::MAX_READ_BYTES;
use crate::raft::types::{Entry, TypeConfig, Vote};

/// A handle that reads; the log may change meanwhile.
#[derive(Clone, Debug)]
pub(crate) struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Entries of `[start, end)` that the log holds: at most `max_bytes`, but at least one if there is one.
    async fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        loop {
            // From disk up to `cold_end`, the rest from memory; the two belong together while the version stays.
            let (cold, version) = {
                let memory = self.shared.memory.read();
                let start = start.max(memory.purged.map_or(0, |id| id.index() + 1));
                let end = end.min(memory.last.map_or(0, |id| id.index() + 1));
                if start >= end {
                    return Ok(Vec::new());
                }
                if start >= memory.tail.first() {
                    return Ok(memory.tail.read(start, end, max_bytes));
                }
                ((start, end.min(memory.tail.first())), memory.version)
            };
            let entries = self.read_cold(cold.0, cold.1, max_bytes).await;
            let memory = self.shared.memory.read();
            // Then an error may come of it too: a segment whose entries are purged is soon written over.
            if memory.version != version {
                continue;
            }
            let entries = entries?;
            let next = cold.0 + entries.len() as u64;
            // An empty store may begin anywhere (its first entry came with index > 0): that is no hole.
            if entries.is_empty() && memory.purged.is_none() {
                return Ok(memory.tail.read(cold.1, end, max_bytes));
            }
            let bytes: usize = entries.iter().map(super::tail::entry_bytes).sum();
            if next < cold.1 || bytes >= max_bytes {
                // Cut short by its size; a hole would show as the caller comes back for the next entry.
                return if entries.is_empty() { Err(hole(next)) } else { Ok(entries) };
            }
            // What was in memory a moment ago may have been written and dropped since: the caller comes back for it.
            let mut entries = entries;
            if memory.tail.first() <= next {
                entries.extend(memory.tail.read(next, end, max_bytes - bytes));
            }
            return Ok(entries);
        }
    }

    /// Whether the log has an entry at `index`, as far as memory knows.
    fn holds(&self, index: u64) -> bool {
        let memory = self.shared.memory.read();
        memory.last.is_some_and(|last| last.index() >= index) && memory.purged.is_none_or(|p| p.index() < index)
    }

    async fn read_cold(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let shared = Arc::clone(&self.shared);
        self.shared.blocking.run(move || shared.disk.read(start, end, max_bytes)).await?
    }
}

fn hole(index: u64) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log has a hole at entry {index}"))
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(i) => *i,
        Bound::Excluded(i) => i + 1,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(i) => i + 1,
        Bound::Excluded(i) => *i,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for LogReader {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> io::Result<Vec<Entry>>
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let (start, end) = bounds(&range);
        let mut entries: Vec<Entry> = Vec::new();
        loop {
            let from = entries.last().map_or(start, |e| e.log_id.index() + 1);
            let more = if from < end { self.read(from, end, MAX_READ_BYTES).await? } else { Vec::new() };
            let Some(first) = more.first() else { return Ok(entries) };
            if !entries.is_empty() && first.log_id.index() != from {
                return Err(hole(from));
            }
            entries.extend(more);
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        Ok(self.shared.memory.read().vote)
    }

    /// In pieces: apply after a restart may want the whole log.
    async fn entries_stream<RB>(&mut self, range: RB) -> impl Stream<Item = io::Result<Entry>> + Send
    where
        RB: RangeBounds<u64> + Clone + Debug + Send,
    {
        let reader = self.clone();
        let (start, end) = bounds(&range);
        Box::pin(futures::stream::unfold(Some((reader, start, Vec::new().into_iter())), move |state| async move {
            let (reader, next, mut piece) = state?;
            if let Some(entry) = piece.next() {
                return Some((Ok(entry), Some((reader, next, piece))));
            }
            if next >= end {
                return None;
            }
            match reader.read(next, end, MAX_READ_BYTES).await {
                Ok(entries) => {
                    let Some(after) = entries.last().map(|e| e.log_id.index() + 1) else {
                        // Apply asks for committed entries: one that should be there must not be taken for applied.
                        return reader.holds(next).then(|| (Err(hole(next)), None));
                    };
                    let mut piece = entries.into_iter();
                    let first: Entry = piece.next()?;
                    Some((Ok(first), Some((reader, after, piece))))
                }
                Err(e) => Some((Err(e), None)),
            }
        }))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        self.read(start, end, MAX_READ_BYTES).await
    }
}
