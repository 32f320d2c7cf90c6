//! Replicas that were made and lost with their names when the power went, before any sync (M17). They count as dirty and empty, not as missing, so
//! that a recovery of chunks that nobody has can end.
//!
//! Which they are is known from the journal at the start: those that it covers and that are not here. That must outlast further losses of power.
//! A range of ids does, until the leader has said what it counts on; from then on they are known by name, each until there is a replica again, or
//! until the leader does not count on it any more.
//!
//! Invariant: a replica that was synced and is lost in another way is never among them. Watermarks are raised above all that the leader counts on; where
//! folders are not those that there were, or hold what is damaged, nothing is covered by a range until it has said so (`start`).

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use caribou_proto::ids::ChunkId;

use super::Error;
use super::chunk_store::ChunkStore;
use super::pool::Lane;
use super::request::{Prepare, Prepared};
use super::volume::Volume;

impl ChunkStore {
    /// No replica is here; one may have vanished.
    fn vanished(&self, chunk: ChunkId) -> bool {
        let is_known_otherwise = |volume: &Arc<Volume>| volume.suspects.is_lost(chunk);
        !self.tombstones.contains(chunk)
            && !self.volumes.iter().any(is_known_otherwise)
            && self.volumes.iter().any(|volume| volume.journal.may_have_vanished(chunk))
    }

    pub(super) fn absent(&self, chunk: ChunkId) -> Prepared {
        Prepared { clean: !self.vanished(chunk), ..self.volumes[0].absent() }
    }

    /// That it may have vanished has to be known after further starts too: its recovery may have to wait for other holders.
    pub(super) async fn report_absent(&self, prepare: &Prepare) -> Result<Prepared, Error> {
        let absent = self.absent(prepare.chunk);
        if !absent.clean {
            let volume = self.healthy().ok_or(Error::NoDisk)?;
            let Prepare { chunk, version, old_grant, .. } = *prepare;
            let note = move |volume: &Volume| {
                volume.journal.vanished(chunk, version, old_grant).map_err(volume.broken_journal())
            };
            self.run_on(volume, Lane::Chunk(chunk.0), "prepare", 1, note).await?;
        }
        Ok(absent)
    }

    /// The leader counts on these of the chunks in `range` here, and on no others; the page that ends with the last id is its last one. `first`: it
    /// begins anew. `range`: `None` if it does not say. The next [tick](Self::tick) makes it durable.
    pub fn expect_vanished(&self, first: bool, range: Option<RangeInclusive<ChunkId>>, counted: &BTreeSet<ChunkId>) {
        let Some(range) = range else { return };
        let range = if first { ChunkId(0)..=*range.end() } else { range };
        // What is about to be made is here already, or is seen by whoever makes it.
        let _placing = self.placing.lock();
        for volume in &self.volumes {
            for chunk in volume.journal.named(&range) {
                let is_elsewhere = || volume.find(chunk).is_none() && self.find(chunk).is_some();
                if is_elsewhere() || (!counted.contains(&chunk) && self.find(chunk).is_none()) {
                    volume.journal.forget_vanished(chunk);
                }
            }
            let absent = counted.iter().filter(|chunk| self.find(**chunk).is_none() && self.vanished(**chunk));
            absent.for_each(|chunk| volume.journal.name_vanished(*chunk));
            volume.journal.told(counted.last().copied(), range.end().0 == u64::MAX);
        }
    }

    /// A replica has been made: it stands for what vanished, on whichever disk that was.
    pub(super) fn has_place(&self, chunk: ChunkId) {
        // Where it is, writers may count on the entry by now.
        let others = self.volumes.iter().filter(|volume| volume.find(chunk).is_none());
        others.for_each(|volume| volume.journal.forget_vanished(chunk));
    }

    fn healthy(&self) -> Option<Arc<Volume>> {
        self.volumes.iter().find(|volume| volume.check().is_ok()).cloned()
    }
}
