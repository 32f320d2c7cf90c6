//! The writer thread: everything that has queued becomes one frame and one fsync (group commit), off Raft's task.
//!
//! After a failed write nothing more is written: what follows would leave a hole, and the node stops anyway (STACK, openraft 8).

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use caribou_failpoints::{self as failpoints, Point};
use caribou_planted::{self as planted, Bug};
use openraft::storage::IOFlushed;
use parking_lot::{Condvar, Mutex};
use tokio::sync::{Notify, oneshot};

use super::Shared;
use super::format::Frame;
use super::tail::entry_bytes;
use crate::raft::config::{MAX_LOG_GROUP_BYTES, MAX_LOG_QUEUE_BYTES};
use crate::raft::types::{Entry, LogId, TypeConfig, Vote};

/// How much later a planted bug writes what it has said to be written.
const LATE: Duration = Duration::from_millis(50);

type Ack = oneshot::Sender<io::Result<()>>;

/// One change of the log.
pub(super) enum Op {
    Append { seq: u64, entries: Vec<Entry>, callback: IOFlushed<TypeConfig> },
    Vote { vote: Vote, ack: Ack },
    Truncate { from: u64 },
    Purge { upto: LogId },
    Sync { ack: Ack },
}

impl Op {
    fn bytes(&self) -> usize {
        match self {
            Self::Append { entries, .. } => entries.iter().map(entry_bytes).sum(),
            _ => 0,
        }
    }

    /// Where a test lets the process die: before its frame is written, and when it is on disk and nobody has been told.
    fn points(&self) -> Option<(Point, Point)> {
        match self {
            Self::Append { .. } => Some((Point::LogUnwritten, Point::LogWritten)),
            Self::Vote { .. } => Some((Point::VoteUnwritten, Point::VoteWritten)),
            Self::Truncate { .. } => Some((Point::TruncateUnwritten, Point::TruncateWritten)),
            Self::Purge { .. } => Some((Point::PurgeUnwritten, Point::PurgeWritten)),
            Self::Sync { .. } => None,
        }
    }
}

impl std::fmt::Debug for Op {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Append { seq, entries, .. } => write!(f, "append {seq} of {} entries", entries.len()),
            Self::Vote { vote, .. } => write!(f, "vote {vote}"),
            Self::Truncate { from } => write!(f, "truncate from {from}"),
            Self::Purge { upto } => write!(f, "purge up to {upto}"),
            Self::Sync { .. } => f.write_str("sync"),
        }
    }
}

#[derive(Debug, Default)]
struct Waiting {
    ops: VecDeque<Op>,
    bytes: usize,
    seq: u64,
    closed: bool,
}

/// Changes on their way to the disk, in order.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    filled: Condvar,
    drained: Notify,
    /// As `filled`, for a writer that is a task.
    arrived: Notify,
}

impl Queue {
    pub(super) fn push(&self, op: Op) -> io::Result<()> {
        let mut waiting = self.waiting.lock();
        if waiting.closed {
            return Err(super::closed());
        }
        waiting.bytes += op.bytes();
        waiting.ops.push_back(op);
        self.filled.notify_one();
        self.arrived.notify_one();
        Ok(())
    }

    pub(super) fn next_seq(&self) -> u64 {
        let mut waiting = self.waiting.lock();
        waiting.seq += 1;
        waiting.seq
    }

    /// Waits while the disk is too far behind.
    pub(super) async fn wait_for_room(&self) {
        loop {
            let drained = self.drained.notified();
            {
                let waiting = self.waiting.lock();
                if waiting.closed || waiting.bytes <= MAX_LOG_QUEUE_BYTES {
                    return;
                }
            }
            drained.await;
        }
    }

    pub(super) fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_one();
        self.arrived.notify_one();
        self.drained.notify_waiters();
    }

    /// The next group; `None` once closed and empty.
    fn take(&self) -> Option<Vec<Op>> {
        let mut waiting = self.waiting.lock();
        while waiting.ops.is_empty() {
            if waiting.closed {
                return None;
            }
            self.filled.wait(&mut waiting);
        }
        Some(self.group(&mut waiting))
    }

    /// As [`Self::take`], for a writer that is a task.
    async fn take_when_there_is(&self) -> Option<Vec<Op>> {
        loop {
            {
                let mut waiting = self.waiting.lock();
                if !waiting.ops.is_empty() {
                    return Some(self.group(&mut waiting));
                }
                if waiting.closed {
                    return None;
                }
            }
            self.arrived.notified().await;
        }
    }

    fn group(&self, waiting: &mut Waiting) -> Vec<Op> {
        let mut group = Vec::new();
        let mut bytes = 0;
        while let Some(op) =
            waiting.ops.pop_front_if(|op| group.is_empty() || bytes + op.bytes() <= MAX_LOG_GROUP_BYTES)
        {
            bytes += op.bytes();
            group.push(op);
        }
        waiting.bytes -= bytes;
        self.drained.notify_waiters();
        group
    }
}

/// The thread's body.
pub(super) fn run(shared: &Shared) {
    let mut failed = None;
    while let Some(group) = shared.queue.take() {
        write_and_report(shared, group, &mut failed);
    }
}

/// The same as a task, for a disk in memory: each group is on it after `sync_time`, and not before.
pub(super) async fn run_inline(shared: Arc<Shared>, sync_time: Arc<dyn Fn() -> Duration + Send + Sync>) {
    let mut failed = None;
    while let Some(group) = shared.queue.take_when_there_is().await {
        if planted::is(Bug::LogAnsweredBeforeSync) {
            let frame = frame_of(&group);
            report(&shared, group, None);
            tokio::time::sleep(LATE).await;
            commit(&shared, frame).expect("a disk in memory takes it");
            continue;
        }
        tokio::time::sleep(sync_time()).await;
        write_and_report(&shared, group, &mut failed);
    }
}

fn write_and_report(shared: &Shared, group: Vec<Op>, failed: &mut Option<String>) {
    let result = match &failed {
        None => write(shared, &group),
        Some(reason) => Err(io::Error::other(reason.clone())),
    };
    if let (Err(error), None) = (&result, &failed) {
        tracing::error!(%error, "the Raft log cannot be written: this node stops");
        *failed = Some(error.to_string());
    }
    report(shared, group, failed.as_deref());
}

fn write(shared: &Shared, group: &[Op]) -> io::Result<()> {
    let points = || group.iter().filter_map(Op::points);
    points().for_each(|(unwritten, _)| failpoints::pass(unwritten));
    commit(shared, frame_of(group))?;
    points().for_each(|(_, written)| failpoints::pass(written));
    Ok(())
}

fn frame_of(group: &[Op]) -> Frame {
    let mut frame = Frame::new();
    for op in group {
        match op {
            Op::Append { entries, .. } => entries.iter().for_each(|e| frame.put(e)),
            Op::Vote { vote, .. } => frame.put_vote(vote),
            Op::Truncate { from } => frame.truncate(*from),
            Op::Purge { upto } => frame.purge(*upto),
            Op::Sync { .. } => {}
        }
    }
    frame
}

fn commit(shared: &Shared, frame: Frame) -> io::Result<()> {
    // A group of nothing but `Sync` follows groups that have been fsynced already.
    if !frame.is_empty() {
        shared.disk.commit(frame)?;
        shared.counters.fsyncs.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn report(shared: &Shared, group: Vec<Op>, failed: Option<&str>) {
    let result = || failed.map_or(Ok(()), |reason| Err(io::Error::other(reason.to_owned())));
    let mut purged = None;
    for op in group {
        match op {
            Op::Append { seq, callback, .. } => {
                if failed.is_none() {
                    shared.memory.write().tail.written(seq);
                }
                callback.io_completed(result());
            }
            // The receiver is gone if its task was ended: nobody waits any more.
            Op::Vote { ack, .. } | Op::Sync { ack } => drop(ack.send(result())),
            Op::Purge { upto } => purged = purged.max(Some(upto.index())),
            Op::Truncate { .. } => {}
        }
    }
    // After the answers: it waits for the folder.
    if let (Some(upto), None) = (purged, failed)
        && let Err(error) = shared.disk.drop_below(upto)
    {
        tracing::warn!(%error, "segments of the purged log could not be dropped; tried again at the next purge");
    }
}
