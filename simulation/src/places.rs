//! Where chunks are and who has lost power: whether bytes that somebody has read may be gone (P2's one exception).
//!
//! The exception is narrow: un-synced bytes whose writer is gone and whose every holder lost power. A version that became ready after they
//! were read has them on the disks of all its holders (V1), so a later loss of power excuses nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use caribou_meta_raft::fsm::error::Fatal;
use caribou_meta_raft::fsm::tables::Tables;
use caribou_meta_raft::fsm::tables::chunks::{self, Chunk};
use caribou_meta_raft::raft::StateView;
use caribou_proto::ids::{ChunkId, ChunkVersion, InodeId, ServerId};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::hearing;

/// A file's chunk: inode and index.
pub type Key = (u64, u32);

/// One chunk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub version: ChunkVersion,
    /// No recovery is under way.
    pub is_ready: bool,
    pub holders: Vec<ServerId>,
}

/// All chunks at one moment.
pub type Map = BTreeMap<Key, Place>;
/// The same, as the metadata has them.
pub type Rows = BTreeMap<ChunkId, Chunk>;

#[derive(Debug)]
struct PowerCut {
    at: Instant,
    server: ServerId,
    places: Arc<Map>,
}

/// The newest state that any node has applied: its rows, as long as that node's files are there, or what was read from them.
#[derive(Debug)]
enum Newest {
    Rows(StateView),
    Read(Arc<Map>, Rows),
}

/// See the module.
#[derive(Debug)]
pub struct Places {
    newest: Mutex<Newest>,
    cuts: Mutex<Vec<PowerCut>>,
}

/// What is known of bytes that were read before they were synced.
#[derive(Clone, Debug)]
pub struct Unsynced {
    pub written_at: Instant,
    /// The chunk when they were asked for and when they were there; `None`: they came from elsewhere.
    pub places: [Option<Place>; 2],
}

impl Default for Places {
    fn default() -> Self {
        Self { newest: Mutex::new(Newest::Read(Arc::default(), Rows::new())), cuts: Mutex::default() }
    }
}

impl From<Chunk> for Place {
    fn from(chunk: Chunk) -> Self {
        let holders = chunk.replicas.iter().map(|replica| replica.server).collect();
        Self { version: chunk.version, is_ready: chunk.intent.is_none(), holders }
    }
}

impl Places {
    /// A node has applied more than any other.
    pub fn update(&self, newest: StateView) {
        *self.newest.lock() = Newest::Rows(newest);
    }

    pub fn get(&self, key: Key) -> Option<Place> {
        match &*self.newest.lock() {
            Newest::Read(map, _) => map.get(&key).cloned(),
            Newest::Rows(rows) => read(chunks::of_file(rows, InodeId(key.0), key.1)).map(|(_, chunk)| chunk.into()),
        }
    }

    /// The row of a chunk, if it has one.
    pub fn chunk(&self, id: ChunkId) -> Option<Chunk> {
        match &*self.newest.lock() {
            Newest::Read(_, rows) => rows.get(&id).cloned(),
            Newest::Rows(rows) => read(chunks::get(rows, id)),
        }
    }

    /// All of them are read at once. To be called before a metadata node's files go.
    pub fn all(&self) -> Arc<Map> {
        let mut newest = self.newest.lock();
        let rows = match &*newest {
            Newest::Read(map, _) => return Arc::clone(map),
            Newest::Rows(rows) => read(all(rows)),
        };
        let map = Arc::new(map_of(&rows));
        *newest = Newest::Read(Arc::clone(&map), rows);
        map
    }

    #[cfg(test)]
    pub fn set(&self, rows: Rows) {
        *self.newest.lock() = Newest::Read(Arc::new(map_of(&rows)), rows);
    }

    /// A chunk server has lost its power.
    pub fn power_cut(&self, server: ServerId) {
        self.cuts.lock().push(PowerCut { at: Instant::now(), server, places: self.all() });
    }

    /// Whether these bytes may be gone, if their writer is.
    pub fn may_have_lost(&self, key: Key, bytes: &Unsynced) -> bool {
        let cuts = self.cuts.lock();
        let [asked, read] = &bytes.places;
        let version = read.as_ref().map_or(ChunkVersion(0), |place| place.version);
        let is_synced = |place: &Place| place.is_ready && place.version > version;
        let lost_power = |server: &ServerId| {
            let mut since = cuts.iter().filter(|cut| cut.server == *server && cut.at >= bytes.written_at);
            since.any(|cut| !cut.places.get(&key).is_some_and(is_synced))
        };
        [asked, read].into_iter().flatten().any(|place| place.holders.iter().all(lost_power))
    }
}

fn map_of(rows: &Rows) -> Map {
    rows.values().map(|chunk| ((chunk.inode.0, chunk.index), Place::from(chunk.clone()))).collect()
}

fn all(rows: &dyn Tables) -> Result<Rows, Fatal> {
    Ok(chunks::page(rows, None, usize::MAX)?.into_iter().collect())
}

/// A state that cannot be read is a finding.
fn read<T: Default>(result: Result<T, Fatal>) -> T {
    result.unwrap_or_else(|error| {
        hearing::violation(format!("where chunks are: {error}"));
        T::default()
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const KEY: Key = (7, 0);

    fn place(version: u64, is_ready: bool) -> Place {
        Place { version: ChunkVersion(version), is_ready, holders: vec![ServerId(1), ServerId(2)] }
    }

    fn at(places: &Places, place: Place) {
        *places.newest.lock() = Newest::Read(Arc::new(BTreeMap::from([(KEY, place)])), Rows::new());
    }

    fn bytes(written_at: Instant) -> Unsynced {
        Unsynced { written_at, places: [Some(place(3, true)), Some(place(3, true))] }
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_lost_with_the_last_of_their_holders() {
        let (places, written) = (Places::default(), bytes(Instant::now()));
        at(&places, place(3, true));
        places.power_cut(ServerId(1));
        places.power_cut(ServerId(3));
        assert!(!places.may_have_lost(KEY, &written));
        places.power_cut(ServerId(2));
        assert!(places.may_have_lost(KEY, &written));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!places.may_have_lost(KEY, &bytes(Instant::now())), "written after all that");
    }

    #[tokio::test(start_paused = true)]
    async fn a_version_that_became_ready_since_has_them_on_disk() {
        let (places, written) = (Places::default(), bytes(Instant::now()));
        at(&places, place(3, false));
        places.power_cut(ServerId(1));
        at(&places, place(4, true));
        places.power_cut(ServerId(2));
        assert!(!places.may_have_lost(KEY, &written));
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_in_no_chunk_is_not_lost() {
        let places = Places::default();
        let written = Unsynced { written_at: Instant::now(), places: [None, None] };
        (1..=3).for_each(|server| places.power_cut(ServerId(server)));
        assert!(!places.may_have_lost(KEY, &written));
    }
}
