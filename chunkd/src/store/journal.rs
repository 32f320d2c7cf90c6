//! The dirty journal of a data folder (V3): which chunks may own writes that are not synced.
//!
//! Invariants: a chunk is in `entries` or at or above the watermark, durably, before its first un-synced write; it leaves only when
//! all its writes are synced and acknowledged by the servers behind (M7). Callers share fsyncs (group commit). Closing records need
//! no fsync: if they are lost, a clean chunk is checked in vain.
//! A journal that is missing or does not begin soundly means that every chunk may be dirty.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::RangeInclusive;
use std::sync::Arc;

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::OpenError;
use super::disk::{Boot, Disk, DiskFile, OpenMode};
use super::format::journal::{Doubt, FORMAT, FolderSet, RECORD, Record, decode, encode};
use super::layout;

/// No watermark: every chunk has an entry of its own.
pub(crate) const NONE_BY_RANGE: ChunkId = ChunkId(u64::MAX);
/// The smallest journal file. It is filled with zeros beforehand, so that an append changes no length.
const MIN_BYTES: u64 = 256 << 10;

/// One dirty chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) version: ChunkVersion,
    pub(crate) grant: GrantId,
    pub(crate) doubt: Doubt,
}

/// What a journal says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Contents {
    pub(crate) entries: HashMap<ChunkId, Entry>,
    /// M16: the boot in which this was written down.
    pub(crate) boot: Option<Boot>,
    /// M17: the data folders that the server had then.
    pub(crate) folders: FolderSet,
    /// "All ids from here on."
    pub(crate) watermark: ChunkId,
    pub(crate) highest_grant: GrantId,
    /// M17: those from here on of which there is no replica may have vanished when the power went. `None`: only those that `entries` names.
    pub(crate) vanishing: Option<ChunkId>,
}

/// How a folder comes to a start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Arrival {
    /// It was stopped cleanly, or is new.
    pub(crate) clean: bool,
    pub(crate) boot: Option<Boot>,
    /// The server has the folders that it had, and their journals: what is in none of them is not on another one.
    pub(crate) whole: bool,
}

impl Contents {
    pub(crate) fn covers(&self, chunk: ChunkId) -> bool {
        chunk >= self.watermark || self.entries.contains_key(&chunk)
    }

    /// M17: what the next journal says of replicas that are not here: what vanished earlier, over any number of starts, and what did now.
    pub(crate) fn of_the_absent(self, how: Arrival, here: impl Fn(ChunkId) -> bool) -> Self {
        let Arrival { clean, boot, whole } = how;
        let lost_power = !clean && (boot.is_none() || boot != self.boot);
        let vanished = |(chunk, entry): (ChunkId, Entry)| {
            let has = !here(chunk) && (entry.doubt == Doubt::Vanished || (whole && lost_power));
            has.then_some((chunk, Entry { doubt: Doubt::Vanished, ..entry }))
        };
        let covered = lost_power.then_some(self.watermark);
        let vanishing = self.vanishing.into_iter().chain(covered).min().filter(|_| whole);
        let entries = self.entries.into_iter().filter_map(vanished).collect();
        Self { entries, vanishing, ..self }
    }

    fn may_have_vanished(&self, chunk: ChunkId) -> bool {
        self.vanished(chunk) || self.vanishing.is_some_and(|from| chunk >= from)
    }

    fn vanished(&self, chunk: ChunkId) -> bool {
        self.entries.get(&chunk).is_some_and(|entry| entry.doubt == Doubt::Vanished)
    }

    /// M16: what this dirty chunk may have lost in the boot that is `now`: nothing, if all its writes were made in it, since the page cache
    /// still has them.
    pub(crate) fn doubt(&self, chunk: ChunkId, now: Option<Boot>) -> Doubt {
        let noted = self.entries.get(&chunk).map_or(Doubt::ThisBoot, |entry| entry.doubt);
        match noted {
            Doubt::ThisBoot if now.is_none() || now != self.boot => Doubt::EarlierBoot,
            noted => noted,
        }
    }
}

/// What the journal must know about a chunk to let it go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// No replica here; it may have vanished.
    Gone,
    /// No replica here any more, by a committed decision.
    Deleted,
    /// Has, or is about to have, un-synced writes, or waits for its recovery.
    Busy(ChunkVersion, GrantId),
    /// All synced, but written lately.
    Lingering,
    Idle,
}

pub(crate) struct Journal {
    disk: Arc<dyn Disk>,
    disk_uuid: [u8; 16],
    state: Mutex<State>,
    written: Condvar,
}

struct State {
    contents: Contents,
    /// Chunks at or above the watermark that have had writes.
    above: HashSet<ChunkId>,
    told: Told,
    /// The record of the watermark that was lowered last.
    lowered: u64,
    /// A name has been taken back, and nothing has made that durable yet.
    forgot: bool,
    file: Arc<dyn DiskFile>,
    capacity: u64,
    end: u64,
    sequence: u64,
    /// Encoded records that no thread is writing yet.
    pending: Vec<u8>,
    appended: u64,
    durable: u64,
    writing: bool,
    failed: bool,
}

/// What the leader has said, until `settle` writes it down.
#[derive(Default)]
struct Told {
    /// The highest id that it counts on here, or that was seen here since.
    highest: ChunkId,
    everything: bool,
}

impl Journal {
    /// Reads a journal without changing it.
    pub(crate) fn replay(disk: &dyn Disk, disk_uuid: [u8; 16]) -> Result<Option<Contents>, OpenError> {
        let wrap = |source| OpenError::Disk { path: disk.path().into(), operation: "reading the journal", source };
        let file = match disk.open(layout::JOURNAL, OpenMode::Existing) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(wrap)?,
        };
        let mut bytes = vec![0; usize::try_from(file.len().map_err(wrap)?).unwrap_or(usize::MAX)];
        file.read_at(&mut bytes, 0).map_err(wrap)?;
        match decode_all(&bytes, disk_uuid) {
            Err(found) => {
                let path = disk.path().into();
                Err(OpenError::TooNew { path, file: layout::JOURNAL, found, known: FORMAT })
            }
            Ok(contents) => Ok(contents),
        }
    }

    /// Begins a new journal file with these contents, durably.
    pub(crate) fn begin(disk: Arc<dyn Disk>, disk_uuid: [u8; 16], contents: Contents) -> io::Result<Self> {
        let start = write_file(disk.as_ref(), disk_uuid, &contents)?;
        let state = State {
            contents,
            above: HashSet::new(),
            told: Told::default(),
            lowered: 0,
            forgot: false,
            file: start.file,
            capacity: start.capacity,
            end: start.end,
            sequence: start.sequence,
            pending: Vec::new(),
            appended: 0,
            durable: 0,
            writing: false,
            failed: false,
        };
        Ok(Self { disk, disk_uuid, state: Mutex::new(state), written: Condvar::new() })
    }

    /// V3: returns once the chunk is covered durably. The caller has marked it as busy before, and holds its lock.
    pub(crate) fn ensure(&self, chunk: ChunkId, version: ChunkVersion, grant: GrantId) -> io::Result<()> {
        let mut state = self.state.lock();
        state.contents.highest_grant = state.contents.highest_grant.max(grant);
        state.told.highest = state.told.highest.max(chunk);
        if state.contents.entries.contains_key(&chunk) {
            return Ok(());
        }
        if chunk >= state.contents.watermark {
            state.above.insert(chunk);
            // A watermark that was lowered covers nothing before it is durable.
            return if state.durable < state.lowered { self.commit(state) } else { Ok(()) };
        }
        self.open(&mut state, chunk, (version, grant), Doubt::ThisBoot);
        self.commit(state)
    }

    /// M17: there was a replica that vanished; one that is about to be made stands for it. Durable when this returns.
    pub(crate) fn vanished(&self, chunk: ChunkId, version: ChunkVersion, grant: GrantId) -> io::Result<()> {
        let mut state = self.state.lock();
        self.name(&mut state, chunk, (version, grant));
        self.commit(state)
    }

    /// M17: the chunk is not here: if it may have vanished, it is known by name from now on. Durable with the next record that is.
    pub(crate) fn name_vanished(&self, chunk: ChunkId) {
        let mut state = self.state.lock();
        if state.contents.may_have_vanished(chunk) {
            self.name(&mut state, chunk, (ChunkVersion(0), GrantId(0)));
        }
    }

    /// M17: the highest id of a page of what the leader counts on, all of whose absent chunks are named if they may have vanished; and whether it was
    /// the last page.
    pub(crate) fn told(&self, highest: Option<ChunkId>, everything: bool) {
        let told = &mut self.state.lock().told;
        told.highest = told.highest.max(highest.unwrap_or_default());
        told.everything |= everything;
    }

    /// M17: if the chunk is not here, whether its replica may have been made and lost with its name when the power went, before any sync.
    pub(crate) fn may_have_vanished(&self, chunk: ChunkId) -> bool {
        self.state.lock().contents.may_have_vanished(chunk)
    }

    /// M17: those that are known by name.
    pub(crate) fn named(&self, range: &RangeInclusive<ChunkId>) -> Vec<ChunkId> {
        let contents = &self.state.lock().contents;
        let is_one = |chunk: &ChunkId| range.contains(chunk) && contents.vanished(*chunk);
        contents.entries.keys().copied().filter(is_one).collect()
    }

    /// Lets idle chunks go and raises the watermark above all chunks seen, and all that the leader counts on; those above it that are busy get entries of
    /// their own. M17: what the leader counts on and is not here, and has no name by then, never vanishes.
    pub(crate) fn settle(&self, standing: impl Fn(ChunkId) -> Standing) -> io::Result<()> {
        let mut state = self.state.lock();
        let done = |(chunk, entry): &(&ChunkId, &Entry)| match standing(**chunk) {
            Standing::Idle | Standing::Deleted => true,
            // M17: it is remembered until a replica has been made in its place, and recovered.
            Standing::Gone => entry.doubt != Doubt::Vanished,
            Standing::Busy(..) | Standing::Lingering => false,
        };
        let leaving: Vec<ChunkId> = state.contents.entries.iter().filter(done).map(|(chunk, _)| *chunk).collect();
        for chunk in leaving {
            state.contents.entries.remove(&chunk);
            self.append(&mut state, &Record::Close { chunk });
        }
        let is_told = std::mem::take(&mut state.told.everything);
        let forgot = std::mem::take(&mut state.forgot);
        let above = std::mem::take(&mut state.above);
        let told = is_told.then_some(state.told.highest);
        let Some(highest) = above.iter().copied().chain(told).max() else {
            return if forgot { self.commit(state) } else { Ok(()) };
        };
        let is_lowered = is_told && state.contents.watermark == NONE_BY_RANGE;
        let least = if is_lowered { ChunkId::default() } else { state.contents.watermark };
        let watermark = least.max(ChunkId(highest.0.saturating_add(1)));
        for chunk in above.iter().copied() {
            if let Standing::Busy(version, grant) = standing(chunk) {
                self.open(&mut state, chunk, (version, grant), Doubt::ThisBoot);
            }
        }
        state.contents.watermark = watermark;
        state.contents.vanishing = state.contents.vanishing.filter(|_| !is_told);
        let record = watermark_of(&state.contents);
        self.append(&mut state, &record);
        if is_lowered {
            state.lowered = state.appended;
        }
        self.commit(state)
    }

    /// The chunk has just been synced as a whole, and its caller keeps writers away.
    pub(crate) fn close(&self, chunk: ChunkId) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.contents.entries.remove(&chunk).is_none() {
            return Ok(());
        }
        self.append(&mut state, &Record::Close { chunk });
        self.commit(state)
    }

    /// M17: the place of one that vanished is taken elsewhere, or nobody asks for it any more. Durable with the next record that is, or at the next
    /// [`settle`](Self::settle).
    pub(crate) fn forget_vanished(&self, chunk: ChunkId) {
        let mut state = self.state.lock();
        if state.contents.vanished(chunk) {
            state.contents.entries.remove(&chunk);
            state.forgot = true;
            self.append(&mut state, &Record::Close { chunk });
        }
    }

    /// Makes all records durable.
    pub(crate) fn flush(&self) -> io::Result<()> {
        self.commit(self.state.lock())
    }

    pub(crate) fn highest_grant(&self) -> GrantId {
        self.state.lock().contents.highest_grant
    }

    #[cfg(test)]
    pub(crate) fn contents(&self) -> Contents {
        self.state.lock().contents.clone()
    }

    fn name(&self, state: &mut State, chunk: ChunkId, of: (ChunkVersion, GrantId)) {
        if !state.contents.vanished(chunk) {
            state.above.remove(&chunk);
            self.open(state, chunk, of, Doubt::Vanished);
        }
    }

    /// Writes of this process are of this boot.
    fn open(&self, state: &mut State, chunk: ChunkId, (version, grant): (ChunkVersion, GrantId), doubt: Doubt) {
        state.contents.entries.insert(chunk, Entry { version, grant, doubt });
        self.append(state, &Record::Open { chunk, version, grant, doubt });
    }

    fn append(&self, state: &mut State, record: &Record) {
        let bytes = encode(state.sequence, self.disk_uuid, record);
        state.pending.extend_from_slice(&bytes);
        state.sequence += 1;
        state.appended += 1;
    }

    /// Group commit: one thread writes and syncs for all that have appended meanwhile.
    fn commit(&self, mut state: MutexGuard<'_, State>) -> io::Result<()> {
        let target = state.appended;
        loop {
            if state.failed {
                return Err(io::Error::other("the journal has failed"));
            }
            if state.durable >= target {
                return Ok(());
            }
            if state.writing {
                self.written.wait(&mut state);
                continue;
            }
            state.writing = true;
            let covered = state.appended;
            let result = self.write_pending(&mut state);
            state.writing = false;
            self.written.notify_all();
            match result {
                Ok(()) => state.durable = covered,
                Err(error) => {
                    state.failed = true;
                    return Err(error);
                }
            }
        }
    }

    /// `writing` is set: no other thread touches the file while the lock is released.
    fn write_pending(&self, state: &mut MutexGuard<'_, State>) -> io::Result<()> {
        let pending = std::mem::take(&mut state.pending);
        if state.end + pending.len() as u64 > state.capacity {
            // All of `pending` is in the contents already.
            let contents = state.contents.clone();
            let first = state.sequence;
            let start = MutexGuard::unlocked(state, || write_file(self.disk.as_ref(), self.disk_uuid, &contents))?;
            // What was appended meanwhile is numbered anew behind the fresh file's records.
            let count = (state.sequence - first) as usize;
            renumber(&mut state.pending, first, start.sequence, self.disk_uuid);
            state.file = start.file;
            state.capacity = start.capacity;
            state.end = start.end;
            state.sequence = start.sequence + count as u64;
            return Ok(());
        }
        let (file, at) = (state.file.clone(), state.end);
        state.end += pending.len() as u64;
        MutexGuard::unlocked(state, || {
            file.write_at(&pending, at)?;
            file.sync_data()
        })
    }
}

struct Start {
    file: Arc<dyn DiskFile>,
    capacity: u64,
    end: u64,
    sequence: u64,
}

fn write_file(disk: &dyn Disk, disk_uuid: [u8; 16], contents: &Contents) -> io::Result<Start> {
    let mut records = vec![Record::Start { format: FORMAT, boot: contents.boot, folders: contents.folders }];
    let open = |(chunk, entry): (&ChunkId, &Entry)| {
        let Entry { version, grant, doubt } = *entry;
        Record::Open { chunk: *chunk, version, grant, doubt }
    };
    let mut opens: Vec<Record> = contents.entries.iter().map(open).collect();
    // The same contents give the same bytes.
    opens.sort_by_key(|record| if let Record::Open { chunk, .. } = record { chunk.0 } else { 0 });
    records.extend(opens);
    records.push(watermark_of(contents));
    let mut bytes: Vec<u8> = Vec::new();
    for (sequence, record) in records.iter().enumerate() {
        bytes.extend_from_slice(&encode(sequence as u64, disk_uuid, record));
    }
    let end = bytes.len() as u64;
    let capacity = (end * 2).max(MIN_BYTES).next_multiple_of(4096);
    bytes.resize(capacity as usize, 0);
    let fresh = layout::fresh(layout::JOURNAL);
    let file: Arc<dyn DiskFile> = Arc::from(disk.open(&fresh, OpenMode::Truncate)?);
    file.write_at(&bytes, 0)?;
    file.sync_data()?;
    disk.rename(&fresh, layout::JOURNAL)?;
    disk.sync_dir("")?;
    Ok(Start { file, capacity, end, sequence: records.len() as u64 })
}

fn watermark_of(contents: &Contents) -> Record {
    let Contents { watermark, highest_grant, vanishing, .. } = *contents;
    Record::Watermark { chunk: watermark, grant: highest_grant, vanishing }
}

fn renumber(pending: &mut [u8], from: u64, to: u64, disk_uuid: [u8; 16]) {
    for (index, bytes) in pending.chunks_exact_mut(RECORD).enumerate() {
        let record = decode(bytes, from + index as u64, disk_uuid).expect("an own record decodes");
        bytes.copy_from_slice(&encode(to + index as u64, disk_uuid, &record));
    }
}

/// `Ok(None)`: it does not begin soundly. `Err`: the format is too new.
fn decode_all(bytes: &[u8], disk_uuid: [u8; 16]) -> Result<Option<Contents>, u16> {
    let mut contents = Contents::default();
    let mut sound = false;
    for (sequence, bytes) in bytes.chunks_exact(RECORD).enumerate() {
        match decode(bytes, sequence as u64, disk_uuid) {
            Some(Record::Start { format, .. }) if format > FORMAT => return Err(format),
            Some(Record::Start { boot, folders, .. }) if sequence == 0 => {
                (contents.boot, contents.folders) = (boot, folders);
            }
            Some(Record::Open { chunk, version, grant, doubt }) if sequence > 0 => {
                contents.entries.insert(chunk, Entry { version, grant, doubt });
                contents.highest_grant = contents.highest_grant.max(grant);
            }
            Some(Record::Close { chunk }) if sequence > 0 => drop(contents.entries.remove(&chunk)),
            Some(Record::Watermark { chunk, grant, vanishing }) if sequence > 0 => {
                // The first one ends what was written together with the rename.
                sound = true;
                (contents.watermark, contents.vanishing) = (chunk, vanishing);
                contents.highest_grant = contents.highest_grant.max(grant);
            }
            _ => break,
        }
    }
    Ok(sound.then_some(contents))
}

#[cfg(test)]
mod tests;
