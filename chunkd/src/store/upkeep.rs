//! Housekeeping of a data folder: free space, the journal's idle entries and watermark (V3), the clean stop, fence and identity.

use std::sync::atomic::Ordering;

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, ServerId};

use super::Error;
use super::folder;
use super::format::record::{Kind, Record};
use super::journal::Standing;
use super::request::ClusterIdentity;
use super::volume::Volume;

/// V3: a chunk stays in the journal for so long after its last write, so that overwrites do not pay again.
pub(crate) const LINGER_MS: u64 = 30_000;

impl Volume {
    pub(crate) fn tick(&self, now_ms: u64) -> Result<(), Error> {
        self.check()?;
        self.now_ms.store(now_ms, Ordering::SeqCst);
        if let Err(error) = self.room.look(|| self.disk.space()) {
            tracing::warn!(disk = self.disk.path(), %error, "the free space cannot be read");
        }
        self.settle(LINGER_MS)
    }

    fn settle(&self, linger_ms: u64) -> Result<(), Error> {
        let result = self.journal.settle(|chunk| self.standing(chunk, linger_ms));
        result.map_err(self.broken_journal())
    }

    fn standing(&self, chunk: ChunkId, linger_ms: u64) -> Standing {
        let Some(replica) = self.find(chunk) else {
            return if self.tombstones.contains(chunk) { Standing::Deleted } else { Standing::Gone };
        };
        let info = replica.info();
        let is_reserved = info.is_none();
        let (version, grant, dirty) =
            info.map_or((ChunkVersion(0), GrantId(0), false), |info| (info.version, info.last_grant, info.dirty));
        // M7: the list of what the servers behind lack is in memory only; the entry is what an unclean start knows of it.
        if dirty || replica.has_unsynced() || !replica.in_flight.lock().is_empty() {
            return Standing::Busy(version, grant);
        }
        if is_reserved {
            return Standing::Gone;
        }
        let idle_ms = self.now_ms().saturating_sub(replica.last_write_ms.load(Ordering::SeqCst));
        if idle_ms < linger_ms { Standing::Lingering } else { Standing::Idle }
    }

    /// Everything synced, nothing but dirty chunks in the journal, then the mark.
    pub(crate) fn stop(&self) -> Result<(), Error> {
        self.check()?;
        let replicas: Vec<_> = self.index.read().values().cloned().collect();
        for replica in replicas.iter().filter(|replica| replica.has_unsynced()) {
            self.sync_replica(replica)?;
        }
        self.settle(0)?;
        self.journal.flush().map_err(self.broken_journal())?;
        let mark = Record { first: self.incarnation.0, second: 0 };
        let result = folder::write_record(self.disk.as_ref(), Kind::Clean, self.disk_uuid, mark);
        result.map_err(self.broken("marking a clean stop"))
    }

    /// F2
    pub(crate) fn write_fence(&self, generation: u16, term: u64) -> Result<(), Error> {
        self.check()?;
        let fence = Record { first: u64::from(generation), second: term };
        let result = folder::write_record(self.disk.as_ref(), Kind::Fence, self.disk_uuid, fence);
        result.map_err(self.broken("persisting the fence"))
    }

    /// F1
    pub(crate) fn register(&self, cluster: ClusterIdentity, server: ServerId) -> Result<(), Error> {
        self.check()?;
        let mut identity = *self.identity.lock();
        if identity.registered == Some((cluster, server)) {
            return Ok(());
        }
        identity.registered = Some((cluster, server));
        folder::write_identity(self.disk.as_ref(), &identity).map_err(self.broken("persisting the identity"))?;
        *self.identity.lock() = identity;
        Ok(())
    }
}
