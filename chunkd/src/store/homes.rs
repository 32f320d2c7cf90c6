//! Where a chunk's replica lives on this server, or may be made: which of the data folders.

use std::sync::Arc;

use caribou_proto::ids::ChunkId;

use super::Error;
use super::chunk_store::ChunkStore;
use super::replica::Replica;
use super::volume::Volume;

/// A replica and the data folder that it is in.
pub(super) type Home = (Arc<Volume>, Arc<Replica>);

impl ChunkStore {
    /// Healthy disks first.
    pub(super) fn find(&self, chunk: ChunkId) -> Option<Home> {
        let homes = || self.volumes.iter().filter_map(|volume| Some((volume.clone(), volume.find(chunk)?)));
        homes().find(|(volume, _)| volume.check().is_ok()).or_else(|| homes().next())
    }

    /// All places of a chunk: more than one only if disks have failed. Healthy ones first.
    pub(super) fn homes(&self, chunk: ChunkId) -> Vec<Home> {
        let homes = self.volumes.iter().filter_map(|volume| Some((volume.clone(), volume.find(chunk)?)));
        let mut homes: Vec<Home> = homes.collect();
        homes.sort_by_key(|(volume, _)| volume.check().is_err());
        homes
    }

    pub(super) fn existing(&self, chunk: ChunkId) -> Result<Home, Error> {
        let deleted =
            || if self.tombstones.contains(chunk) { Error::Deleted { chunk } } else { Error::NoReplica { chunk } };
        self.find(chunk).ok_or_else(deleted)
    }

    /// Reserves a place for a new replica: on the healthy disk with the most free bytes.
    pub(super) fn place(&self, chunk: ChunkId, beside_failed: bool) -> Result<Home, Error> {
        let _one = self.placing.lock();
        if let Some(home) = self.find(chunk).filter(|(volume, _)| !beside_failed || volume.check().is_ok()) {
            return Ok(home);
        }
        let healthy = self.volumes.iter().filter(|volume| volume.check().is_ok());
        let volume = healthy.max_by_key(|volume| volume.room.placeable_bytes()).ok_or(Error::NoDisk)?;
        if !volume.room.place() {
            return Err(volume.no_space());
        }
        let replica = Arc::new(Replica::new(chunk, None, false, volume.next_epoch()));
        volume.index.write().insert(chunk, replica.clone());
        Ok((volume.clone(), replica))
    }
}
