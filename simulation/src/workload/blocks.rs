//! Files that one client writes block by block and others read. Every block says which file, place and write it is of, so a reader can
//! tell a block that is mixed, another file's, older than what was synced, or never written (P1, P2).

mod look;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_client::{Error, Files, OpenFile};
use caribou_proto::ids::{CHUNK_BYTES, ChunkVersion};
use caribou_proto::meta::v1::Create;
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::time::Instant;

use super::caller;
use crate::findings::Findings;
use crate::places::{Key, Place, Places, Unsynced};
pub use look::{Reader, read_all, read_foreign};

pub const BLOCK: usize = 512;
/// Blocks in each of a file's stretches.
const STRETCH: u64 = 24;
/// Where the stretches begin: within inline data, beyond them, and over the border of the first two chunks.
const STARTS: [u64; 3] = [0, 15 << 10, CHUNK_BYTES - (4 << 10)];

/// How long after a sync's call writes beside it begin.
const BESIDE_MS: std::ops::Range<u64> = 0..6;

/// What is known of one block, as write numbers; 0 is nothing but zeros.
#[derive(Clone, Debug, Default)]
struct Written {
    /// Covered by a sync that was acknowledged.
    synced: u64,
    /// Handed to the client library.
    latest: u64,
    /// When that was.
    latest_at: Option<Instant>,
    /// The latest that another client has read.
    seen: u64,
    /// Whether it may be lost again.
    unsynced: Option<Unsynced>,
}

type Blocks = BTreeMap<u64, Written>;

/// What every client knows of a file.
#[derive(Debug)]
pub struct FileModel {
    pub inode: u64,
    blocks: Mutex<Blocks>,
    /// Blocks that are ever written.
    count: u64,
    /// When its writer was last taken for gone, with what it had not synced until then.
    orphaned_at: Mutex<Option<Instant>>,
    /// The versions of its chunks when its writer died.
    buried_at: Mutex<BTreeMap<Key, ChunkVersion>>,
}

/// What was known of a file before it was opened.
struct Before {
    blocks: Blocks,
    on_disks: BTreeSet<Key>,
}

/// How large a file becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// It stays in the metadata.
    Small,
    /// It begins there, and comes to have chunks.
    Large,
    /// It has chunks after a few writes.
    Chunked,
}

/// One file and its writer.
pub struct Writer {
    model: Arc<FileModel>,
    file: Arc<OpenFile>,
    writes: u64,
    /// So many go to the first stretch.
    narrow_writes: u64,
    rng: StdRng,
}

fn offset_of(block: u64) -> u64 {
    let stretch = usize::try_from(block / STRETCH).expect("few stretches");
    STARTS[stretch] + block % STRETCH * BLOCK as u64
}

/// The bytes of a block: its names, over and over.
pub fn content(inode: u64, block: u64, write: u64) -> Bytes {
    let mut unit = Vec::with_capacity(32);
    for number in [inode, block, write, inode ^ block ^ write] {
        unit.extend_from_slice(&number.to_le_bytes());
    }
    Bytes::from(unit.repeat(BLOCK / 32))
}

/// Which write a block is of; `None` if it is no block of this place.
pub fn write_of(inode: u64, block: u64, bytes: &[u8]) -> Option<u64> {
    if bytes.iter().all(|byte| *byte == 0) {
        return Some(0);
    }
    let write = u64::from_le_bytes(bytes.get(16..24)?.try_into().ok()?);
    (bytes == content(inode, block, write)).then_some(write)
}

impl Writer {
    /// Creates the file.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn create(name: &str, size: Size, files: &Files, rng: StdRng) -> Result<Self, Error> {
        let create = Create {
            parent: 1,
            name: name.as_bytes().to_vec().into(),
            mode: 0o644,
            exclusive: true,
            access: 6,
            ..Create::default()
        };
        let created = files.create(&caller(), create).await?;
        let count = if size == Size::Small { STRETCH } else { STRETCH * STARTS.len() as u64 };
        let narrow_writes = if size == Size::Chunked { 0 } else { STRETCH };
        let model = Arc::new(FileModel::new(created.attr.inode, count));
        Ok(Self { model, file: created.file, writes: 0, narrow_writes, rng })
    }

    pub fn model(&self) -> Arc<FileModel> {
        Arc::clone(&self.model)
    }

    /// A write, a sync, or a look at the own file. `may_be_gone`: with all that was not synced, and then a sync says so.
    ///
    /// # Errors
    /// When the client is gone, or the file.
    pub async fn step(&mut self, findings: &Findings, may_be_gone: impl Fn() -> bool) -> Result<(), Error> {
        match self.rng.random_range(0..10) {
            0..6 => self.write().await?,
            6 => self.sync().await?,
            7 => self.sync_while_writing().await?,
            _ => {
                let block = self.rng.random_range(0..self.model.count);
                let latest = self.model.known(block).latest;
                let before = self.model.blocks.lock().clone();
                let bytes = look::read(&self.file, block).await?;
                if may_be_gone() {
                    // A read may come before what was lost is told.
                    self.sync().await?;
                }
                let seen = look::judge(&self.model, &before, block, &bytes, findings);
                findings.check(seen.is_none_or(|seen| seen == latest), || {
                    format!(
                        "own writes: block {block} of {} is of write {seen:?}, the last was {latest}",
                        self.model.inode
                    )
                });
            }
        }
        findings.step();
        Ok(())
    }

    async fn write(&mut self) -> Result<(), Error> {
        let blocks = if self.writes < self.narrow_writes { STRETCH } else { self.model.count };
        let block = self.rng.random_range(0..blocks);
        self.writes += 1;
        let write = self.writes;
        // Known before: others may see it as soon as it is on its way.
        {
            let mut blocks = self.model.blocks.lock();
            let known = blocks.entry(block).or_default();
            // The time of the older of those that are not synced yet will do: it excuses more, and there is one of them.
            let is_first = known.synced == known.latest;
            if is_first || known.latest_at.is_none() {
                known.latest_at = Some(Instant::now());
            }
            known.latest = write;
        }
        self.file.write(offset_of(block), content(self.model.inode, block, write)).await
    }

    /// # Errors
    /// When the client is gone.
    pub async fn sync(&mut self) -> Result<(), Error> {
        let covered = self.model.written();
        self.file.sync(false).await?;
        self.model.synced(covered);
        Ok(())
    }

    /// W6: a sync covers what was written before it, whatever is written meanwhile.
    async fn sync_while_writing(&mut self) -> Result<(), Error> {
        let (covered, file) = (self.model.written(), Arc::clone(&self.file));
        let begins_after = Duration::from_millis(self.rng.random_range(BESIDE_MS));
        let write = async {
            tokio::time::sleep(begins_after).await;
            self.write().await?;
            self.write().await
        };
        let (synced, written) = futures::join!(file.sync(false), write);
        synced?;
        self.model.synced(covered);
        written
    }

    /// Lets go of the file; once everybody can see what it has written, if it `flushes`.
    ///
    /// # Errors
    /// When the client is gone, or the file.
    pub async fn close(self, flushes: bool) -> Result<(), Error> {
        let flushed = if flushes { self.file.flush().await } else { Ok(()) };
        self.file.release().await;
        flushed
    }
}

impl FileModel {
    /// The latest write of each block.
    fn written(&self) -> Vec<(u64, u64)> {
        self.blocks.lock().iter().map(|(block, known)| (*block, known.latest)).collect()
    }

    fn synced(&self, covered: Vec<(u64, u64)>) {
        let mut blocks = self.blocks.lock();
        for (block, write) in covered {
            blocks.entry(block).or_default().synced = write;
        }
    }

    pub(super) fn new(inode: u64, count: u64) -> Self {
        let (orphaned_at, buried_at) = (Mutex::default(), Mutex::default());
        Self { inode, blocks: Mutex::default(), count, orphaned_at, buried_at }
    }

    fn before(&self, places: &Places) -> Before {
        Before { blocks: self.blocks.lock().clone(), on_disks: self.on_disks(places) }
    }

    /// V1: chunks that have become ready at a version above that at which their writer died: it has sent nothing at this one, so whatever is read
    /// of it is on the disks of all holders.
    fn on_disks(&self, places: &Places) -> BTreeSet<Key> {
        let buried_at = self.buried_at.lock();
        let is_ready = |key: &Key, version: ChunkVersion| {
            places.get(*key).is_some_and(|place| place.is_ready && place.version > version)
        };
        buried_at.iter().filter(|(key, version)| is_ready(key, **version)).map(|(key, _)| *key).collect()
    }

    /// Another client than the writer, which sees what it has not sent yet, has read this; where the chunk was before and after.
    fn saw(&self, block: u64, write: Option<u64>, places: [Option<Place>; 2], is_on_disks: bool) {
        let mut blocks = self.blocks.lock();
        let known = blocks.entry(block).or_default();
        let Some(write) = write.filter(|write| *write >= known.seen) else { return };
        if is_on_disks {
            // Whatever power was lost until now, they are there.
            known.unsynced = None;
        } else if write > known.seen {
            known.unsynced = known.latest_at.map(|written_at| Unsynced { written_at, places });
        }
        known.seen = write;
    }

    /// The writer has died: it sends nothing any more.
    pub fn bury(&self, places: &Places) {
        let keys: BTreeSet<Key> = (0..self.count).map(|block| self.key(block)).collect();
        let versions = keys.into_iter().filter_map(|key| Some((key, places.get(key)?.version)));
        *self.buried_at.lock() = versions.collect();
    }

    /// The writer is gone, or may be taken for gone; what it writes when it is back counts as before (W5).
    pub fn orphan(&self) {
        *self.orphaned_at.lock() = Some(Instant::now());
    }

    /// The chunk that a block is in.
    fn key(&self, block: u64) -> Key {
        (self.inode, u32::try_from(offset_of(block) / CHUNK_BYTES).expect("few chunks"))
    }

    /// P2: what somebody has seen does not go back, unless its writer is gone and all of its holders have lost power. What must be read at least.
    fn still_there(&self, block: u64, known: &Written, findings: &Findings) -> u64 {
        let orphaned_at = *self.orphaned_at.lock();
        let is_orphaned = |bytes: &&Unsynced| orphaned_at.is_some_and(|at| bytes.written_at <= at);
        let orphaned = known.unsynced.as_ref().filter(is_orphaned);
        let may_be_lost = orphaned.is_some_and(|bytes| findings.places.may_have_lost(self.key(block), bytes));
        if may_be_lost { 0 } else { known.seen }
    }

    fn known(&self, block: u64) -> Written {
        self.blocks.lock().get(&block).cloned().unwrap_or_default()
    }
}
