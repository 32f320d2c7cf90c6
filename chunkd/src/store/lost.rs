//! What this server tells the leader of replicas that are not as they should be (R3, R4): those that it has to give up, since they are on a
//! failed disk, cannot be opened, or are not there, or only at an old version (V5), although the cluster counts on them; and those that are here with damaged blocks.

use std::sync::Arc;

use caribou_proto::ids::{ChunkId, ChunkVersion};

use super::chunk_store::ChunkStore;
use super::volume::Volume;

/// Missing replicas that are remembered; the leader's next comparison finds the rest.
const MISSING: usize = 10_000;

impl ChunkStore {
    /// R4, V5: the leader counts on replicas of these chunks here, complete at these versions. `first`: what it said before is out of date.
    pub fn expect(&self, first: bool, chunks: &[(ChunkId, ChunkVersion)]) {
        let mut missing = self.missing.lock();
        if first {
            missing.clear();
        }
        let before = missing.len();
        let lacking = chunks.iter().copied().filter(|(chunk, version)| self.lacks(*chunk, *version));
        missing.extend(lacking.take(MISSING.saturating_sub(before)));
        if missing.len() > before {
            tracing::error!(replicas = missing.len() - before, "replicas that the cluster counts on are not here");
        }
    }

    /// One that is being made has no version yet; whoever makes it finds out.
    fn lacks(&self, chunk: ChunkId, version: ChunkVersion) -> bool {
        match self.find(chunk) {
            Some((_, replica)) => replica.info().is_some_and(|info| info.completed < version),
            None => true,
        }
    }

    /// R3, a hint: replicas that are missing, at most 10 000, those whose file has no usable header or table, at most 10 000 a disk, and all of a
    /// disk that failed, except those that have a new place on another one. Ordered.
    pub fn lost_chunks(&self) -> Vec<ChunkId> {
        let lost = |volume: &Arc<Volume>| -> Vec<ChunkId> {
            match volume.check() {
                Ok(()) => volume.suspects.all_lost(),
                Err(_) => volume.index.read().keys().copied().collect(),
            }
        };
        let mut missing = self.missing.lock();
        missing.retain(|chunk, version| self.lacks(*chunk, *version));
        let mut all: Vec<ChunkId> = missing.keys().copied().collect();
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

    /// R3, a hint: replicas that are here, and how many of their blocks are known to be damaged; at most 10 000 a disk. Ordered, and never one of
    /// [`Self::lost_chunks`]: what is on a failed disk is lost.
    pub fn damaged_chunks(&self) -> Vec<(ChunkId, u32)> {
        let healthy = self.volumes.iter().filter(|volume| volume.check().is_ok());
        let mut all: Vec<(ChunkId, u32)> = healthy.flat_map(|volume| volume.suspects.all_damaged()).collect();
        all.sort_unstable();
        all
    }
}
