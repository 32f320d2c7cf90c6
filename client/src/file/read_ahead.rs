//! Bytes read before anybody asked for them: blocks of 1 MiB, kept per file, so that all handles see the same ones and none
//! can go back from newer to older bytes (P2). Only files of which nothing is buffered for writing are read ahead; every
//! write, open or change of size empties the store.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, Shared};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// The unit of read-ahead.
pub(crate) const AHEAD_BLOCK: u64 = 1 << 20;
/// Reads of one program arrive out of order by as much as this when several threads serve them.
const DISORDER: u64 = 4 << 20;
/// Older bytes are read again: a program may pause for long between two reads.
const LIFE: Duration = Duration::from_secs(5);

/// A block under way or there; `None`: it could not be read, the reader tries for itself.
pub(crate) type AheadRead = Shared<BoxFuture<'static, Option<Bytes>>>;

struct Block {
    read: AheadRead,
    len: u64,
    owner: u64,
    at: Instant,
    _room: Room,
    /// What drives the read. Without the block nobody waits for it, unless a reader has its own hold on it.
    task: AbortHandle,
}

impl Drop for Block {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The blocks of one file.
#[derive(Default)]
pub(crate) struct Ahead {
    blocks: BTreeMap<u64, Block>,
}

impl Ahead {
    /// The block that has `[offset, end)`, which does not cross blocks.
    pub(crate) fn get(&mut self, offset: u64, end: u64) -> Option<AheadRead> {
        let number = offset / AHEAD_BLOCK;
        let block = self.blocks.get(&number)?;
        if Instant::now() >= block.at + LIFE {
            self.blocks.remove(&number);
            return None;
        }
        (end <= number * AHEAD_BLOCK + block.len).then(|| block.read.clone())
    }

    pub(crate) fn has(&self, number: u64) -> bool {
        self.blocks.contains_key(&number)
    }

    /// Starts the read of a block.
    pub(crate) fn put(&mut self, number: u64, len: u64, owner: u64, read: AheadRead, room: Room) {
        let task = tokio::spawn(read.clone()).abort_handle();
        self.blocks.insert(number, Block { read, len, owner, at: Instant::now(), _room: room, task });
    }

    /// A handle has moved on: drops what it has left behind.
    pub(crate) fn passed(&mut self, owner: u64, offset: u64) {
        let limit = offset.saturating_sub(DISORDER) / AHEAD_BLOCK;
        self.blocks.retain(|number, block| block.owner != owner || *number >= limit);
    }

    /// A handle is closed.
    pub(crate) fn closed(&mut self, owner: u64) {
        self.blocks.retain(|_, block| block.owner != owner);
    }

    pub(crate) fn clear(&mut self) {
        self.blocks.clear();
    }
}

/// Bounds the read-ahead of all files together.
#[derive(Debug)]
pub(crate) struct AheadBudget {
    limit: u64,
    used: AtomicU64,
}

impl AheadBudget {
    pub(crate) fn new(limit: u64) -> Self {
        Self { limit, used: AtomicU64::new(0) }
    }

    pub(crate) fn take(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        let room = Room { bytes, budget: self.clone() };
        let before = self.used.fetch_add(bytes, Ordering::Relaxed);
        // Dropping the room gives it back.
        (before + bytes <= self.limit).then_some(room)
    }
}

/// A part of the bound, given back when dropped.
#[derive(Debug)]
pub(crate) struct Room {
    bytes: u64,
    budget: Arc<AheadBudget>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Notices that one handle reads in sequence.
#[derive(Debug, Default)]
pub(crate) struct Sequence {
    next: u64,
    streak: u32,
}

impl Sequence {
    /// Takes note of a read; says how many bytes after it to read ahead.
    pub(crate) fn read(&mut self, offset: u64, end: u64, limit: u64) -> u64 {
        let sequential = offset <= self.next + DISORDER && offset + DISORDER >= self.next;
        if sequential {
            self.streak = (self.streak + 1).min(16);
            self.next = self.next.max(end);
        } else {
            (self.streak, self.next) = (0, end);
        }
        // The first read says nothing yet, the second is a pattern; from then on twice as much each time.
        match self.streak {
            0 | 1 => 0,
            streak => (AHEAD_BLOCK << (streak - 1).min(12)).min(limit),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_in_sequence_is_noticed_and_random_reads_are_not() {
        let mut sequence = Sequence::default();
        assert_eq!(sequence.read(0, 100, 8 << 20), 0);
        assert_eq!(sequence.read(100, 200, 8 << 20), 2 << 20);
        assert_eq!(sequence.read(200, 300, 8 << 20), 4 << 20);
        assert_eq!(sequence.read(400, 500, 8 << 20), 8 << 20, "a little out of order");
        assert_eq!(sequence.read(1 << 40, (1 << 40) + 1, 8 << 20), 0);
    }

    #[test]
    fn room_comes_back() {
        let budget = Arc::new(AheadBudget::new(10));
        let room = budget.take(8).expect("there is room");
        assert!(budget.take(8).is_none());
        drop(room);
        assert!(budget.take(8).is_some());
    }
}
