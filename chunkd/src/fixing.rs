//! The Fixes of this server, each from the moment it is taken until it can change nothing any more.
//!
//! The leader's rounds are not on the wire: a Fix of a round that was given up is told from one of the present round by the Prepare between
//! them (M5). So a Prepare or Delete ends the Fixes of its chunk that were taken before it, those that wait for their turn too, and does nothing
//! before they are gone. What they have queued on a disk runs before it: jobs of one chunk keep their order (`store`).

use caribou_proto::ids::{ChunkId, ChunkVersion};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// All Fixes that are under way.
#[derive(Default)]
pub(crate) struct Fixing {
    chunks: Mutex<HashMap<ChunkId, Vec<Arc<Entry>>>>,
}

struct Entry {
    version: ChunkVersion,
    given_up: CancellationToken,
    gone: CancellationToken,
}

impl Fixing {
    /// A Fix has been taken.
    pub(crate) fn begin(self: &Arc<Self>, chunk: ChunkId, version: ChunkVersion) -> Running {
        let (given_up, gone) = (CancellationToken::new(), CancellationToken::new());
        let entry = Arc::new(Entry { version, given_up, gone });
        self.chunks.lock().entry(chunk).or_default().push(entry.clone());
        Running { all: self.clone(), chunk, entry }
    }

    /// A Prepare or Delete has been taken. A Fix of a higher version than it names is of a later round, which refuses it.
    pub(crate) fn end(&self, chunk: ChunkId, up_to: ChunkVersion) -> Ending {
        let chunks = self.chunks.lock();
        let all = chunks.get(&chunk).into_iter().flatten();
        let ending: Vec<Arc<Entry>> = all.filter(|entry| entry.version <= up_to).cloned().collect();
        drop(chunks);
        ending.iter().for_each(|entry| entry.given_up.cancel());
        Ending(ending)
    }
}

/// A Fix under way. Dropped when nothing of it is at work any more.
pub(crate) struct Running {
    all: Arc<Fixing>,
    chunk: ChunkId,
    entry: Arc<Entry>,
}

impl Running {
    /// Resolves when a later command has ended this Fix.
    pub(crate) async fn given_up(&self) {
        self.entry.given_up.cancelled().await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut chunks = self.all.chunks.lock();
        if let Some(entries) = chunks.get_mut(&self.chunk) {
            entries.retain(|entry| !Arc::ptr_eq(entry, &self.entry));
            if entries.is_empty() {
                chunks.remove(&self.chunk);
            }
        }
        drop(chunks);
        self.entry.gone.cancel();
    }
}

/// Fixes that have been told to end.
#[derive(Default)]
pub(crate) struct Ending(Vec<Arc<Entry>>);

impl Ending {
    /// Returns when none of them can change anything any more.
    pub(crate) async fn gone(&self) {
        for entry in &self.0 {
            entry.gone.cancelled().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[test]
    fn those_taken_before_end_and_are_waited_for() {
        let all = Arc::new(Fixing::default());
        let (chunk, version) = (ChunkId(1), ChunkVersion);
        let (low, high, other) =
            (all.begin(chunk, version(2)), all.begin(chunk, version(3)), all.begin(ChunkId(2), version(2)));
        let ending = all.end(chunk, version(2));
        let late = all.begin(chunk, version(2));
        let given_up = |fix: &Running| fix.given_up().now_or_never().is_some();
        assert_eq!([&low, &high, &other, &late].map(given_up), [true, false, false, false]);
        assert!(ending.gone().now_or_never().is_none());
        drop(low);
        assert!(ending.gone().now_or_never().is_some());
        drop((high, other, late));
        assert!(all.end(chunk, version(9)).0.is_empty() && all.chunks.lock().is_empty());
    }
}
