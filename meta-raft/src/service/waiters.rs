//! Who waits for a chunk to change (`wait_chunk`): a wake-up per chunk, fed from applied effects.
//!
//! Invariants: a waiter registers *before* it looks at the state, so a change between look and wait wakes it; entries without waiters
//! are removed. Waking is a hint: the waiter looks again.

use std::collections::HashMap;
use std::sync::Arc;

use caribou_proto::ids::ChunkId;
use parking_lot::Mutex;
use tokio::sync::Notify;

#[derive(Debug, Default)]
pub(crate) struct ChunkWaiters {
    chunks: Mutex<HashMap<ChunkId, Arc<Notify>>>,
}

impl ChunkWaiters {
    /// A wake-up for the chunk. Enable its `notified()` before looking at the state.
    pub(crate) fn on(&self, chunk: ChunkId) -> Waiting<'_> {
        let notify = self.chunks.lock().entry(chunk).or_default().clone();
        Waiting { waiters: self, chunk, notify }
    }

    /// The chunk has changed.
    pub(crate) fn wake(&self, chunk: ChunkId) {
        if let Some(notify) = self.chunks.lock().get(&chunk) {
            notify.notify_waiters();
        }
    }

    /// Everything may have changed (a snapshot was installed, leadership moved).
    pub(crate) fn wake_all(&self) {
        for notify in self.chunks.lock().values() {
            notify.notify_waiters();
        }
    }
}

/// One waiter's place; leaves the table when the last of its chunk is dropped.
pub(crate) struct Waiting<'a> {
    waiters: &'a ChunkWaiters,
    chunk: ChunkId,
    pub(crate) notify: Arc<Notify>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut chunks = self.waiters.chunks.lock();
        // The table's reference and ours: nobody else waits.
        if Arc::strong_count(&self.notify) == 2 {
            chunks.remove(&self.chunk);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_change_after_registration_wakes_and_nothing_stays() {
        let waiters = ChunkWaiters::default();
        {
            let (a, b) = (waiters.on(ChunkId(1)), waiters.on(ChunkId(1)));
            let mut first = std::pin::pin!(a.notify.notified());
            let mut second = std::pin::pin!(b.notify.notified());
            first.as_mut().enable();
            second.as_mut().enable();
            waiters.wake(ChunkId(2));
            waiters.wake(ChunkId(1));
            first.await;
            second.await;
        }
        assert!(waiters.chunks.lock().is_empty());
    }
}
