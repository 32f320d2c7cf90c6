//! One data folder at work: its index of replicas, journal, threads and failure.
//!
//! Methods here and in `write`, `read`, `recover`, `retire`, `upkeep` block and run on the disk's threads, unless they say otherwise.
//! Invariant: after a failed write or fsync nothing is done on the disk any more (W6).

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caribou_planted::{self as planted, Bug};
use caribou_proto::ids::{ChunkId, GrantId, Incarnation};
use parking_lot::{Mutex, RwLock};
use rustix::io::Errno;

use super::Error;
use super::disk::{Disk, DiskFile, OpenMode, Space};
use super::format::header::{Header, Owner};
use super::format::identity::Identity;
use super::format::journal::Doubt;
use super::format::table::FILE_BYTES;
use super::journal::Journal;
use super::layout;
use super::open_chunk::OpenChunk;
use super::pool::Pool;
use super::replica::{Replica, ReplicaState};
use super::request::DiskStatus;
use super::room::Room;
use super::suspects::Suspects;
use super::tombstones::Tombstones;

/// Chunks with an open file and a table in memory, per disk: about 8 KiB and one descriptor each.
pub(crate) const OPEN_CHUNKS: usize = 512;

pub(crate) struct Volume {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: Pool,
    pub(crate) identity: Mutex<Identity>,
    pub(crate) disk_uuid: [u8; 16],
    pub(crate) incarnation: Incarnation,
    pub(crate) journal: Journal,
    /// Ordered: the leader compares it range by range (R4).
    pub(crate) index: RwLock<BTreeMap<ChunkId, Arc<Replica>>>,
    pub(crate) tombstones: Arc<Tombstones>,
    pub(crate) room: Room,
    /// As of the last tick (monotonic).
    pub(crate) now_ms: AtomicU64,
    open: Mutex<HashMap<ChunkId, Arc<Replica>>>,
    uses: AtomicU64,
    pub(crate) suspects: Suspects,
    failure: Mutex<Option<String>>,
    /// Held as long as the volume lives.
    pub(crate) _lock: Box<dyn Any + Send + Sync>,
}

/// What `start` has found out about a folder.
pub(crate) struct Parts {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) pool: Pool,
    pub(crate) identity: Identity,
    pub(crate) incarnation: Incarnation,
    pub(crate) journal: Journal,
    pub(crate) index: BTreeMap<ChunkId, Arc<Replica>>,
    pub(crate) lost: BTreeSet<ChunkId>,
    pub(crate) space: Space,
    pub(crate) tombstones: Arc<Tombstones>,
    pub(crate) lock: Box<dyn Any + Send + Sync>,
}

impl Volume {
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            disk: parts.disk,
            pool: parts.pool,
            disk_uuid: parts.identity.disk_uuid,
            identity: Mutex::new(parts.identity),
            incarnation: parts.incarnation,
            journal: parts.journal,
            index: RwLock::new(parts.index),
            tombstones: parts.tombstones,
            room: Room::new(parts.space),
            now_ms: AtomicU64::new(0),
            open: Mutex::new(HashMap::new()),
            uses: AtomicU64::new(0),
            suspects: Suspects::new(parts.lost),
            failure: Mutex::new(None),
            _lock: parts.lock,
        }
    }

    /// Never blocks.
    pub(crate) fn find(&self, chunk: ChunkId) -> Option<Arc<Replica>> {
        self.index.read().get(&chunk).cloned()
    }

    /// Never blocks.
    pub(crate) fn status(&self) -> DiskStatus {
        let space = self.room.space();
        DiskStatus {
            uuid: self.disk_uuid,
            path: self.disk.path().into(),
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            failed: self.failure.lock().clone(),
            chunks: self.index.read().len() as u64,
            highest_grant: self.journal.highest_grant(),
        }
    }

    /// Why the disk may not be used any more. Never blocks.
    pub(crate) fn check(&self) -> Result<(), Error> {
        match &*self.failure.lock() {
            None => Ok(()),
            Some(reason) => Err(Error::DiskFailed { disk: self.disk.path().into(), reason: reason.clone() }),
        }
    }

    /// W6: fails the disk for ever. Never blocks.
    pub(crate) fn fail(&self, reason: String) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            tracing::error!(disk = self.disk.path(), reason, "the disk has failed and is not used any more");
            *failure = Some(reason);
            drop(failure);
            self.pool.close();
        }
    }

    /// For a failed change of the disk: no space is the caller's matter, and so is a lack of descriptors; all else is the end of the disk.
    pub(crate) fn broken(&self, operation: &'static str) -> impl FnOnce(io::Error) -> Error + '_ {
        // W6: only the opening of a file says that; a lack of memory may come from an fsync.
        move |error| if lacks_descriptors(&error) { self.not_now(&error) } else { self.end(operation, &error) }
    }

    /// The same for the journal, which does not go on after a failure.
    pub(crate) fn broken_journal(&self) -> impl FnOnce(io::Error) -> Error + '_ {
        move |error| self.end("writing the journal", &error)
    }

    fn end(&self, operation: &'static str, error: &io::Error) -> Error {
        if matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return self.no_space();
        }
        let reason = format!("{operation}: {error}");
        self.fail(reason.clone());
        Error::DiskFailed { disk: self.disk.path().into(), reason }
    }

    /// The disk is full, but for the reserve or altogether.
    pub(crate) fn no_space(&self) -> Error {
        Error::NoSpace { disk: self.disk.path().into() }
    }

    fn not_now(&self, error: &io::Error) -> Error {
        Error::NotNow { disk: self.disk.path().into(), reason: error.to_string() }
    }

    /// For a file whose header or table cannot be read, which does not end the disk: the replica is lost (R3).
    pub(crate) fn unreadable(&self, chunk: ChunkId) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| self.not_read(chunk, source, || self.suspects.lost(chunk))
    }

    /// For a block that cannot be read, which does not end the disk: it is as good as damaged (R3).
    pub(crate) fn unreadable_block(&self, chunk: ChunkId, block: u32) -> impl FnOnce(io::Error) -> Error + '_ {
        move |source| self.not_read(chunk, source, || self.suspects.damaged(chunk, block))
    }

    fn not_read(&self, chunk: ChunkId, source: io::Error, suspect: impl FnOnce()) -> Error {
        if is_shortage(&source) {
            return self.not_now(&source);
        }
        suspect();
        Error::ReadFailed { chunk, disk: self.disk.path().into(), source }
    }

    /// A block's bytes do not match its checksum.
    pub(crate) fn corrupt(&self, chunk: ChunkId, block: u32) -> Error {
        let disk = self.disk.path();
        tracing::error!(chunk = chunk.0, block, disk, "a block is damaged at rest and is not served");
        self.suspects.damaged(chunk, block);
        Error::Corrupt { chunk, block, disk: disk.into() }
    }

    /// Whose header is written for a chunk. `None` before the first registration.
    pub(crate) fn owner(&self, chunk: ChunkId) -> Result<Owner, Error> {
        let registered = self.identity.lock().registered;
        let (cluster, _) = registered.ok_or(Error::Invalid("this server is not registered with a cluster yet"))?;
        Ok(Owner { cluster, disk_uuid: self.disk_uuid, chunk })
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::SeqCst)
    }

    /// A number that no ticket has had.
    pub(crate) fn next_epoch(&self) -> u64 {
        self.uses.fetch_add(1, Ordering::SeqCst)
    }

    /// Makes the file of a replica that has only been reserved so far. Neither file nor name is durable yet.
    pub(crate) fn create(&self, replica: &Arc<Replica>, state: &mut ReplicaState, header: Header) -> Result<(), Error> {
        let (chunk, name) = (replica.chunk, layout::chunk_path(replica.chunk));
        let owner = self.owner(chunk)?;
        let file = match self.disk.open(&name, OpenMode::CreateNew) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                self.quarantine_found(&name).map_err(self.broken("moving a stray file to the quarantine"))?;
                self.disk.open(&name, OpenMode::CreateNew)
            }
            other => other,
        };
        let file: Arc<dyn DiskFile> = Arc::from(file.map_err(self.broken("creating a chunk's file"))?);
        let mut open = OpenChunk::fresh(file);
        let written = open.file.extend(FILE_BYTES).and_then(|()| open.write_header(owner, header));
        if let Err(error) = written {
            let _ = self.disk.unlink(&name);
            return Err(self.broken("writing a chunk's header")(error));
        }
        state.header = Some(header);
        state.open = Some(open);
        state.named = false;
        state.dirty = false;
        state.doubt = Doubt::ThisBoot;
        self.open.lock().insert(chunk, replica.clone());
        replica.publish(state);
        Ok(())
    }

    /// The open file of a replica, opened if necessary. Call [`Self::make_room`] before the state is locked.
    pub(crate) fn opened<'a>(
        &self,
        replica: &Arc<Replica>,
        state: &'a mut ReplicaState,
    ) -> Result<&'a mut OpenChunk, Error> {
        replica.last_used.store(self.uses.fetch_add(1, Ordering::SeqCst), Ordering::SeqCst);
        if state.open.is_none() {
            let name = layout::chunk_path(replica.chunk);
            let file = self.disk.open(&name, OpenMode::Existing).map_err(self.unreadable(replica.chunk))?;
            if state.dirty {
                // A crash may have cut the file short; and after a kill the newest copies may be in the page cache only: once they
                // are durable, older ones may be overwritten (V4).
                file.extend(FILE_BYTES)
                    .and_then(|()| file.sync_data())
                    .map_err(self.broken("syncing a dirty chunk"))?;
            }
            let open = OpenChunk::load(Arc::from(file), replica.chunk).map_err(self.unreadable(replica.chunk))?;
            state.open = Some(open);
            self.open.lock().insert(replica.chunk, replica.clone());
        }
        Ok(state.open.as_mut().expect("opened just now"))
    }

    /// Closes the files that have not been used for longest, if there are too many. The caller holds no replica's lock.
    pub(crate) fn make_room(&self) -> Result<(), Error> {
        let mut oldest: Vec<Arc<Replica>> = {
            let open = self.open.lock();
            if open.len() < OPEN_CHUNKS {
                return Ok(());
            }
            open.values().cloned().collect()
        };
        oldest.sort_by_key(|replica| replica.last_used.load(Ordering::SeqCst));
        let some = oldest.iter().take(OPEN_CHUNKS / 2).filter(|replica| self.close_file(replica)).take(OPEN_CHUNKS / 8);
        if some.count() == 0 {
            // Everything old has un-synced writes.
            let victim = &oldest[0];
            self.sync_replica(victim)?;
            self.close_file(victim);
        }
        Ok(())
    }

    /// Closes a file that nobody is using and that has nothing un-synced.
    pub(crate) fn close_file(&self, replica: &Replica) -> bool {
        let (Some(_gate), Some(mut state)) = (replica.gate.try_lock(), replica.state.try_lock()) else { return false };
        if replica.has_unsynced() {
            return false;
        }
        // What verification found lived in the table.
        state.verified = false;
        state.open = None;
        self.open.lock().remove(&replica.chunk);
        true
    }

    /// Closes a file that is not this replica's any more; the caller holds the state's lock.
    pub(crate) fn drop_file(&self, replica: &Replica, state: &mut ReplicaState) {
        state.open = None;
        self.open.lock().remove(&replica.chunk);
    }

    /// W6, V4: one fdatasync of data, table and header, and of the name of a new file. The caller does not hold the state's lock.
    pub(crate) fn sync_replica(&self, replica: &Replica) -> Result<(), Error> {
        let _gate = replica.gate.lock();
        self.check()?;
        let (file, covered, named) = {
            let mut state = replica.state.lock();
            let covered = replica.begin_sync();
            let (unsynced, named) = (replica.has_unsynced(), state.named);
            match state.open.as_mut() {
                Some(open) if unsynced || !named => {
                    open.begin_sync();
                    (open.file.clone(), covered, named)
                }
                _ => return Ok(()),
            }
        };
        if !planted::is(Bug::ChunkSyncSkipped) {
            file.sync_data().map_err(self.broken_sync())?;
        }
        let name_synced = if named { Ok(()) } else { self.sync_name(replica.chunk) };
        let mut state = replica.state.lock();
        if let Some(open) = state.open.as_mut() {
            open.end_sync();
        }
        // V3: without its name the replica counts as un-synced.
        name_synced?;
        state.named = true;
        replica.end_sync(covered);
        Ok(())
    }

    fn sync_name(&self, chunk: ChunkId) -> Result<(), Error> {
        self.disk.sync_dir(&layout::shard_of(chunk)).map_err(|error| {
            // The folder could not even be opened: no fsync has failed.
            if lacks_descriptors(&error) { self.not_now(&error) } else { self.broken_sync()(error) }
        })
    }

    /// W6: even "no space" is final when an fsync says it: what was acknowledged to the page cache may be gone.
    fn broken_sync(&self) -> impl FnOnce(io::Error) -> Error + '_ {
        move |error| {
            let reason = format!("fsync: {error}");
            self.fail(reason.clone());
            Error::DiskFailed { disk: self.disk.path().into(), reason }
        }
    }

    /// V3: the journal lets go of what the index does not know. A replica that is about to be made may have been forgotten by a deletion that
    /// ran after its job had found it.
    pub(crate) fn enlist(&self, replica: &Arc<Replica>) {
        self.index.write().insert(replica.chunk, replica.clone());
    }

    /// Forgets a replica that has been deleted or could not be created; the caller holds its state's lock.
    pub(crate) fn forget(&self, replica: &Replica, state: &mut ReplicaState) {
        state.header = None;
        state.open = None;
        state.dirty = false;
        state.doubt = Doubt::ThisBoot;
        state.refused_space = false;
        replica.publish(state);
        self.open.lock().remove(&replica.chunk);
        let mut index = self.index.write();
        if index.get(&replica.chunk).is_some_and(|known| std::ptr::eq(known.as_ref(), replica)) {
            index.remove(&replica.chunk);
        }
    }

    /// R4: a file that the index does not know is kept, and shown.
    pub(crate) fn quarantine_found(&self, name: &str) -> io::Result<()> {
        quarantine_found(self.disk.as_ref(), name)
    }

    /// V3, then the caller may write. It holds the state's lock and has called `begin_write`.
    pub(crate) fn journal(&self, chunk: ChunkId, header: &Header, grant: GrantId) -> Result<(), Error> {
        self.journal.ensure(chunk, header.version, grant).map_err(self.broken_sync())
    }
}

/// The call failed for lack of what others will give back; the disk has nothing to do with it.
fn is_shortage(error: &io::Error) -> bool {
    lacks_descriptors(error) || Errno::from_io_error(error) == Some(Errno::NOMEM)
}

fn lacks_descriptors(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// Moves a file that nothing explains into `quarantine/found`.
pub(crate) fn quarantine_found(disk: &dyn Disk, name: &str) -> io::Result<()> {
    let target = set_aside(disk, name)?;
    tracing::warn!(disk = disk.path(), file = name, target, "a file without a place has been moved to the quarantine");
    Ok(())
}

/// Moves a file into `quarantine/found`, durably, under a name that is not taken, which is returned.
pub(crate) fn set_aside(disk: &dyn Disk, name: &str) -> io::Result<String> {
    let (dir, file) = name.rsplit_once('/').unwrap_or(("", name));
    let taken = disk.list(layout::FOUND)?;
    let mut target = file.to_owned();
    let mut copy = 1;
    while taken.contains(&target) {
        target = format!("{file}.{copy}");
        copy += 1;
    }
    disk.rename(name, &format!("{}/{target}", layout::FOUND))?;
    disk.sync_dir(layout::FOUND)?;
    disk.sync_dir(dir)?;
    Ok(target)
}
