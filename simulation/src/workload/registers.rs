//! Blocks that all clients write and read, each time with a file of their own opening: whoever opens sees what was closed before (close to
//! open), so each block is a register, and its history must have an order in which every read gives what was written last.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
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
use crate::places::{Key, Unsynced};

/// In a file that stays small, and in one that has two chunks.
const PLACES: [(usize, u64); 4] = [(0, 0), (1, 0), (1, 70 << 10), (1, CHUNK_BYTES)];
const FILES: usize = 2;

/// A write that no sync has covered yet.
#[derive(Clone, Debug)]
struct Open {
    client: String,
    register: usize,
    value: u64,
    bytes: Unsynced,
}

#[derive(Debug, Default)]
struct State {
    /// Per register.
    events: BTreeMap<usize, Vec<Event>>,
    open: Vec<Open>,
    /// Un-synced writes of clients that are gone or were away for long.
    given_up: Vec<Open>,
    /// Those of them that are synced, or whose client was told that they may be lost.
    told: Vec<u64>,
}

/// How the client logs it, where a handle is told and where there is none.
const LOSSES: [&str; 2] =
    ["bytes of a file are lost with the session", "bytes of a file were lost after its last handle was closed"];

/// The files of registers: a client that was away may lose what others have written over, and then its calls say so.
#[derive(Debug, Default)]
pub struct Contested(Mutex<Vec<String>>);

impl Contested {
    fn add(&self, inode: u64) {
        self.0.lock().push(format!("inode={inode}"));
    }

    /// Whether a line of a log tells of such a loss.
    pub fn explains(&self, line: &str) -> bool {
        let is_one = |word: &str| self.0.lock().iter().any(|inode| inode == word);
        LOSSES.iter().any(|loss| line.contains(loss)) && line.split_whitespace().any(is_one)
    }
}

/// See the module.
#[derive(Debug)]
pub struct Registers {
    inodes: [u64; FILES],
    clock: AtomicU64,
    values: AtomicU64,
    state: Mutex<State>,
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
            findings.contested.add(*inode);
            created.file.release().await;
        }
        Ok(Self { inodes, clock: AtomicU64::new(1), values: AtomicU64::new(1), state: Mutex::default() })
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }

    fn key(&self, register: usize) -> Key {
        let (file, offset) = PLACES[register];
        (self.inodes[file], u32::try_from(offset / CHUNK_BYTES).expect("few chunks"))
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
        let place = || findings.places.get(self.key(register));
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
            self.synced(&mut state, client, inode);
        } else {
            let bytes = Unsynced { written_at, places: [asked, place()] };
            state.open.iter_mut().filter(|open| open.value == value).for_each(|open| open.bytes = bytes.clone());
        }
        Ok(())
    }

    /// Of the whole file, all that this client has written before.
    fn synced(&self, state: &mut State, client: &str, inode: u64) {
        let is_its = |open: &Open| open.client == client && self.key(open.register).0 == inode;
        state.open.retain(|open| !is_its(open));
        // It was away and is back: a later loss is none of these.
        state.told.extend(state.given_up.iter().filter(|open| is_its(open)).map(|open| open.value));
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
            self.synced(&mut self.state.lock(), client, inode);
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
            // What nobody has synced, and nobody sends again, may be torn as well as lost, on every disk.
            if self.may_be_torn(register, &bytes, findings) {
                return Ok(());
            }
            let (parts, unsynced) = (in_parts(&bytes), self.unsynced(&self.state.lock(), register, findings));
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

    /// The client is gone, or may be taken for gone: what it has not synced may be lost with its holders.
    pub fn may_be_given_up(&self, client: &str) {
        let mut state = self.state.lock();
        let (gone, open) = std::mem::take(&mut state.open).into_iter().partition(|open| open.client == client);
        state.open = open;
        let gone: Vec<Open> = gone;
        state.given_up.extend(gone);
    }

    /// Whether the client was away with un-synced writes to a chunk of that file, and another one has written to the chunk since: they are
    /// lost or not, and it is told so once.
    fn is_of_loss(&self, client: &str, inode: u64, error: &Error) -> bool {
        let mut state = self.state.lock();
        let State { events, given_up, told, .. } = &mut *state;
        let its = |open: &&Open| open.client == client && self.key(open.register).0 == inode;
        let is_followed = |open: &&Open| {
            let began = events[&open.register].iter().find(|event| event.value == open.value).map(|event| event.called);
            let same_chunk = events.iter().filter(|(register, _)| self.key(**register) == self.key(open.register));
            let by_another = |event: &Event| {
                event.kind == Kind::Write && event.client != number_of(client) && Some(event.answered) > began
            };
            same_chunk.flat_map(|(_, events)| events).any(by_another)
        };
        let mut lost = given_up.iter().filter(its).filter(|open| !told.contains(&open.value));
        let Some(lost) = lost.find(is_followed).filter(|_| *error == Error::Errno(libc::EIO)) else { return false };
        let chunk = self.key(lost.register);
        told.extend(given_up.iter().filter(its).filter(|open| self.key(open.register) == chunk).map(|open| open.value));
        true
    }

    /// Whether it is one value, torn with un-synced ones whose client is gone and whose every holder has lost power since.
    fn may_be_torn(&self, register: usize, bytes: &[u8], findings: &Findings) -> bool {
        let (state, key) = (self.state.lock(), self.key(register));
        let gone = state.given_up.iter().filter(|open| open.register == register);
        let lost = gone.filter(|open| findings.places.may_have_lost(key, &open.bytes)).map(|open| open.value);
        let written = state.events.get(&register).into_iter().flatten().map(|event| event.value);
        let block = |value| content(self.inodes[PLACES[register].0], register as u64, value);
        let others: Vec<Bytes> = written.map(block).chain([vec![0; BLOCK].into()]).collect();
        is_torn(bytes, &lost.map(block).collect::<Vec<_>>(), &others)
    }

    /// Which values nothing was known to have synced, in words.
    fn unsynced(&self, state: &State, register: usize, findings: &Findings) -> String {
        let told = |open: &Open, gone: bool| {
            let may_be_lost = findings.places.may_have_lost(self.key(register), &open.bytes);
            format!("{} of {} (gone: {gone}, may be lost: {may_be_lost})", open.value, open.client)
        };
        let here = state.open.iter().map(|open| (open, false));
        let all = here.chain(state.given_up.iter().map(|open| (open, true)));
        let of_it: Vec<String> =
            all.filter(|(open, _)| open.register == register).map(|(open, gone)| told(open, gone)).collect();
        format!("not synced: {}", if of_it.is_empty() { "nothing".to_owned() } else { of_it.join(", ") })
    }

    /// Every register's history must have an order.
    pub fn judge(&self, findings: &Findings) {
        let state = self.state.lock();
        for (register, events) in &state.events {
            let may_be_lost = |open: &&Open| {
                open.register == *register && findings.places.may_have_lost(self.key(*register), &open.bytes)
            };
            let lost: Vec<u64> = state.given_up.iter().filter(may_be_lost).map(|open| open.value).collect();
            if let Some(found) = contradiction(events, &lost) {
                let unsynced = self.unsynced(&state, *register, findings);
                findings.violation(format!("P2, close to open: register {register}: {found}; {unsynced}"));
            }
        }
    }
}

/// The number that a client's name ends in.
fn number_of(client: &str) -> usize {
    client.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or_default()
}

/// Whether every word is that of one of the `others`, always the same one, or of a `lost` block, and some are of a lost one.
fn is_torn(bytes: &[u8], lost: &[Bytes], others: &[Bytes]) -> bool {
    let words = (0..bytes.len()).step_by(8).map(|at| at..at + 8);
    let of_lost = |word: &std::ops::Range<usize>| lost.iter().any(|block| block[word.clone()] == bytes[word.clone()]);
    let rest: Vec<_> = words.filter(|word| !of_lost(word)).collect();
    !lost.is_empty() && others.iter().any(|block| rest.iter().all(|word| block[word.clone()] == bytes[word.clone()]))
}

/// Which value each part of a block is of, as far as its eight-byte words say.
fn in_parts(bytes: &[u8]) -> String {
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let values: Vec<u64> = (0..bytes.len() / 32).map(|unit| word(unit * 32 + 16)).collect();
    let mut parts: Vec<(usize, u64)> = values.into_iter().enumerate().collect();
    parts.dedup_by_key(|(_, value)| *value);
    parts.iter().map(|(unit, value)| format!("value {value} from byte {}", unit * 32)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lost_values_explain_a_torn_block() {
        let block = |value| content(5, 1, value);
        let mixed = |first, second| [&block(first)[..104], &block(second)[104..]].concat();
        let others = [block(1), block(2), vec![0; BLOCK].into()];
        assert!(is_torn(&mixed(3, 1), &[block(3)], &others));
        assert!(!is_torn(&mixed(2, 1), &[block(3)], &others), "neither of them is lost");
        assert!(!is_torn(&mixed(3, 1), &[], &others), "nothing is lost");
        assert!(!is_torn(&mixed(3, 9), &[block(3)], &others), "nobody has written that");
    }

    #[test]
    fn a_client_that_was_away_may_lose_once_what_others_have_followed() {
        let registers = Registers {
            inodes: [5, 6],
            clock: AtomicU64::default(),
            values: AtomicU64::default(),
            state: Mutex::default(),
        };
        let write = |client: usize, register: usize, value: u64, called: u64, answered: u64| {
            let event = Event { client, kind: Kind::Write, value, called, answered };
            registers.state.lock().events.entry(register).or_default().push(event);
        };
        let eio = Error::Errno(libc::EIO);
        let bytes = Unsynced { written_at: tokio::time::Instant::now(), places: [None, None] };
        registers.state.lock().open.push(Open { client: "client2".to_owned(), register: 1, value: 7, bytes });
        write(2, 1, 7, 10, NEVER);
        write(3, 1, 8, 5, 9);
        write(3, 3, 9, 20, 21);
        write(3, 2, 10, 20, 21);
        assert!(!registers.is_of_loss("client2", 6, &eio), "it was not away");
        registers.may_be_given_up("client2");
        registers.state.lock().events.remove(&2);
        assert!(!registers.is_of_loss("client2", 6, &eio), "others wrote before, or to another chunk");
        write(3, 2, 10, 20, 21);
        assert!(!registers.is_of_loss("client2", 5, &eio), "another file");
        assert!(!registers.is_of_loss("client3", 6, &eio), "another client");
        assert!(!registers.is_of_loss("client2", 6, &Error::Errno(libc::ENOSPC)), "another error");
        assert!(registers.is_of_loss("client2", 6, &eio));
        assert!(!registers.is_of_loss("client2", 6, &eio), "told once");
    }
}
