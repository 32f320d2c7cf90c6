//! Opening the data folders of a server: first everything is looked at, then a new incarnation is made durable, then the folders are
//! scanned. Blocks.

use std::collections::{BTreeSet, HashMap};
use std::mem::take;
use std::sync::Arc;

use caribou_proto::ids::{ChunkId, Incarnation};

use super::OpenError;
use super::disk::Disk;
use super::folder::{self, Inspected, failed};
use super::format::identity::Identity;
use super::format::journal::FolderSet;
use super::format::record::{Kind, Record};
use super::journal::{Arrival, Contents, Entry, Journal, NONE_BY_RANGE};
use super::pool::Pool;
use super::scan::{self, Scanned};
use super::tombstones::Tombstones;
use super::volume::{Parts, Volume, quarantine_found};

/// An open store's folders and what they agreed on.
pub(crate) struct Started {
    pub(crate) volumes: Vec<Arc<Volume>>,
    pub(crate) incarnation: Incarnation,
    pub(crate) fence: (u16, u64),
    pub(crate) unclean: bool,
    pub(crate) tombstones: Arc<Tombstones>,
}

/// A folder that is ours.
struct Ours {
    disk: Arc<dyn Disk>,
    identity: Identity,
    lock: Box<dyn std::any::Any + Send + Sync>,
    new: bool,
}

/// A folder that has been scanned.
struct Ready {
    ours: Ours,
    clean: bool,
    journal: Option<Contents>,
    scanned: Scanned,
}

/// All folders together.
struct Folders {
    set: FolderSet,
    /// The server has never been started before.
    is_first: bool,
    /// See [`is_whole`].
    whole: bool,
    /// Every replica that is in one of them.
    here: BTreeSet<ChunkId>,
}

pub(crate) fn start(
    disks: Vec<Arc<dyn Disk>>,
    new_uuid: &mut dyn FnMut() -> [u8; 16],
    now_unix_ms: u64,
) -> Result<Started, OpenError> {
    if disks.is_empty() {
        return Err(OpenError::NoFolder);
    }
    let inspected = disks.into_iter().map(folder::inspect).collect::<Result<Vec<_>, _>>()?;
    agree(&inspected)?;
    let folders = identify(inspected, new_uuid)?;
    let set = FolderSet::of(folders.iter().map(|ours| ours.identity.disk_uuid));
    let is_first = folders.iter().all(|ours| ours.new);
    let (incarnation, fence) = new_incarnation(&folders, now_unix_ms)?;
    let mut ready = in_parallel(folders, |ours| look_through(ours, incarnation))?;
    displace_doubles(&mut ready)?;
    forget_found(&mut ready);
    let unclean = ready.iter().any(|ready| !ready.clean && !ready.ours.new);
    let whole = is_whole(&ready);
    let here: BTreeSet<ChunkId> = ready.iter().flat_map(|ready| ready.scanned.here()).collect();
    let tombstones = Arc::new(Tombstones::default());
    let aside: Vec<_> =
        ready.iter_mut().map(|ready| (ready.ours.disk.clone(), take(&mut ready.scanned.damaged))).collect();
    let all = Folders { set, is_first, whole, here };
    let volumes = ready.into_iter().map(|ready| volume(ready, &all, incarnation, tombstones.clone()));
    let volumes = volumes.collect::<Result<Vec<_>, _>>()?;
    // Once all journals have been begun: a start that does not come so far finds them again.
    for (disk, paths) in aside {
        let result = paths.iter().try_for_each(|path| quarantine_found(disk.as_ref(), path));
        result.map_err(failed(disk.as_ref(), "moving a file to the quarantine"))?;
    }
    Ok(Started { volumes, incarnation, fence, unclean, tombstones })
}

/// F1: all folders that are not new belong to one server and one cluster.
fn agree(folders: &[Inspected]) -> Result<(), OpenError> {
    let known: Vec<(&str, Identity)> =
        folders.iter().filter_map(|folder| Some((folder.disk.path(), folder.identity?))).collect();
    for (index, (path, identity)) in known.iter().enumerate() {
        for (other, theirs) in &known[..index] {
            let (path, other) = ((*path).to_owned(), (*other).to_owned());
            if identity.server_uuid != theirs.server_uuid {
                return Err(OpenError::OtherServer { path, other });
            }
            if identity.disk_uuid == theirs.disk_uuid {
                return Err(OpenError::Twice { path, uuid: hex(&identity.disk_uuid) });
            }
            // A crash between two folders at a registration leaves one unregistered, or one at an older generation.
            if let (Some((cluster, server)), Some((their_cluster, their_server))) =
                (identity.registered, theirs.registered)
            {
                let same_generation = cluster.generation == their_cluster.generation;
                let other_nonce = same_generation && cluster.nonce != their_cluster.nonce;
                if cluster.uuid != their_cluster.uuid || other_nonce || server != their_server {
                    return Err(OpenError::OtherCluster { path, other });
                }
            }
        }
    }
    Ok(())
}

/// Gives new folders an identity and all of them the newest registration known.
fn identify(inspected: Vec<Inspected>, new_uuid: &mut dyn FnMut() -> [u8; 16]) -> Result<Vec<Ours>, OpenError> {
    let known = || inspected.iter().filter_map(|folder| folder.identity);
    let server_uuid = known().next().map(|identity| identity.server_uuid).unwrap_or_else(&mut *new_uuid);
    let registered = known().filter_map(|identity| identity.registered).max_by_key(|(cluster, _)| cluster.generation);
    let identified = inspected.into_iter().map(|folder| {
        let new = folder.identity.is_none();
        let disk_uuid = folder.identity.map(|identity| identity.disk_uuid).unwrap_or_else(&mut *new_uuid);
        let identity = Identity { server_uuid, disk_uuid, registered };
        let disk = folder.disk;
        if folder.identity != Some(identity) {
            folder::write_identity(disk.as_ref(), &identity).map_err(failed(disk.as_ref(), "writing its identity"))?;
        }
        folder::furnish(disk.as_ref()).map_err(failed(disk.as_ref(), "making its folders"))?;
        Ok(Ours { disk, identity, lock: folder.lock, new })
    });
    identified.collect()
}

/// F3: above every one used before on any folder, durable on all of them before it is used. Not below the wall clock either, so that folders
/// that were put back to an older state do not use one a second time. F2: the highest fence of all.
fn new_incarnation(folders: &[Ours], now_unix_ms: u64) -> Result<(Incarnation, (u16, u64)), OpenError> {
    let (mut used, mut fence) = (0, (0, 0));
    for ours in folders {
        let read = |kind| folder::read_record(ours.disk.as_ref(), kind, ours.identity.disk_uuid);
        used = used.max(read(Kind::Incarnation)?.map_or(0, |record| record.first));
        let seen = read(Kind::Fence)?.map_or((0, 0), |record| (record.first, record.second));
        fence = fence.max((u16::try_from(seen.0).unwrap_or(u16::MAX), seen.1));
    }
    let record = Record { first: (used + 1).max(now_unix_ms), second: 0 };
    for ours in folders {
        let disk = ours.disk.as_ref();
        let result = folder::write_record(disk, Kind::Incarnation, ours.identity.disk_uuid, record);
        result.map_err(failed(disk, "persisting the incarnation"))?;
    }
    Ok((Incarnation(record.first), fence))
}

fn look_through(ours: Ours, incarnation: Incarnation) -> Result<Ready, OpenError> {
    let (disk, uuid) = (ours.disk.clone(), ours.identity.disk_uuid);
    let clean =
        folder::take_clean_mark(disk.as_ref(), uuid).map_err(failed(disk.as_ref(), "removing the clean mark"))?;
    let journal = Journal::replay(disk.as_ref(), uuid)?;
    let scanned = scan::scan(disk.as_ref(), &ours.identity, journal.as_ref())?;
    let (chunks, dirty) = (scanned.index.len(), scanned.dirty.len());
    tracing::info!(disk = disk.path(), incarnation = incarnation.0, clean, chunks, dirty, "data folder scanned");
    if journal.is_none() && chunks > 0 {
        tracing::error!(
            disk = disk.path(),
            "the dirty journal is missing or damaged: every chunk is checked before it is served"
        );
    }
    Ok(Ready { ours, clean, journal, scanned })
}

/// A disk that failed and came back may hold old replicas of what has been recovered elsewhere: the highest version stays, and of those
/// a complete one, which may be the one that is named, and of those the one that was written last.
fn displace_doubles(folders: &mut [Ready]) -> Result<(), OpenError> {
    let mut best = HashMap::new();
    let mut losers = Vec::new();
    for (index, ready) in folders.iter().enumerate() {
        for (chunk, replica) in &ready.scanned.index {
            let rank = replica.info().map(|info| (info.version, info.complete, info.last_grant));
            match best.get(chunk).copied() {
                Some((_, other)) if other >= rank => losers.push((index, *chunk)),
                Some((other, _)) => {
                    losers.push((other, *chunk));
                    best.insert(*chunk, (index, rank));
                }
                None => drop(best.insert(*chunk, (index, rank))),
            }
        }
    }
    for (index, chunk) in losers {
        let ready = &mut folders[index];
        let disk = ready.ours.disk.clone();
        let result = scan::displace(disk.as_ref(), &mut ready.scanned, chunk);
        result.map_err(failed(disk.as_ref(), "moving a file to the quarantine"))?;
    }
    Ok(())
}

/// What another folder has is not lost.
fn forget_found(folders: &mut [Ready]) {
    let here: BTreeSet<ChunkId> = folders.iter().flat_map(|ready| ready.scanned.index.keys().copied()).collect();
    folders.iter_mut().for_each(|ready| ready.scanned.lost.retain(|chunk| !here.contains(chunk)));
}

/// M17: what is in none of these folders is nowhere: they are those that each of them knew, beside new ones, each has its journal, and
/// nothing in them is damaged beyond what a loss of power explains.
fn is_whole(folders: &[Ready]) -> bool {
    let known = || folders.iter().filter(|ready| !ready.ours.new);
    let set = FolderSet::of(known().map(|ready| ready.ours.identity.disk_uuid));
    known().all(|Ready { journal, scanned, .. }| {
        journal.as_ref().is_some_and(|journal| journal.folders == set) && scanned.damaged.is_empty()
    })
}

fn volume(
    ready: Ready,
    all: &Folders,
    incarnation: Incarnation,
    tombstones: Arc<Tombstones>,
) -> Result<Arc<Volume>, OpenError> {
    let Ready { ours, clean, journal, scanned } = ready;
    let disk = ours.disk;
    // V3: dirty chunks stay dirty until they are recovered, over any number of restarts.
    let how = Arrival { clean: clean || ours.new, boot: disk.boot(), whole: all.whole };
    let absent = journal.unwrap_or_default().of_the_absent(how, |chunk| all.here.contains(&chunk));
    let mut contents = Contents { boot: how.boot, folders: all.set, ..absent };
    // M17: what was synced on a folder that is not here any more may have any id.
    if !all.is_first && (ours.new || !all.whole) {
        contents.watermark = NONE_BY_RANGE;
    }
    for (chunk, replica) in &scanned.index {
        let Some(info) = replica.info() else { continue };
        contents.highest_grant = contents.highest_grant.max(info.last_grant);
        contents.watermark = contents.watermark.max(ChunkId(chunk.0.saturating_add(1)));
        if let Some(doubt) = scanned.dirty.get(chunk) {
            let (version, grant) = (info.version, info.last_grant);
            contents.entries.insert(*chunk, Entry { version, grant, doubt: *doubt });
        }
    }
    let begin = || -> std::io::Result<_> {
        let journal = Journal::begin(disk.clone(), ours.identity.disk_uuid, contents)?;
        journal.told(scanned.index.keys().next_back().copied(), false);
        let pool = Pool::new("caribou-disk", disk.pace())?;
        Ok((journal, pool, disk.space()?))
    };
    let (journal, pool, space) = begin().map_err(failed(disk.as_ref(), "beginning its journal"))?;
    let (index, lost, lock) = (scanned.index, scanned.lost, ours.lock);
    let identity = ours.identity;
    let parts = Parts { disk, pool, identity, incarnation, journal, index, lost, space, tombstones, lock };
    Ok(Arc::new(Volume::new(parts)))
}

/// One thread a folder; in turn if there is one only, or none of them blocks.
fn in_parallel<T: Send>(
    folders: Vec<Ours>,
    work: impl Fn(Ours) -> Result<T, OpenError> + Sync,
) -> Result<Vec<T>, OpenError> {
    if folders.len() == 1 || folders.iter().all(|ours| ours.disk.pace().never_blocks()) {
        return folders.into_iter().map(work).collect();
    }
    std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = folders.into_iter().map(|ours| scope.spawn(move || work(ours))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a scan does not panic")).collect()
    })
}

pub(crate) fn hex(uuid: &[u8; 16]) -> String {
    uuid.iter().map(|byte| format!("{byte:02x}")).collect()
}
