//! Blocks that all clients write and read, each time with a file of their own opening: whoever opens sees what was closed before (close to
//! open), so each block is a register, and its history must have an order in which every read gives what was written last.

mod losses;
mod torn;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caribou_client::{Error, Files};
use caribou_histories::registers::{Event, Kind, NEVER, answer, contradiction};
use caribou_proto::ids::CHUNK_BYTES;
use caribou_proto::meta::v1::Create;
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::blocks::{BLOCK, content, write_of};
use super::caller;
use crate::findings::Findings;
use crate::places::Unsynced;
pub use losses::Contested;
use losses::{Open, State};
use torn::in_parts;

/// In a file that stays small, and in one that has two chunks.
const PLACES: [(usize, u64); 4] = [(0, 0), (1, 0), (1, 70 << 10), (1, CHUNK_BYTES)];
const FILES: usize = 2;

/// See the module.
#[derive(Debug)]
pub struct Registers {
    inodes: [u64; FILES],
    clock: AtomicU64,
    values: AtomicU64,
    state: Arc<Mutex<State>>,
}

impl Registers {
    /// Makes the files.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn create(files: &Files, findings: &Findings) -> Result<Self, Error> {
        let mut inodes = [0; FILES];
        for (number, inode) in inodes.iter_mut().enumerate() {
            let name = format!("registers{number}").into_bytes().into();
            let create = Create { parent: 1, name, mode: 0o644, exclusive: true, access: 6, ..Create::default() };
            let created = files.create(&caller(), create).await?;
            *inode = created.attr.inode;
            created.file.release().await;
        }
        let state = findings.contested.state();
        let chunk = |offset: u64| u32::try_from(offset / CHUNK_BYTES).expect("few chunks");
        state.lock().keys = PLACES.iter().map(|(file, offset)| (inodes[*file], chunk(*offset))).collect();
        Ok(Self { inodes, clock: AtomicU64::new(1), values: AtomicU64::new(1), state })
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    /// One write or read.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn step(&self, client: &str, files: &Files, rng: &mut StdRng, findings: &Findings) -> Result<(), Error> {
        let register = rng.random_range(0..PLACES.len());
        if rng.random() {
            match self.write(client, register, files, rng.random(), findings).await {
                Err(error) if self.is_of_loss(client, self.inodes[PLACES[register].0], &error) => {}
                result => result?,
            }
        } else {
            self.read(client, register, files, findings).await?;
        }
        findings.step();
        Ok(())
    }

    async fn write(
        &self,
        client: &str,
        register: usize,
        files: &Files,
        synced: bool,
        findings: &Findings,
    ) -> Result<(), Error> {
        let (file, offset) = PLACES[register];
        let (inode, value) = (self.inodes[file], self.values.fetch_add(1, Ordering::Relaxed));
        let (called, written_at) = (self.now(), tokio::time::Instant::now());
        findings.on_trail(|| format!("register {register}: {client} writes {value}"));
        let key = self.state.lock().keys[register];
        let place = || findings.places.get(key);
        let asked = place();
        let event = Event { client: number_of(client), kind: Kind::Write, value, called, answered: NEVER };
        {
            let mut state = self.state.lock();
            state.events.entry(register).or_default().push(event);
            // From now on: it may be killed at any moment.
            let bytes = Unsynced { written_at, places: [asked.clone(), asked.clone()] };
            state.open.push(Open { client: client.to_owned(), register, value, bytes });
        }
        let (_, file) = files.open(&caller(), inode, 6, false).await?;
        file.write(offset, content(inode, register as u64, value)).await?;
        if synced {
            file.sync(false).await?;
        }
        file.flush().await?;
        file.release().await;
        let answered = self.now();
        findings.on_trail(|| format!("register {register}: {client} has written {value}, synced: {synced}"));
        let mut state = self.state.lock();
        let events = state.events.entry(register).or_default();
        answer(events, value, answered);
        if synced {
            state.synced(client, inode);
        } else {
            let bytes = Unsynced { written_at, places: [asked, place()] };
            state.open.iter_mut().filter(|open| open.value == value).for_each(|open| open.bytes = bytes.clone());
        }
        Ok(())
    }

    /// Nothing that this client has written stays un-synced.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn sync_all(&self, client: &str, files: &Files) -> Result<(), Error> {
        for inode in self.inodes {
            let (_, file) = files.open(&caller(), inode, 6, false).await?;
            match file.sync(false).await {
                Err(error) if self.is_of_loss(client, inode, &error) => file.sync(false).await?,
                result => result?,
            }
            self.state.lock().synced(client, inode);
            file.release().await;
        }
        Ok(())
    }

    async fn read(&self, client: &str, register: usize, files: &Files, findings: &Findings) -> Result<(), Error> {
        let (file, offset) = PLACES[register];
        let inode = self.inodes[file];
        let called = self.now();
        let (_, file) = files.open(&caller(), inode, 4, false).await?;
        let mut bytes = file.read(offset, BLOCK as u32).await?.to_vec();
        bytes.resize(BLOCK, 0);
        file.release().await;
        let Some(value) = write_of(inode, register as u64, &bytes) else {
            let state = self.state.lock();
            // What nobody has synced, and nobody sends again, may be torn as well as lost, on every disk.
            if state.may_be_torn(register, &bytes, called, &findings.places) {
                return Ok(());
            }
            let (parts, unsynced) = (in_parts(&bytes), state.in_words(register, &findings.places));
            findings.violation(format!("P2: register {register} is mixed or another's: {parts}; {unsynced}"));
            return Ok(());
        };
        findings.on_trail(|| format!("register {register}: {client} has read {value}"));
        let event = Event { client: number_of(client), kind: Kind::Read, value, called, answered: self.now() };
        self.state.lock().events.entry(register).or_default().push(event);
        Ok(())
    }

    /// All of them.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn read_all(&self, client: &str, files: &Files, findings: &Findings) -> Result<(), Error> {
        for register in 0..PLACES.len() {
            self.read(client, register, files, findings).await?;
        }
        Ok(())
    }

    /// See [`State::is_of_loss`].
    fn is_of_loss(&self, client: &str, inode: u64, error: &Error) -> bool {
        self.state.lock().is_of_loss(client, inode, error)
    }

    /// The client is gone, or may be taken for gone: what it has not synced may be lost with its holders.
    pub fn may_be_given_up(&self, client: &str) {
        self.state.lock().give_up(client);
    }

    /// The client has died: nothing leaves it any more.
    pub fn bury(&self, client: &str) {
        self.state.lock().bury(client, self.now());
    }

    /// Every register's history must have an order.
    pub fn judge(&self, findings: &Findings) {
        let state = self.state.lock();
        for (register, events) in &state.events {
            if let Some(found) = contradiction(events, &state.doubts(*register, &findings.places)) {
                let unsynced = state.in_words(*register, &findings.places);
                findings.violation(format!("P2, close to open: register {register}: {found}; {unsynced}"));
            }
        }
    }
}

/// The number that a client's name ends in.
fn number_of(client: &str) -> usize {
    client.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or_default()
}
