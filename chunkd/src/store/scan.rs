//! Building the index of a data folder at start, from the headers alone.
//!
//! Nothing is unlinked here (R4): what cannot be placed goes to `quarantine/found`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use caribou_planted::{self as planted, Bug};
use caribou_proto::ids::ChunkId;

use super::OpenError;
use super::disk::{Boot, Disk, OpenMode};
use super::folder::failed;
use super::format::header::{FORMAT, StoredHeader};
use super::format::identity::Identity;
use super::format::journal::Doubt;
use super::journal::Contents;
use super::layout;
use super::open_chunk::find_header;
use super::replica::Replica;
use super::volume::{quarantine_found, set_aside};

/// What a scan has found.
#[derive(Default)]
pub(crate) struct Scanned {
    pub(crate) index: BTreeMap<ChunkId, Arc<Replica>>,
    /// R3: replicas without a usable header that cannot be explained by a crash.
    pub(crate) lost: BTreeSet<ChunkId>,
    /// Files that no loss of power explains.
    pub(crate) damaged: Vec<String>,
    /// And what they may have lost (M16).
    pub(crate) dirty: BTreeMap<ChunkId, Doubt>,
}

impl Scanned {
    /// Of what no power cut explains, something was here too.
    pub(crate) fn here(&self) -> impl Iterator<Item = ChunkId> {
        self.index.keys().chain(&self.lost).copied()
    }
}

enum Found {
    /// The flag: a copy of the header is damaged.
    Replica(StoredHeader, bool),
    NoHeader,
    /// The disk does not give it; that has been logged.
    Unreadable,
    Foreign,
}

/// What is known of un-synced writes.
struct Known<'a> {
    journal: Option<&'a Contents>,
    boot: Option<Boot>,
}

/// `journal`: what it said at this start; `None` if it is missing or unsound, which makes every chunk dirty (V3).
pub(crate) fn scan(disk: &dyn Disk, identity: &Identity, journal: Option<&Contents>) -> Result<Scanned, OpenError> {
    let mut scanned = Scanned::default();
    let known = Known { journal, boot: disk.boot() };
    for shard in 0..layout::FANOUT {
        let dir = layout::shard(shard);
        let mut names = disk.list(&dir).map_err(failed(disk, "listing a folder"))?;
        names.sort_unstable();
        for name in names {
            let path = format!("{dir}/{name}");
            let Some(chunk) = layout::parse_chunk_name(shard, &name) else {
                quarantine_found(disk, &path).map_err(failed(disk, "moving a file to the quarantine"))?;
                continue;
            };
            let dirty = journal.is_none_or(|journal| journal.covers(chunk)) && !planted::is(Bug::DirtyJournalForgotten);
            match look(disk, identity, chunk, &path)? {
                Found::Replica(stored, damaged) => add(&mut scanned, disk, &stored, dirty, damaged, &known),
                found => {
                    if matches!(found, Found::NoHeader) && !dirty {
                        tracing::error!(
                            chunk = chunk.0,
                            disk = disk.path(),
                            "the header of a chunk is damaged: this replica is lost"
                        );
                    }
                    if matches!(found, Found::NoHeader) && !dirty || matches!(found, Found::Unreadable) {
                        scanned.lost.insert(chunk);
                    }
                    let is_explained = matches!(found, Found::NoHeader) && dirty && journal.is_some();
                    if !is_explained {
                        scanned.damaged.push(path);
                        continue;
                    }
                    put_away(disk, &path).map_err(failed(disk, "moving a file to the quarantine"))?;
                }
            }
        }
    }
    Ok(scanned)
}

/// It was being made when the server ended; its name was made durable with others, its header was not. Were it counted on, that would be
/// told by the comparison with what the leader knows.
fn put_away(disk: &dyn Disk, path: &str) -> io::Result<()> {
    let target = set_aside(disk, path)?;
    tracing::info!(
        disk = disk.path(),
        file = path,
        target,
        "a replica that was being made when the server ended has been moved to the quarantine"
    );
    Ok(())
}

fn look(disk: &dyn Disk, identity: &Identity, chunk: ChunkId, path: &str) -> Result<Found, OpenError> {
    let file = disk.open(path, OpenMode::Existing).map_err(failed(disk, "opening a chunk"))?;
    let found = match find_header(file.as_ref()) {
        Ok(found) => found,
        Err(error) => {
            tracing::error!(chunk = chunk.0, disk = disk.path(), %error, "the header of a chunk cannot be read");
            return Ok(Found::Unreadable);
        }
    };
    if let Some(format) = found.too_new {
        return Err(OpenError::TooNew { path: disk.path().into(), file: "a chunk", found: format, known: FORMAT });
    }
    let Some(stored) = found.newest else { return Ok(Found::NoHeader) };
    let known_cluster = identity.registered.map(|(cluster, _)| cluster.uuid);
    let ours = stored.owner.chunk == chunk && known_cluster == Some(stored.owner.cluster.uuid);
    Ok(if ours { Found::Replica(stored, found.damaged) } else { Found::Foreign })
}

fn add(scanned: &mut Scanned, disk: &dyn Disk, stored: &StoredHeader, dirty: bool, damaged: bool, known: &Known<'_>) {
    let chunk = stored.owner.chunk;
    if damaged && !dirty {
        // The damaged copy may be the newest one and have fenced the version that the next one calls complete. A Prepare makes no journal entry,
        // so a power cut within it explains this as well as rot does.
        tracing::warn!(
            chunk = chunk.0,
            disk = disk.path(),
            "a copy of a chunk's header is damaged: not served before its recovery"
        );
    }
    let dirty = dirty || damaged;
    let mut header = stored.header;
    if let Some(entry) = known.journal.and_then(|journal| journal.entries.get(&chunk)) {
        // V5: the header that named this grant may be lost.
        header.last_grant = header.last_grant.max(entry.grant);
    }
    // A damaged header is no crash of the process alone.
    let noted = known.journal.map_or(Doubt::EarlierBoot, |journal| journal.doubt(chunk, known.boot));
    let doubt = if damaged && noted == Doubt::ThisBoot { Doubt::EarlierBoot } else { noted };
    if dirty {
        scanned.dirty.insert(chunk, doubt);
    }
    let replica = Replica::new(chunk, Some(header), dirty, 0);
    replica.state.lock().doubt = if dirty { doubt } else { Doubt::ThisBoot };
    scanned.index.insert(chunk, Arc::new(replica));
}

/// Takes a replica out of a folder's index: another folder has a newer one.
pub(crate) fn displace(disk: &dyn Disk, scanned: &mut Scanned, chunk: ChunkId) -> io::Result<()> {
    scanned.index.remove(&chunk);
    scanned.dirty.remove(&chunk);
    quarantine_found(disk, &layout::chunk_path(chunk))
}
