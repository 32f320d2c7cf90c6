//! The async door of the store: queues the work in the right lane, waits with a deadline.
//!
//! Never blocks a task of the runtime: only the disks' threads touch a disk or a lock that is held across I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caribou_planted::{self as planted, Bug};
use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, ServerId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::disk::Disk;
use super::homes::Home;
use super::pool::{Lane, Refusal};
use super::replica::{Replica, Synced};
use super::request::*;
use super::start::{self, Started, hex};
use super::tombstones::Tombstones;
use super::volume::Volume;
use super::{Error, OpenError};

/// A whole chunk is read or synced: so many times the deadline of one operation.
const WHOLE_CHUNK: u32 = 6;
/// Files that one job unlinks.
const PURGE_BATCH: usize = 64;

/// What a store is opened with.
pub struct OpenOptions {
    /// The data folders. At least one; the order does not matter.
    pub disks: Vec<Arc<dyn Disk>>,
    /// Random UUIDs for a new server and new disks (an argument, so that a simulation can seed it).
    pub new_uuid: Box<dyn FnMut() -> [u8; 16] + Send>,
    /// Wall-clock milliseconds since 1970: a lower bound of the incarnation (F3).
    pub now_unix_ms: u64,
    /// A disk that takes longer for one operation counts as hung and failed.
    pub deadline: Duration,
}

/// The replicas of this server.
pub struct ChunkStore {
    pub(super) volumes: Vec<Arc<Volume>>,
    pub(super) tombstones: Arc<Tombstones>,
    incarnation: Incarnation,
    unclean: bool,
    fence: Mutex<(u16, u64)>,
    /// One fence or registration is persisted at a time.
    persisting: tokio::sync::Mutex<()>,
    deadline: Duration,
    /// Held while a new replica is given a place.
    pub(super) placing: Mutex<()>,
    /// R4: what the leader counts on and no folder has at that version.
    pub(super) missing: Mutex<BTreeMap<ChunkId, ChunkVersion>>,
    /// R4: what is here and the leader does not count on.
    pub(super) strays: Mutex<BTreeSet<ChunkId>>,
    closed: AtomicBool,
}

impl ChunkStore {
    /// Locks and checks all folders (a foreign one: nothing is changed anywhere), makes a new incarnation durable on all of
    /// them (F3), removes the mark of a clean stop, scans the headers, and marks what an unclean stop may have hurt as dirty (V3).
    pub async fn open(options: OpenOptions) -> Result<Arc<Self>, OpenError> {
        let OpenOptions { disks, mut new_uuid, now_unix_ms, deadline } = options;
        let started = if disks.iter().all(|disk| disk.pace().never_blocks()) {
            start::start(disks, &mut new_uuid, now_unix_ms)?
        } else {
            let work = tokio::task::spawn_blocking(move || start::start(disks, &mut new_uuid, now_unix_ms));
            work.await.expect("opening the store does not panic")?
        };
        let Started { volumes, incarnation, fence, unclean, tombstones } = started;
        Ok(Arc::new(Self {
            volumes,
            tombstones,
            incarnation,
            unclean,
            fence: Mutex::new(fence),
            persisting: tokio::sync::Mutex::new(()),
            deadline,
            placing: Mutex::new(()),
            missing: Mutex::default(),
            strays: Mutex::default(),
            closed: AtomicBool::new(false),
        }))
    }

    /// Made at the first start, the same on all folders.
    pub fn server_uuid(&self) -> [u8; 16] {
        self.volumes[0].identity.lock().server_uuid
    }

    /// `None` before the first registration.
    pub fn server_id(&self) -> Option<ServerId> {
        self.volumes[0].identity.lock().registered.map(|(_, server)| server)
    }

    /// `None` before the first registration.
    pub fn cluster(&self) -> Option<ClusterIdentity> {
        self.volumes[0].identity.lock().registered.map(|(cluster, _)| cluster)
    }

    /// F3: of this start; higher than that of every start before.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Any folder was not stopped cleanly before this start.
    pub fn unclean(&self) -> bool {
        self.unclean
    }

    /// V3: not served before their recovery. For `Register.dirty_chunks`.
    pub fn dirty_chunks(&self) -> Vec<ChunkId> {
        let dirty = |volume: &Arc<Volume>| {
            let index = volume.index.read();
            let dirty = index.values().filter(|replica| replica.info().is_some_and(|info| info.dirty));
            dirty.map(|replica| replica.chunk).collect::<Vec<_>>()
        };
        let mut all: Vec<ChunkId> = self.volumes.iter().flat_map(dirty).collect();
        all.sort_unstable();
        all
    }

    pub fn disks(&self) -> Vec<DiskStatus> {
        self.volumes.iter().map(|volume| volume.status()).collect()
    }

    /// From memory; `None` if there is no replica.
    pub fn replica(&self, chunk: ChunkId) -> Option<ReplicaInfo> {
        self.find(chunk).and_then(|(_, replica)| replica.info())
    }

    /// F1: at registration. Persists cluster and server id on all folders if they are new. Refuses another cluster, a lower
    /// generation, an equal generation with another nonce, and another server id (`ForeignCluster`).
    pub async fn adopt(&self, cluster: ClusterIdentity, server: ServerId) -> Result<(), Error> {
        let _one = self.persisting.lock().await;
        let known = self.volumes[0].identity.lock().registered;
        if let Some((ours, our_server)) = known {
            let newer = cluster.generation > ours.generation;
            let same = cluster.generation == ours.generation && cluster.nonce == ours.nonce;
            if ours.uuid != cluster.uuid || our_server != server || !(newer || same) {
                return Err(Error::ForeignCluster { ours: words(&ours, our_server), theirs: words(&cluster, server) });
            }
        }
        let register = move |volume: &Volume| volume.register(cluster, server);
        self.on_healthy("persisting the identity", Needed::All, register).await
    }

    /// F2: call before obeying a command or a Registered. Persists (generation, term) on all healthy folders that take it (one has
    /// to: a start believes the highest) if it is higher than before; `OldTerm` if it is lower; no I/O if it is equal.
    pub async fn fence(&self, generation: u16, term: u64) -> Result<(), Error> {
        // A lower or equal one needs no turn: the fence only rises.
        if self.fenced() != (generation, term) {
            let _one = self.persisting.lock().await;
            let (have_generation, have_term) = self.fenced();
            let is_lower = (generation, term) < (have_generation, have_term);
            if is_lower && !planted::is(Bug::OldTermObeyed) {
                return Err(Error::OldTerm { generation, term, have_generation, have_term });
            }
            if (generation, term) != (have_generation, have_term) {
                let write = move |volume: &Volume| volume.write_fence(generation, term);
                self.on_healthy("persisting the fence", Needed::One, write).await?;
                *self.fence.lock() = (generation, term);
            }
        }
        Ok(())
    }

    /// F2: the highest (generation, term) obeyed.
    pub fn fenced(&self) -> (u16, u64) {
        *self.fence.lock()
    }

    /// W3: puts a fragment into the page cache (and the chunk into the dirty journal before, V3). After it has resolved the
    /// fragment may be forwarded. `NoSpace`, without effect, for a new block that would need the disk's reserve.
    pub async fn write(&self, write: Write) -> Result<Written, Error> {
        let chunk = write.chunk;
        let (home, is_new) = match self.find(chunk) {
            Some(home) => (home, false),
            None if self.tombstones.contains(chunk) => return Err(Error::Deleted { chunk }),
            None if write.create => (self.place(chunk, false)?, true),
            None => return Err(Error::NoReplica { chunk }),
        };
        let job = move |volume: &Volume, replica: &Arc<Replica>| volume.write(replica, &write);
        let written = self.run(home, Lane::Chunk(chunk.0), "write", 1, job).await?;
        if is_new {
            self.has_place(chunk);
        }
        Ok(written)
    }

    /// R1: the servers behind have the fragment. Never blocks.
    pub fn acknowledged(&self, ticket: ForwardTicket) {
        if let Some((_, replica)) = self.find(ticket.chunk) {
            replica.in_flight.lock().end(&ticket);
        }
    }

    /// W6: everything written before is durable here. Callers for the same chunk share one fdatasync. `WrongVersion` if the
    /// replica is not (or no longer, when done) complete at `version`. A failure fails the disk for ever.
    pub async fn sync(&self, chunk: ChunkId, version: ChunkVersion) -> Result<(), Error> {
        let (volume, replica) = self.existing(chunk)?;
        self.usable(&volume)?;
        serves(&replica, version)?;
        let allowance = self.deadline * WHOLE_CHUNK;
        let (sender, receiver) = oneshot::channel();
        let first = {
            let mut waiters = replica.sync_waiters.lock();
            let first = waiters.is_none();
            waiters.get_or_insert_with(Vec::new).push(sender);
            first
        };
        if first {
            let (volume_of_job, replica_of_job) = (volume.clone(), replica.clone());
            // Not limited by the queue: at most one waits per chunk.
            volume.pool.submit(Lane::Sync(chunk.0), allowance, move || {
                let waiters = replica_of_job.sync_waiters.lock().take();
                let synced: Synced = match volume_of_job.sync_replica(&replica_of_job) {
                    Ok(()) => Ok(()),
                    Err(Error::NotNow { reason, .. }) => Err(reason),
                    // The disk has failed: who waits learns it from the closed pool.
                    Err(_) => return,
                };
                for waiter in waiters.into_iter().flatten() {
                    let _ = waiter.send(synced.clone());
                }
            });
        }
        let result = volume.pool.wait(receiver, allowance).await;
        let synced = result.map_err(|refusal| refused(&volume, refusal, "fdatasync"))?;
        synced.map_err(|reason| Error::NotNow { disk: volume.disk.path().into(), reason })?;
        serves(&replica, version)
    }

    /// R1: exact version, complete, not dirty, every block acknowledged by the chain, checksum verified.
    pub async fn read(
        &self,
        chunk: ChunkId,
        version: ChunkVersion,
        offset: u32,
        length: u32,
    ) -> Result<ReadData, Error> {
        let home = self.existing(chunk)?;
        self.run(home, Lane::Free, "read", 1, move |volume, replica| volume.read(replica, version, offset, length))
            .await
    }

    /// Whole blocks for another server; incomplete and dirty replicas too. `version` is the replica's present or last completed one.
    /// At most 16 blocks.
    pub async fn read_recovery(
        &self,
        chunk: ChunkId,
        version: ChunkVersion,
        first: u32,
        count: u32,
    ) -> Result<RecoveryData, Error> {
        let home = self.existing(chunk)?;
        let job = move |volume: &Volume, replica: &Arc<Replica>| volume.read_recovery(replica, version, first, count);
        self.run(home, Lane::Free, "read", WHOLE_CHUNK, job).await
    }

    /// V1: persists `version, incomplete`, fences the old grants and reports the blocks. Idempotent; never lowers a version
    /// (`WrongVersion`). Without a replica and without `join`: `found = false` and nothing is made. `NoSpace` once if a write was refused for
    /// want of space since the last one: the version is persisted all the same (V6).
    pub async fn prepare(&self, prepare: Prepare) -> Result<Prepared, Error> {
        let chunk = prepare.chunk;
        let home = match self.find(chunk) {
            // A replica on a failed disk does not keep the server from holding a new one.
            Some((volume, _)) if prepare.join && volume.check().is_err() => self.place(chunk, true)?,
            Some(home) => home,
            None if prepare.join => self.place(chunk, true)?,
            None => return self.report_absent(&prepare).await,
        };
        let absent = self.absent(chunk);
        let job = move |volume: &Volume, replica: &Arc<Replica>| {
            if !prepare.join && replica.state.lock().header.is_none() {
                return Ok(absent);
            }
            volume.prepare(replica, &prepare, absent)
        };
        self.run(home, Lane::Chunk(chunk.0), "prepare", WHOLE_CHUNK, job).await
    }

    /// V1: one block of a replica incomplete at `version`: 64 KiB of data, or a hole.
    pub async fn install_block(
        &self,
        chunk: ChunkId,
        version: ChunkVersion,
        block: u32,
        data: Option<Bytes>,
    ) -> Result<(), Error> {
        let job = move |volume: &Volume, replica: &Arc<Replica>| {
            volume.install_block(replica, version, block, data.as_deref())
        };
        self.change(chunk, "install", job).await
    }

    /// V1: bytes at or beyond `length` become a hole. The replica is incomplete at `version`.
    pub async fn cut(&self, chunk: ChunkId, version: ChunkVersion, length: u32) -> Result<(), Error> {
        self.change(chunk, "cut", move |volume, replica| volume.cut(replica, version, length)).await
    }

    /// V2: damaged blocks are summed as they are. Returns how many. The replica is incomplete at `version`.
    pub async fn resum_damaged(&self, chunk: ChunkId, version: ChunkVersion) -> Result<u32, Error> {
        self.change(chunk, "re-sum", move |volume, replica| volume.resum_damaged(replica, version)).await
    }

    /// V1: everything durable, then `version, complete` durable. Confirms if it is complete already (F2).
    pub async fn complete(&self, chunk: ChunkId, version: ChunkVersion) -> Result<(), Error> {
        self.change(chunk, "complete", move |volume, replica| volume.complete(replica, version)).await?;
        // R3, M17: what was found or missed on another disk was an earlier one.
        self.volumes.iter().for_each(|volume| volume.suspects.regained(chunk));
        self.has_place(chunk);
        Ok(())
    }

    /// R4: into the quarantine, durable. A replica above `up_to` is kept (`WrongVersion`); none there is success.
    /// `now_unix_ms` dates the quarantine entry.
    pub async fn delete(&self, chunk: ChunkId, up_to: ChunkVersion, now_unix_ms: u64) -> Result<(), Error> {
        let homes = self.homes(chunk);
        if homes.is_empty() {
            self.tombstones.add(chunk); // M18
        }
        // An older one on a failed disk too: as long as it may come back with its disk, the deletion is not done.
        for home in homes {
            let job = move |volume: &Volume, replica: &Arc<Replica>| volume.delete(replica, up_to, now_unix_ms);
            self.run(home, Lane::Chunk(chunk.0), "delete", 1, job).await?;
        }
        // R3: what was wrong with it on any disk is not said of the next one, which may come to another disk.
        self.volumes.iter().for_each(|volume| volume.suspects.forget(chunk));
        Ok(())
    }

    /// R4: unlinks what has been in the quarantine by a Delete for longer than the retention. A few at a time: however many there are, no
    /// single job takes long on a disk that is slow and healthy.
    pub async fn purge_quarantine(&self, now_unix_ms: u64, retention: Duration) -> Purged {
        let mut total = Purged::default();
        for volume in &self.volumes {
            let list = move |volume: &Volume| volume.due(now_unix_ms, retention);
            let listed = self.run_on(volume.clone(), Lane::Free, "purge", WHOLE_CHUNK, list).await;
            let Ok((due, kept)) = listed else { continue };
            total.kept += kept;
            for names in due.chunks(PURGE_BATCH) {
                let (names, count) = (names.to_vec(), names.len() as u64);
                let purge = move |volume: &Volume| volume.purge(&names);
                if self.run_on(volume.clone(), Lane::Free, "purge", WHOLE_CHUNK, purge).await.is_err() {
                    break;
                }
                total.files += count;
            }
        }
        total
    }

    /// Housekeeping, to be called about once a second with a monotonic clock: free space, journal entries idle for 30 s,
    /// the journal's watermark.
    pub async fn tick(&self, now_ms: u64) {
        let tick = move |volume: &Volume| volume.tick(now_ms);
        let ticks = self.volumes.iter().map(|volume| self.run_on(volume.clone(), Lane::Free, "tick", 1, tick));
        // Errors have failed their disk and are logged there.
        let _ = futures::future::join_all(ticks).await;
    }

    /// Clean stop: everything synced, the mark of a clean stop durable, all later calls refused. A failed disk gets no mark.
    /// No call may be under way.
    pub async fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        let stop = |volume: &Arc<Volume>| {
            let volume = volume.clone();
            let allowance = self.deadline * WHOLE_CHUNK;
            async move {
                let job = volume.clone();
                let result = volume.pool.run(Lane::Free, allowance, move || job.stop()).await;
                if !matches!(result, Ok(Ok(()))) {
                    tracing::warn!(disk = volume.disk.path(), "not stopped cleanly");
                }
                volume.pool.close();
            }
        };
        futures::future::join_all(self.volumes.iter().map(stop)).await;
    }

    async fn change<T, F>(&self, chunk: ChunkId, operation: &'static str, job: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Volume, &Arc<Replica>) -> Result<T, Error> + Send + 'static,
    {
        let home = self.existing(chunk)?;
        self.run(home, Lane::Chunk(chunk.0), operation, WHOLE_CHUNK, job).await
    }

    async fn run<T, F>(&self, home: Home, lane: Lane, operation: &'static str, weight: u32, job: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Volume, &Arc<Replica>) -> Result<T, Error> + Send + 'static,
    {
        let (volume, replica) = home;
        // What was there when the job was queued may have been deleted and made anew by jobs before it in its lane.
        let present = move |volume: &Volume| volume.find(replica.chunk).unwrap_or(replica);
        self.run_on(volume, lane, operation, weight, move |volume| job(volume, &present(volume))).await
    }

    pub(super) async fn run_on<T, F>(
        &self,
        volume: Arc<Volume>,
        lane: Lane,
        operation: &'static str,
        weight: u32,
        job: F,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&Volume) -> Result<T, Error> + Send + 'static,
    {
        self.usable(&volume)?;
        let of_job = volume.clone();
        let result = volume.pool.run(lane, self.deadline * weight, move || job(&of_job)).await;
        result.unwrap_or_else(|refusal| Err(refused(&volume, refusal, operation)))
    }

    fn usable(&self, volume: &Volume) -> Result<(), Error> {
        if self.closed.load(Ordering::SeqCst) {
            let (disk, reason) = (volume.disk.path().into(), "the store is closed".into());
            return Err(Error::DiskFailed { disk, reason });
        }
        volume.check()
    }

    /// Runs on every healthy disk; succeeds if at least one has done it and, where all are needed, all that are healthy afterwards.
    async fn on_healthy<F>(&self, operation: &'static str, needed: Needed, job: F) -> Result<(), Error>
    where
        F: Fn(&Volume) -> Result<(), Error> + Clone + Send + 'static,
    {
        let runs = self.volumes.iter().map(|volume| self.run_on(volume.clone(), Lane::Free, operation, 1, job.clone()));
        let results = futures::future::join_all(runs).await;
        let (mut done, mut refusal) = (0, None);
        for (volume, result) in self.volumes.iter().zip(results) {
            match result {
                Ok(()) => done += 1,
                Err(error) if volume.check().is_ok() => refusal = refusal.or(Some(error)),
                Err(_) => {}
            }
        }
        match refusal {
            Some(error) if done == 0 || needed == Needed::All => Err(error),
            Some(error) => {
                tracing::info!(operation, %error, "a disk refuses, another one has it");
                Ok(())
            }
            None if done == 0 => Err(Error::NoDisk),
            None => Ok(()),
        }
    }
}

/// How many of the healthy disks have to take what is persisted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Needed {
    One,
    All,
}

fn serves(replica: &Replica, version: ChunkVersion) -> Result<(), Error> {
    let chunk = replica.chunk;
    let info = replica.info().ok_or(Error::NoReplica { chunk })?;
    if !info.complete || info.version != version {
        let (have, complete) = (info.version, info.complete);
        return Err(Error::WrongVersion { chunk, asked: version, have, complete });
    }
    if info.dirty { Err(Error::Dirty { chunk }) } else { Ok(()) }
}

/// The pool gave no result: the disk has failed, or fails now.
fn refused(volume: &Volume, refusal: Refusal, operation: &'static str) -> Error {
    match refusal {
        Refusal::Hung => {
            volume.fail(format!("'{operation}' did not finish in time"));
            Error::Hung { disk: volume.disk.path().into(), operation }
        }
        Refusal::Closed => {
            volume.fail(format!("'{operation}' was broken off"));
            volume.check().expect_err("a failed disk says so")
        }
    }
}

fn words(cluster: &ClusterIdentity, server: ServerId) -> String {
    format!("{} generation {} nonce {:x} (server {server})", hex(&cluster.uuid), cluster.generation, cluster.nonce)
}
