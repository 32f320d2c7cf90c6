//! Replicas that are here and that the leader does not count on (R4): hints for it, in memory only.
//!
//! Nothing is done about them here. The leader looks again at what it knows; what it decides comes back as a Delete, like any other.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use caribou_proto::ids::{ChunkId, ChunkVersion};

use super::chunk_store::ChunkStore;

/// Strays that are remembered; the leader's next comparison finds the rest.
const STRAYS: usize = 10_000;

impl ChunkStore {
    /// R4: of the ids in `range` the leader counts on these here, and on no others. `None`: it does not say, as those of older releases.
    /// `first`: what it said before is out of date.
    pub fn compare(&self, first: bool, range: Option<RangeInclusive<ChunkId>>, counted: &BTreeSet<ChunkId>) {
        let mut strays = self.strays.lock();
        if first {
            strays.clear();
        }
        let Some(range) = range.filter(|range| !range.is_empty()) else { return };
        for volume in self.volumes.iter().filter(|volume| volume.check().is_ok()) {
            let room = STRAYS.saturating_sub(strays.len());
            // Those that are just being made too: a join may have been given up already.
            let index = volume.index.read();
            let here = index.range(range.clone()).map(|(chunk, _)| *chunk);
            strays.extend(here.filter(|chunk| !counted.contains(chunk)).take(room));
        }
    }

    /// R4, a hint: replicas that the leader does not count on, with the versions that they have persisted. Ordered. One that is also on a failed
    /// disk is not among them: its deletion would not be done before that disk is back, or gone.
    pub fn stray_chunks(&self) -> Vec<(ChunkId, ChunkVersion)> {
        let mut told = Vec::new();
        self.strays.lock().retain(|chunk| {
            let (mut is_here, mut is_sound, mut version) = (false, true, None);
            for volume in &self.volumes {
                let Some(replica) = volume.find(*chunk) else { continue };
                is_here = true;
                is_sound &= volume.check().is_ok();
                version = version.or(replica.info().map(|info| info.version));
            }
            told.extend(version.filter(|_| is_sound).map(|version| (*chunk, version)));
            is_here
        });
        told
    }

    /// Everything that is here, whoever counts on it. Ordered.
    pub fn all_chunks(&self) -> Vec<ChunkId> {
        let mut all = BTreeSet::new();
        for volume in &self.volumes {
            let index = volume.index.read();
            all.extend(index.iter().filter(|(_, replica)| replica.info().is_some()).map(|(chunk, _)| *chunk));
        }
        all.into_iter().collect()
    }
}
