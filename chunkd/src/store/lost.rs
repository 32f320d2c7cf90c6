//! Which replicas this server has to give up: damaged, on a failed disk, or not there although the cluster counts on them (R3, R4).

use std::sync::Arc;

use caribou_proto::ids::ChunkId;

use super::chunk_store::ChunkStore;
use super::volume::Volume;

/// Missing replicas that are remembered; the leader's next comparison finds the rest.
const MISSING: usize = 10_000;

impl ChunkStore {
    /// R4: the leader counts on replicas of these chunks here. `first`: what it said before is out of date.
    pub fn expect(&self, first: bool, chunks: &[ChunkId]) {
        let mut missing = self.missing.lock();
        if first {
            missing.clear();
        }
        let before = missing.len();
        missing.extend(chunks.iter().filter(|chunk| self.find(**chunk).is_none()).take(MISSING.saturating_sub(before)));
        if missing.len() > before {
            tracing::error!(replicas = missing.len() - before, "replicas that the cluster counts on are not here");
        }
    }

    /// R3, a hint: replicas that are missing, at most 10 000, those whose file is damaged or unreadable, at most 10 000 a disk, and all of a disk that
    /// failed, except those that have a new place on another one. Ordered.
    pub fn lost_chunks(&self) -> Vec<ChunkId> {
        let lost = |volume: &Arc<Volume>| -> Vec<ChunkId> {
            match volume.check() {
                Ok(()) => volume.suspects.lock().iter().copied().collect(),
                Err(_) => volume.index.read().keys().copied().collect(),
            }
        };
        let mut missing = self.missing.lock();
        missing.retain(|chunk| self.find(*chunk).is_none());
        let mut all: Vec<ChunkId> = missing.iter().copied().collect();
        drop(missing);
        for volume in &self.volumes {
            let failed = volume.check().is_err();
            let elsewhere = |chunk: &ChunkId| failed && self.find(*chunk).is_some_and(|(home, _)| home.check().is_ok());
            all.extend(lost(volume).into_iter().filter(|chunk| !elsewhere(chunk)));
        }
        all.sort_unstable();
        all.dedup();
        all
    }
}
