//! Deletion (R4): into the quarantine by a committed command, unlinked after the retention. What a scan found is never unlinked.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::ids::ChunkVersion;

use super::Error;
use super::layout;
use super::replica::Replica;
use super::volume::Volume;

impl Volume {
    /// Runs in the chunk's lane.
    pub(crate) fn delete(&self, replica: &Arc<Replica>, up_to: ChunkVersion, now_unix_ms: u64) -> Result<(), Error> {
        self.check()?;
        let chunk = replica.chunk;
        let mut state = replica.state.lock();
        // ADR 1.9, M18: even if there is no replica; before it is gone, so that no fragment finds neither.
        let Some(header) = state.header else {
            self.tombstones.add(chunk);
            return Ok(());
        };
        if header.version > up_to {
            let (have, complete) = (header.version, header.complete);
            return Err(Error::WrongVersion { chunk, asked: up_to, have, complete });
        }
        self.tombstones.add(chunk);
        let target = layout::deleted_path(chunk, header.version, now_unix_ms);
        match self.disk.rename(&layout::chunk_path(chunk), &target) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                tracing::error!(
                    chunk = chunk.0,
                    disk = self.disk.path(),
                    "the file of a chunk to be deleted is missing"
                );
            }
            other => other.map_err(self.broken("moving a chunk to the quarantine"))?,
        }
        for dir in [layout::DELETED, &layout::shard_of(chunk)] {
            if let Err(error) = self.disk.sync_dir(dir) {
                // Until the Delete is sent again: what is in the quarantine is written no more.
                self.drop_file(replica, &mut state);
                return Err(self.broken("syncing a folder")(error));
            }
        }
        self.forget(replica, &mut state);
        self.suspects.forget(chunk);
        Ok(())
    }

    /// What a Delete put into the quarantine longer than `retention` ago, and how many other files are there.
    pub(crate) fn due(&self, now_unix_ms: u64, retention: Duration) -> Result<(Vec<String>, u64), Error> {
        self.check()?;
        let broken = || self.broken("listing the quarantine");
        let found = self.disk.list(layout::FOUND).map_err(broken())?.len();
        let mut due = self.disk.list(layout::DELETED).map_err(broken())?;
        let deleted = due.len();
        due.retain(|name| {
            let age_ms = layout::deleted_at_ms(name).map(|at| now_unix_ms.saturating_sub(at));
            age_ms.is_some_and(|age| u128::from(age) >= retention.as_millis())
        });
        let kept = (found + deleted - due.len()) as u64;
        Ok((due, kept))
    }

    /// Unlinks files that are due.
    pub(crate) fn purge(&self, names: &[String]) -> Result<(), Error> {
        self.check()?;
        for name in names {
            match self.disk.unlink(&format!("{}/{name}", layout::DELETED)) {
                // A person was faster.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(self.broken("purging the quarantine"))?,
            }
        }
        Ok(())
    }
}
