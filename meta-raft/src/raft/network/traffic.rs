//! How many messages this node has sent to the other metadata nodes: replication, heartbeats, and the answers to both. For operators; nothing
//! depends on it.

use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug, Default)]
pub(crate) struct Traffic(AtomicU64);

impl Traffic {
    /// One more.
    pub(super) fn sent(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn messages(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
