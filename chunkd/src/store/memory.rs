//! A data folder in memory that forgets what was not synced.
//!
//! It keeps, per file and per folder, the state that processes see and the state that is durable. [`MemoryDisk::power_cut`]
//! makes a new disk from the durable one plus a random choice of the un-synced sectors and names; [`MemoryDisk::restart`] is a `kill -9`:
//! the page cache stays. Either way every handle on the old disk fails from then on. Faults can be set at any call.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::Mutex;

use super::disk::{Boot, Disk, DiskFile, JobTime, OpenMode, Pace, Space};

const SECTOR: usize = 512;
type Sectors = BTreeMap<u64, [u8; SECTOR]>;

/// Called before each call on the disk with the call's name; an error is the call's result. It may block.
pub type Hook = dyn Fn(&str) -> io::Result<()> + Send + Sync;

/// One data folder in memory.
pub struct MemoryDisk {
    path: String,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
    pace: Pace,
}

#[derive(Default)]
struct Gate {
    dead: AtomicBool,
    hook: Mutex<Option<Arc<Hook>>>,
    calls: AtomicU64,
    syncs: AtomicU64,
    bytes_read: AtomicU64,
}

#[derive(Clone)]
struct State {
    /// Folders; made durable at once, since the store makes them only once.
    folders: BTreeSet<String>,
    names: BTreeMap<String, Arc<Mutex<Inode>>>,
    durable_names: BTreeMap<String, Arc<Mutex<Inode>>>,
    space: Space,
    /// How often the power has failed.
    power_cuts: u64,
    locked: Arc<AtomicBool>,
}

#[derive(Clone, Default)]
struct Inode {
    sectors: Sectors,
    length: u64,
    durable: Sectors,
    durable_length: u64,
    /// Sectors that differ, or may differ, from their durable state.
    changed: BTreeSet<u64>,
}

struct MemoryFile {
    inode: Arc<Mutex<Inode>>,
    gate: Arc<Gate>,
}

struct LockGuard(Arc<AtomicBool>);

impl MemoryDisk {
    /// An empty folder whose calls run on the calling task.
    pub fn new(path: &str) -> Self {
        let space = Space { total_bytes: 1 << 40, free_bytes: 1 << 40 };
        let state = State {
            folders: BTreeSet::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            space,
            power_cuts: 0,
            locked: Arc::default(),
        };
        Self { path: path.into(), state: Arc::new(Mutex::new(state)), gate: Arc::default(), pace: Pace::AtOnce }
    }

    /// The same folder, but run on threads like a real one, so that hooks may block.
    pub fn threaded(mut self) -> Self {
        self.pace = Pace::Threads;
        self
    }

    /// The same folder, but each job takes its time, and has no effect before that is over.
    pub fn paced(mut self, job_time: Arc<JobTime>) -> Self {
        self.pace = Pace::Tasks(job_time);
        self
    }

    /// A hook before each call, or none.
    pub fn set_hook(&self, hook: Option<Arc<Hook>>) {
        *self.gate.hook.lock() = hook;
    }

    pub fn set_space(&self, space: Space) {
        self.state.lock().space = space;
    }

    /// Calls made so far, successful or not.
    pub fn calls(&self) -> u64 {
        self.gate.calls.load(Ordering::SeqCst)
    }

    /// `sync_data` calls made so far.
    pub fn syncs(&self) -> u64 {
        self.gate.syncs.load(Ordering::SeqCst)
    }

    /// Bytes asked for by reads so far.
    pub fn bytes_read(&self) -> u64 {
        self.gate.bytes_read.load(Ordering::SeqCst)
    }

    /// Every call on this disk fails from now on.
    pub fn kill(&self) {
        self.gate.dead.store(true, Ordering::SeqCst);
    }

    /// Flips bits of a file behind the store's back, durably: damage at rest.
    pub fn damage(&self, name: &str, offset: u64, mask: u8) {
        let inode = self.state.lock().names.get(name).cloned().expect("the file to damage exists");
        let mut inode = inode.lock();
        let (sector, at) = (offset / SECTOR as u64, (offset % SECTOR as u64) as usize);
        inode.sectors.entry(sector).or_insert([0; SECTOR])[at] ^= mask;
        let content = inode.sectors[&sector];
        inode.durable.insert(sector, content);
    }

    /// `kill -9` of the process: everything written is still there.
    pub fn restart(&self) -> Self {
        self.kill();
        let state = self.state.lock();
        let mut copy = State { locked: Arc::default(), ..state.clone() };
        // Own inodes, keeping what is durable apart; a file with two names stays one file.
        let mut copies = BTreeMap::new();
        for names in [&mut copy.names, &mut copy.durable_names] {
            for inode in names.values_mut() {
                let key = Arc::as_ptr(inode) as usize;
                let fresh = copies.entry(key).or_insert_with(|| Arc::new(Mutex::new(inode.lock().clone())));
                *inode = fresh.clone();
            }
        }
        Self {
            path: self.path.clone(),
            state: Arc::new(Mutex::new(copy)),
            gate: Arc::default(),
            pace: self.pace.clone(),
        }
    }

    /// Power loss: what was synced stays; each un-synced sector is kept, lost or torn, each length
    /// and name kept or lost, by the seed's choice.
    pub fn power_cut(&self, seed: u64) -> Self {
        self.kill();
        let mut dice = Dice(seed);
        let state = self.state.lock();
        let all: BTreeSet<&String> = state.names.keys().chain(state.durable_names.keys()).collect();
        let mut names = BTreeMap::new();
        let mut copies = BTreeMap::new();
        for name in all {
            let keep_new = dice.flip();
            let inode = if keep_new { state.names.get(name) } else { state.durable_names.get(name) };
            if let Some(inode) = inode {
                let key = Arc::as_ptr(inode) as usize;
                let survivor =
                    copies.entry(key).or_insert_with(|| Arc::new(Mutex::new(survive(&inode.lock(), &mut dice))));
                names.insert(name.clone(), survivor.clone());
            }
        }
        let state = State {
            folders: state.folders.clone(),
            durable_names: names.clone(),
            names,
            space: state.space,
            power_cuts: state.power_cuts + 1,
            locked: Arc::default(),
        };
        Self {
            path: self.path.clone(),
            state: Arc::new(Mutex::new(state)),
            gate: Arc::default(),
            pace: self.pace.clone(),
        }
    }
}

fn survive(inode: &Inode, dice: &mut Dice) -> Inode {
    let mut sectors = inode.durable.clone();
    for sector in &inode.changed {
        let new = inode.sectors.get(sector).copied().unwrap_or([0; SECTOR]);
        let kept = match dice.roll(8) {
            0..3 => continue,
            3..6 => SECTOR,
            // Torn: a disk that is not even atomic within a sector.
            _ => dice.roll(SECTOR as u64 / 8) as usize * 8,
        };
        sectors.entry(*sector).or_insert([0; SECTOR])[..kept].copy_from_slice(&new[..kept]);
    }
    let length = if dice.flip() { inode.length } else { inode.durable_length };
    sectors.retain(|sector, _| sector * (SECTOR as u64) < length);
    Inode { durable: sectors.clone(), durable_length: length, sectors, length, changed: BTreeSet::new() }
}

/// A small seeded generator: a crash must be repeatable from its seed alone.
struct Dice(u64);

impl Dice {
    fn flip(&mut self) -> bool {
        self.roll(2) == 1
    }

    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % sides
    }
}

impl Gate {
    fn enter(&self, call: &str) -> io::Result<()> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let hook = self.hook.lock().clone();
        if let Some(hook) = hook {
            hook(call)?;
        }
        if self.dead.load(Ordering::SeqCst) { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Disk for MemoryDisk {
    fn path(&self) -> &str {
        &self.path
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        self.gate.enter("open")?;
        let mut state = self.state.lock();
        let inode = match (state.names.get(name), mode) {
            (Some(_), OpenMode::CreateNew) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, OpenMode::Existing) => return Err(io::ErrorKind::NotFound.into()),
            (Some(inode), _) => inode.clone(),
            (None, _) if !parent(name).is_empty() && !state.folders.contains(parent(name)) => {
                return Err(io::ErrorKind::NotFound.into());
            }
            (None, _) => {
                let inode = Arc::new(Mutex::new(Inode::default()));
                state.names.insert(name.into(), inode.clone());
                inode
            }
        };
        if mode == OpenMode::Truncate {
            let mut inode = inode.lock();
            let gone: Vec<u64> = inode.sectors.keys().copied().collect();
            inode.changed.extend(gone);
            inode.sectors.clear();
            inode.length = 0;
        }
        Ok(Box::new(MemoryFile { inode, gate: self.gate.clone() }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.gate.enter("rename")?;
        let mut state = self.state.lock();
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.into(), inode);
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.gate.enter("unlink")?;
        self.state.lock().names.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.gate.enter("create_dir")?;
        self.state.lock().folders.insert(name.into());
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.gate.enter("list")?;
        let state = self.state.lock();
        if !dir.is_empty() && !state.folders.contains(dir) {
            return Err(io::ErrorKind::NotFound.into());
        }
        // What is below a folder follows each other.
        let below = if dir.is_empty() { String::new() } else { format!("{dir}/") };
        let from = (Bound::Included(below.as_str()), Bound::<&str>::Unbounded);
        let is_below = |name: &&str| name.starts_with(&below);
        let folders = state.folders.range::<str, _>(from).map(String::as_str).take_while(is_below);
        let files = state.names.range::<str, _>(from).map(|(name, _)| name.as_str()).take_while(is_below);
        let names = folders.chain(files).filter_map(|name| name.strip_prefix(&below));
        Ok(names.filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned).collect())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.gate.enter("sync_dir")?;
        let mut state = self.state.lock();
        state.durable_names.retain(|name, _| parent(name) != dir);
        let live: Vec<_> =
            state.names.iter().filter(|(name, _)| parent(name) == dir).map(|(n, i)| (n.clone(), i.clone())).collect();
        state.durable_names.extend(live);
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.gate.enter("lock")?;
        let locked = self.state.lock().locked.clone();
        if locked.swap(true, Ordering::SeqCst) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(LockGuard(locked)))
    }

    fn space(&self) -> io::Result<Space> {
        self.gate.enter("space")?;
        Ok(self.state.lock().space)
    }

    fn boot(&self) -> Option<Boot> {
        Some(Boot { kernel: 1, mount: self.state.lock().power_cuts })
    }

    fn pace(&self) -> Pace {
        self.pace.clone()
    }
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

impl DiskFile for MemoryFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        self.gate.enter("read")?;
        self.gate.bytes_read.fetch_add(buf.len() as u64, Ordering::SeqCst);
        let inode = self.inode.lock();
        let length = (buf.len() as u64).min(inode.length.saturating_sub(offset)) as usize;
        buf[..length].fill(0);
        let (size, end) = (SECTOR as u64, offset + length as u64);
        for (sector, content) in inode.sectors.range(offset / size..end.div_ceil(size)) {
            let start = sector * size;
            let (from, to) = (offset.max(start), end.min(start + size));
            let part = &content[(from - start) as usize..(to - start) as usize];
            buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
        }
        Ok(length)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.gate.enter("write")?;
        let mut inode = self.inode.lock();
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let (sector, skip) = (at / SECTOR as u64, (at % SECTOR as u64) as usize);
            let part = (SECTOR - skip).min(data.len() - done);
            let content = inode.sectors.entry(sector).or_insert([0; SECTOR]);
            content[skip..skip + part].copy_from_slice(&data[done..done + part]);
            inode.changed.insert(sector);
            done += part;
        }
        inode.length = inode.length.max(offset + data.len() as u64);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.gate.syncs.fetch_add(1, Ordering::SeqCst);
        self.gate.enter("sync")?;
        let mut inode = self.inode.lock();
        let inode = &mut *inode;
        for sector in std::mem::take(&mut inode.changed) {
            match inode.sectors.get(&sector) {
                Some(content) => inode.durable.insert(sector, *content),
                None => inode.durable.remove(&sector),
            };
        }
        inode.durable_length = inode.length;
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.gate.enter("punch")?;
        let mut inode = self.inode.lock();
        let inode = &mut *inode;
        let end = (offset + length).min(inode.length);
        if offset >= end {
            return Ok(());
        }
        let hit: Vec<u64> =
            inode.sectors.range(offset / SECTOR as u64..end.div_ceil(SECTOR as u64)).map(|(s, _)| *s).collect();
        for sector in hit {
            let start = sector * SECTOR as u64;
            let from = offset.saturating_sub(start).min(SECTOR as u64) as usize;
            let to = end.saturating_sub(start).min(SECTOR as u64) as usize;
            if (from, to) == (0, SECTOR) {
                inode.sectors.remove(&sector);
            } else if let Some(content) = inode.sectors.get_mut(&sector) {
                content[from..to].fill(0);
            }
            inode.changed.insert(sector);
        }
        Ok(())
    }

    fn extend(&self, length: u64) -> io::Result<()> {
        self.gate.enter("extend")?;
        let mut inode = self.inode.lock();
        inode.length = inode.length.max(length);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        self.gate.enter("len")?;
        Ok(self.inode.lock().length)
    }
}
