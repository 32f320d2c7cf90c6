//! The dirty journal of a data folder (V3): which chunks may own writes that are not synced.
//!
//! Invariants: a chunk is in `entries` or at or above the watermark, durably, before its first un-synced write; it leaves only when
//! all its writes are synced and acknowledged by the servers behind (M7). Callers share fsyncs (group commit). Closing records need
//! no fsync: if they are lost, a clean chunk is checked in vain.
//! A journal that is missing or does not begin soundly means that every chunk may be dirty.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::OpenError;
use super::disk::{Boot, Disk, DiskFile, OpenMode};
use super::format::journal::{Doubt, FORMAT, RECORD, Record, decode, encode};
use super::layout;

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
    /// "All ids from here on."
    pub(crate) watermark: ChunkId,
    pub(crate) highest_grant: GrantId,
}

impl Contents {
    pub(crate) fn covers(&self, chunk: ChunkId) -> bool {
        chunk >= self.watermark || self.entries.contains_key(&chunk)
    }

    /// M17: those entries that are about replicas which vanished, and nothing else.
    pub(crate) fn only_vanished(&self) -> Self {
        let is_one = |(_, entry): &(&ChunkId, &Entry)| entry.doubt == Doubt::Vanished;
        let entries = self.entries.iter().filter(is_one).map(|(chunk, entry)| (*chunk, *entry)).collect();
        Self { entries, watermark: ChunkId(u64::MAX), ..self.clone() }
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
        if state.contents.entries.contains_key(&chunk) {
            return Ok(());
        }
        if chunk >= state.contents.watermark {
            state.above.insert(chunk);
            return Ok(());
        }
        self.open(&mut state, chunk, (version, grant), Doubt::ThisBoot);
        self.commit(state)
    }

    /// M17: there was a replica that vanished; one that is about to be made stands for it. Durable when this returns.
    pub(crate) fn vanished(&self, chunk: ChunkId, version: ChunkVersion, grant: GrantId) -> io::Result<()> {
        let mut state = self.state.lock();
        if state.contents.entries.get(&chunk).is_some_and(|entry| entry.doubt == Doubt::Vanished) {
            return self.commit(state);
        }
        state.above.remove(&chunk);
        self.open(&mut state, chunk, (version, grant), Doubt::Vanished);
        self.commit(state)
    }

    /// Lets idle chunks go and raises the watermark above all chunks seen; those above it that are busy get entries of their own.
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
        let above = std::mem::take(&mut state.above);
        let Some(highest) = above.iter().max() else { return Ok(()) };
        let watermark = ChunkId(highest.0.saturating_add(1));
        for chunk in above.iter().copied() {
            if let Standing::Busy(version, grant) = standing(chunk) {
                self.open(&mut state, chunk, (version, grant), Doubt::ThisBoot);
            }
        }
        state.contents.watermark = watermark;
        let grant = state.contents.highest_grant;
        self.append(&mut state, &Record::Watermark { chunk: watermark, grant });
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

    /// M17: a replica has been made elsewhere in the place of one that vanished. Durable with the next record that is.
    pub(crate) fn forget_vanished(&self, chunk: ChunkId) {
        let mut state = self.state.lock();
        if state.contents.entries.get(&chunk).is_some_and(|entry| entry.doubt == Doubt::Vanished) {
            state.contents.entries.remove(&chunk);
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
    let mut records = vec![Record::Start { format: FORMAT, boot: contents.boot }];
    let open = |(chunk, entry): (&ChunkId, &Entry)| {
        let Entry { version, grant, doubt } = *entry;
        Record::Open { chunk: *chunk, version, grant, doubt }
    };
    let mut opens: Vec<Record> = contents.entries.iter().map(open).collect();
    // The same contents give the same bytes.
    opens.sort_by_key(|record| if let Record::Open { chunk, .. } = record { chunk.0 } else { 0 });
    records.extend(opens);
    records.push(Record::Watermark { chunk: contents.watermark, grant: contents.highest_grant });
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
            Some(Record::Start { boot, .. }) if sequence == 0 => contents.boot = boot,
            Some(Record::Open { chunk, version, grant, doubt }) if sequence > 0 => {
                contents.entries.insert(chunk, Entry { version, grant, doubt });
                contents.highest_grant = contents.highest_grant.max(grant);
            }
            Some(Record::Close { chunk }) if sequence > 0 => drop(contents.entries.remove(&chunk)),
            Some(Record::Watermark { chunk, grant }) if sequence > 0 => {
                // The first one ends what was written together with the rename.
                sound = true;
                contents.watermark = chunk;
                contents.highest_grant = contents.highest_grant.max(grant);
            }
            _ => break,
        }
    }
    Ok(sound.then_some(contents))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::store::memory::MemoryDisk;

    const DISK: [u8; 16] = [7; 16];

    fn chunk(id: u64) -> ChunkId {
        ChunkId(id)
    }

    #[test]
    fn covers_before_and_lets_go_after() {
        let disk = Arc::new(MemoryDisk::new("m"));
        let contents = Contents { watermark: chunk(100), ..Contents::default() };
        let journal = Journal::begin(disk.clone(), DISK, contents).unwrap();
        let syncs = disk.syncs();
        journal.ensure(chunk(5), ChunkVersion(1), GrantId(9)).unwrap();
        assert_eq!(disk.syncs(), syncs + 1);
        journal.ensure(chunk(5), ChunkVersion(1), GrantId(9)).unwrap();
        journal.ensure(chunk(100), ChunkVersion(1), GrantId(10)).unwrap();
        journal.ensure(chunk(120), ChunkVersion(1), GrantId(11)).unwrap();
        assert_eq!(disk.syncs(), syncs + 1, "neither known nor new chunks pay");
        let found = Journal::replay(&disk.power_cut(1), DISK).unwrap().unwrap();
        assert!(
            found.covers(chunk(5)) && found.covers(chunk(100)) && found.covers(chunk(120)) && !found.covers(chunk(6))
        );
    }

    #[test]
    fn settling_raises_the_watermark_and_names_the_busy() {
        let disk = Arc::new(MemoryDisk::new("m"));
        let journal = Journal::begin(disk.clone(), DISK, Contents::default()).unwrap();
        for id in 1..=4 {
            journal.ensure(chunk(id), ChunkVersion(1), GrantId(id)).unwrap();
        }
        let busy = |id: ChunkId| if id.0 == 3 { Standing::Busy(ChunkVersion(1), GrantId(3)) } else { Standing::Idle };
        journal.settle(busy).unwrap();
        let found = Journal::replay(&disk.power_cut(3), DISK).unwrap().unwrap();
        assert_eq!(found.watermark, chunk(5));
        assert_eq!(found.highest_grant, GrantId(4));
        assert_eq!(found.entries.keys().copied().collect::<Vec<_>>(), [chunk(3)]);
    }

    #[test]
    fn grows_over_many_files() {
        let disk = Arc::new(MemoryDisk::new("m"));
        let contents = Contents { watermark: chunk(u64::MAX), ..Contents::default() };
        let journal = Journal::begin(disk.clone(), DISK, contents).unwrap();
        for id in 0..9000 {
            journal.ensure(chunk(id), ChunkVersion(1), GrantId(id)).unwrap();
            if id % 3000 == 0 {
                journal.settle(|id| if id.0 % 2 == 0 { Standing::Lingering } else { Standing::Idle }).unwrap();
            }
        }
        let found = Journal::replay(&disk.power_cut(9), DISK).unwrap().unwrap();
        let live = journal.contents();
        assert!(live.entries.keys().all(|id| found.covers(*id)));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
            let _ = decode_all(&bytes, DISK);
        }

        // Whatever survives of what was not synced, what was synced is there.
        #[test]
        fn synced_entries_survive(ids in prop::collection::vec(0u64..50, 1..60), seed in any::<u64>()) {
            let disk = Arc::new(MemoryDisk::new("m"));
            let contents = Contents { watermark: chunk(1000), ..Contents::default() };
            let journal = Journal::begin(disk.clone(), DISK, contents).unwrap();
            for id in &ids {
                journal.ensure(chunk(*id), ChunkVersion(1), GrantId(1)).unwrap();
                if id % 7 == 0 {
                    journal.settle(|id| if id.0 % 3 == 0 { Standing::Idle } else { Standing::Lingering }).unwrap();
                }
            }
            let found = Journal::replay(&disk.power_cut(seed), DISK).unwrap().unwrap();
            prop_assert!(journal.contents().entries.keys().all(|id| found.covers(*id)));
        }
    }
}
