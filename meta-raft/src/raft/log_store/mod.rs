//! The Raft log: segments of a fixed size in files that exist before they are written, and so one short fsync for each group (docs/adr/0004).
//!
//! `append`, `truncate` and `purge` queue and return; a writer thread puts what has queued into one frame and one fsync, in order,
//! and then reports it flushed. A vote is awaited: the library counts it as durable once `save_vote` returns. What has been queued can
//! be read at once: the newest entries stay in memory ([`tail`]), and entries leave it only after they have been written.

#[cfg(test)]
mod crash_tests;
mod disk;
mod format;
mod index;
mod reader;
mod replay;
mod segment;
mod sizes;
mod tail;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caribou_planted::{self as planted, Bug};
use openraft::LogState;
use openraft::storage::{IOFlushed, RaftLogStorage};
use parking_lot::RwLock;

use self::sizes::Sizes;
use self::tail::Tail;
use self::writer::{Op, Queue};
use super::surroundings::Blocking;
use super::types::{Entry, LogId, TypeConfig, Vote};
pub(crate) use reader::LogReader;

/// The log as memory knows it: the queue is ahead of the disk, never behind.
#[derive(Debug)]
struct Memory {
    purged: Option<LogId>,
    last: Option<LogId>,
    vote: Option<Vote>,
    tail: Tail,
    sizes: Sizes,
    /// Rises with every truncation and purge: a read of the disk that saw it change starts again.
    version: u64,
}

/// What operators see.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) fsyncs: AtomicU64,
    pub(crate) entries: AtomicU64,
}

#[derive(Debug)]
struct Shared {
    disk: disk::Disk,
    memory: RwLock<Memory>,
    queue: Queue,
    counters: Counters,
    blocking: Blocking,
}

/// The log's one writer; owned by Raft's core task.
#[derive(Debug)]
pub(crate) struct LogStore {
    shared: Arc<Shared>,
    writer: Option<std::thread::JoinHandle<()>>,
}

/// Looks at the log from outside of Raft's core, and lets others wait for the disk.
#[derive(Clone, Debug)]
pub(crate) struct LogHandle {
    shared: Arc<Shared>,
}

impl LogStore {
    /// Whether there is a log in `dir`, be it an empty one.
    pub(crate) fn is_there(dir: &Path) -> bool {
        segment::list(dir).is_ok_and(|listed| !listed.numbers.is_empty())
    }

    /// Opens or creates the log in `dir`; `tail_bytes` bounds the entries kept in memory, files have `segment_bytes`.
    pub(crate) fn open(dir: &Path, tail_bytes: usize, segment_bytes: u64, blocking: Blocking) -> io::Result<Self> {
        let (disk, disk::Stored { purged, vote, last, sizes }) = disk::Disk::open(dir, segment_bytes)?;
        let next = last.map_or(0, |id| id.index() + 1);
        let memory = Memory { purged, last, vote, tail: Tail::new(tail_bytes, next), sizes, version: 0 };
        let shared = Arc::new(Shared {
            disk,
            memory: RwLock::new(memory),
            queue: Queue::default(),
            counters: Counters::default(),
            blocking,
        });
        let mine = Arc::clone(&shared);
        let writer = match shared.blocking.clone() {
            Blocking::Threads => {
                Some(std::thread::Builder::new().name("raft-log".to_owned()).spawn(move || writer::run(&mine))?)
            }
            Blocking::Inline { sync_time } => {
                tokio::spawn(writer::run_inline(mine, sync_time));
                None
            }
        };
        Ok(Self { shared, writer })
    }

    pub(crate) fn handle(&self) -> LogHandle {
        LogHandle { shared: Arc::clone(&self.shared) }
    }
}

impl LogStore {
    /// For the start: cuts off entries that a power cut has brought back although the state holds committed ones in their place (their
    /// truncation was still queued when the state was flushed).
    pub(crate) fn drop_conflicting(&mut self, applied: LogId) -> io::Result<()> {
        let last = self.shared.memory.read().last;
        let from = applied.index();
        if last.is_none_or(|last| last >= applied || last.index() < from) {
            return Ok(());
        }
        tracing::warn!(?last, ?applied, "the Raft log ends in entries that were never committed; they are cut off");
        let before = self.shared.disk.read(from.saturating_sub(1), from, usize::MAX)?.pop().map(|e| e.log_id);
        self.truncate(from, before)
    }

    /// Entries from `from` on go; `last` is the one before.
    fn truncate(&mut self, from: u64, last: Option<LogId>) -> io::Result<()> {
        {
            let mut memory = self.shared.memory.write();
            memory.tail.truncate(from);
            memory.sizes.truncate(from);
            // After the end there is nothing to drop.
            if memory.last.is_some_and(|last| last.index() >= from) {
                memory.last = last.max(memory.purged);
            }
            memory.version += 1;
        }
        self.shared.queue.push(Op::Truncate { from })
    }
}

impl Drop for LogStore {
    fn drop(&mut self) {
        self.shared.queue.close();
        if let Some(writer) = self.writer.take() {
            // The thread ends once the queue is empty; it never panics while holding the queue.
            let _ = writer.join();
        }
    }
}

impl LogHandle {
    pub(crate) fn counters(&self) -> &Counters {
        &self.shared.counters
    }

    /// Index of the last entry, 0 if there is none.
    pub(crate) fn last_index(&self) -> u64 {
        self.shared.memory.read().last.map_or(0, |id| id.index())
    }

    /// Approximate bytes of all entries.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.memory.read().sizes.total()
    }

    /// Approximate bytes of the entries up to and with `index`.
    pub(crate) fn bytes_upto(&self, index: u64) -> u64 {
        let sizes = &self.shared.memory.read().sizes;
        sizes.total() - sizes.after(index)
    }

    /// Approximate bytes of the entries after `index`.
    pub(crate) fn bytes_after(&self, index: u64) -> u64 {
        self.shared.memory.read().sizes.after(index)
    }

    /// The highest index with at least `keep_bytes` of log behind it.
    pub(crate) fn purge_point(&self, keep_bytes: u64) -> Option<u64> {
        self.shared.memory.read().sizes.purge_point(keep_bytes)
    }

    /// Whether nothing was ever stored: no vote, no entry.
    pub(crate) fn is_pristine(&self) -> bool {
        let memory = self.shared.memory.read();
        memory.vote.is_none() && memory.last.is_none()
    }

    /// Whether the newest checkpoint, `have`, is older than what the log can follow on from.
    pub(crate) fn needs_snapshot(&self, have: Option<LogId>, applied: Option<LogId>) -> bool {
        let memory = self.shared.memory.read();
        have < memory.purged || (memory.last < applied && have < applied)
    }

    /// Waits until everything queued so far is on disk.
    pub(crate) async fn sync(&self) -> io::Result<()> {
        let (ack, done) = tokio::sync::oneshot::channel();
        self.shared.queue.push(Op::Sync { ack })?;
        done.await.map_err(|_| closed())?
    }
}

fn closed() -> io::Error {
    io::Error::other("the log's writer thread has ended")
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = LogReader;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let memory = self.shared.memory.read();
        Ok(LogState { last_purged_log_id: memory.purged, last_log_id: memory.last })
    }

    async fn get_log_reader(&mut self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let (ack, done) = tokio::sync::oneshot::channel();
        if !planted::is(Bug::VoteNotWritten) {
            self.shared.queue.push(Op::Vote { vote: *vote, ack })?;
            done.await.map_err(|_| closed())??;
        }
        self.shared.memory.write().vote = Some(*vote);
        Ok(())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + Send,
        I::IntoIter: Send,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        self.shared.queue.wait_for_room().await;
        let seq = self.shared.queue.next_seq();
        {
            let mut memory = self.shared.memory.write();
            for entry in &entries {
                memory.append(entry, seq)?;
            }
        }
        self.shared.counters.entries.fetch_add(entries.len() as u64, Ordering::Relaxed);
        self.shared.queue.push(Op::Append { seq, entries, callback })
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        self.truncate(last_log_id.map_or(0, |id| id.index() + 1), last_log_id)
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        {
            let mut memory = self.shared.memory.write();
            memory.purged = memory.purged.max(Some(log_id));
            memory.tail.purge(log_id.index());
            memory.sizes.purge(log_id.index());
            memory.last = memory.last.max(Some(log_id));
            memory.version += 1;
        }
        self.shared.queue.push(Op::Purge { upto: log_id })
    }
}

impl Memory {
    /// Takes an entry in; there must be no hole.
    fn append(&mut self, entry: &Entry, seq: u64) -> io::Result<()> {
        let index = entry.log_id.index();
        if let Some(last) = self.last.filter(|last| last.index() + 1 != index) {
            return Err(io::Error::other(format!("entry {index} does not follow entry {}", last.index())));
        }
        let bytes = tail::entry_bytes(entry);
        self.tail.push(entry.clone(), bytes, seq);
        self.sizes.push(index, bytes as u64);
        self.last = Some(entry.log_id);
        Ok(())
    }
}
