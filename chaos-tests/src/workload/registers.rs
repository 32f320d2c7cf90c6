//! Blocks that several mounts fight over: each is a register, which every worker writes and reads through its own mount, and opens and closes
//! the file anew each time. What was closed before has to be there (close to open), and no block goes back (P2).
//!
//! A write is open, pwrite, fsync, close; a read is open, pread, close. The check takes an operation for something that happens at one moment
//! between its call and its answer, which a mount gives by default: an open asks the leader and lets the kernel drop the pages of the file, and a
//! block, which lies within one page and one block of a chunk, is read and written as a whole. What the kernel keeps of attributes does not
//! matter, since the files have their full size from the start.
//!
//! A write that fails may still happen as long as its mount lives, or never, and only what such a write has left may be lost with the power of
//! all holders (P2's exception): whether its value is there is not asked for. But it does not come back over what was written since others have
//! seen it, or since its mount has died. Nobody makes a file after the start: while a mount is away, it would be made in the folder below.

#[cfg(test)]
mod tests;

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_client::proto::ids::CHUNK_BYTES;
use caribou_histories::registers::{Doubts, Event, Kind, NEVER, START, contradiction, unknown};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::worker::{PAUSE_AFTER_ERROR, choices, is_of_death, told};
use crate::block::{self, BLOCK, Content};
use crate::check::finding::{Finding, Moment};

const FOLDER: &str = "registers";
/// Kept with the metadata.
const SMALL: &str = "small";
/// Two chunks.
const LARGE: &str = "large";
/// The files with their sizes, in blocks.
const FILES: [(&str, u64); 2] = [(SMALL, 3), (LARGE, BLOCKS_PER_CHUNK + 1)];
const BLOCKS_PER_CHUNK: u64 = CHUNK_BYTES / BLOCK as u64;
/// The registers: file, and block in it.
const PLACES: [(&str, u64); 4] = [(SMALL, 0), (SMALL, 2), (LARGE, 0), (LARGE, BLOCKS_PER_CHUNK)];
/// What blocks of registers say of their file, and ids of workers: behind those of all others.
const ID: u64 = 2_000_000;
/// Between two operations.
const THINK_MS: Range<u64> = 0..20;

/// What one worker has done and seen.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct History {
    number: u64,
    /// How many workers there are.
    of: u64,
    writes: u64,
    /// Of each register.
    events: Vec<Vec<Event>>,
    /// When its mount was found dead.
    deaths: Vec<u64>,
    pub errors: Vec<Finding>,
    /// Blocks that were mixed, another's, or not there at all.
    pub violations: Vec<Finding>,
}

/// Makes the files below a mount's folder. All registers are zeros.
pub fn make_files(dir: &Path) -> Result<()> {
    let folder = dir.join(FOLDER);
    fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    for (name, blocks) in FILES {
        let path = folder.join(name);
        let made = File::create_new(&path).and_then(|file| {
            file.set_len(blocks * BLOCK as u64)?;
            file.sync_all()
        });
        made.with_context(|| path.display().to_string())?;
    }
    Ok(())
}

pub(super) fn fight_until(stop: &AtomicBool, dir: &Path, number: u64, of: u64, seed: u64) -> History {
    let mut random = choices(seed, ID + number);
    let (mut history, mut done) = (History::new(number, of), 0);
    while !stop.load(Ordering::Relaxed) {
        match history.step(dir, &mut random) {
            Ok(()) => {
                done += 1;
                println!("{done}");
            }
            Err(error) => {
                history.errors.push(error);
                std::thread::sleep(PAUSE_AFTER_ERROR);
            }
        }
        std::thread::sleep(Duration::from_millis(random.random_range(THINK_MS)));
    }
    history
}

/// Nanoseconds by the clock that all processes of this machine share and nobody sets.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.expect("after the machine's start") * 1_000_000_000 + nanoseconds.expect("less than a second")
}

/// When a time of that clock was by the one that people and logs use.
fn moments() -> impl Fn(u64) -> Moment {
    let (known, moment) = (now(), Moment::now());
    move |at: u64| moment.earlier(Duration::from_nanos(known.saturating_sub(at)))
}

fn path_of(dir: &Path, register: usize) -> PathBuf {
    dir.join(FOLDER).join(PLACES[register].0)
}

fn offset_of(register: usize) -> u64 {
    PLACES[register].1 * BLOCK as u64
}

fn in_words(register: usize) -> String {
    let (name, block) = PLACES[register];
    format!("register {register} ({FOLDER}/{name} block {block})")
}

fn store(path: &Path, register: usize, value: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(path)?;
    file.write_all_at(&block::make(ID, register as u64, value), offset_of(register))?;
    file.sync_all()
}

fn load(path: &Path, register: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; BLOCK];
    File::open(path)?.read_exact_at(&mut bytes, offset_of(register))?;
    Ok(bytes)
}

impl History {
    fn new(number: u64, of: u64) -> Self {
        Self { number, of, events: vec![Vec::new(); PLACES.len()], ..Self::default() }
    }

    fn step(&mut self, dir: &Path, random: &mut StdRng) -> Result<(), Finding> {
        let register = random.random_range(0..PLACES.len());
        let path = path_of(dir, register);
        let (call, result) = match random.random() {
            true => ("write", self.write(&path, register)),
            false => ("read", self.read(&path, register)),
        };
        result.map_err(|error| {
            if is_of_death(&error) {
                self.deaths.push(now());
            }
            told(&path, &format!("{call} of register {register}"), &error)
        })
    }

    fn write(&mut self, path: &Path, register: usize) -> io::Result<()> {
        // Each of all workers' writes has a value of its own.
        let value = START + 1 + self.writes * self.of + self.number;
        self.writes += 1;
        let called = now();
        let result = store(path, register, value);
        let answered = if result.is_ok() { now() } else { NEVER };
        self.note(register, Kind::Write, value, (called, answered));
        result
    }

    fn read(&mut self, path: &Path, register: usize) -> io::Result<()> {
        let (called, called_at) = (now(), Moment::now());
        let loaded = load(path, register);
        let answered = now();
        let value = match loaded {
            Ok(bytes) => match block::read(ID, register as u64, &bytes) {
                Content::Hole => Ok(START),
                Content::Write { sequence } => Ok(sequence),
                Content::Mixed => {
                    Err(format!("it is no whole write of this block, and begins with {:?}", head(&bytes)))
                }
            },
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Err("the file has become shorter".to_owned()),
            Err(error) => return Err(error),
        };
        match value {
            Ok(value) => self.note(register, Kind::Read, value, (called, answered)),
            Err(wrong) => {
                let text = format!("{}, read by client {}: {wrong} (P2)", in_words(register), self.number);
                self.violations.push(Finding::between(called_at, Moment::now(), text));
            }
        }
        Ok(())
    }

    fn note(&mut self, register: usize, kind: Kind, value: u64, (called, answered): (u64, u64)) {
        let client = self.client();
        self.events[register].push(Event { client, kind, value, called, answered });
    }

    fn client(&self) -> usize {
        usize::try_from(self.number).expect("few workers")
    }
}

/// File, register and value that a block claims to be of.
fn head(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).take(3).map(|word| u64::from_le_bytes(word.try_into().expect("eight bytes"))).collect()
}

/// What all workers have done.
#[derive(Debug)]
pub struct Fought {
    registers: Vec<Vec<Event>>,
    /// Workers, and when their mounts were found dead.
    deaths: Vec<(usize, u64)>,
}

impl Fought {
    pub fn new(histories: &[History]) -> Self {
        let of_all = |register: usize| -> Vec<Event> {
            histories.iter().flat_map(|history| &history.events[register]).copied().collect()
        };
        let deaths = histories.iter().flat_map(|history| history.deaths.iter().map(|at| (history.client(), *at)));
        Self { registers: (0..PLACES.len()).map(of_all).collect(), deaths: deaths.collect() }
    }

    pub fn operations(&self) -> usize {
        self.registers.iter().map(Vec::len).sum()
    }

    pub fn registers(&self) -> usize {
        self.registers.len()
    }

    /// Writes that nobody knows the end of.
    pub fn unknown(&self) -> usize {
        self.registers.iter().flatten().filter(|event| event.answered == NEVER).count()
    }

    /// Each register's history must have an order.
    pub fn check(&self) -> Vec<Finding> {
        (0..self.registers.len()).filter_map(|register| self.judge(register, &self.registers[register])).collect()
    }

    /// What is said of a register once a read that gives a value of long ago is added to its history (a control).
    pub fn with_a_stale_read(&self) -> Option<Finding> {
        (0..self.registers.len()).find_map(|register| {
            let stale = stale_read(&self.registers[register])?;
            self.judge(register, &[self.registers[register].as_slice(), &[stale]].concat())
        })
    }

    fn judge(&self, register: usize, events: &[Event]) -> Option<Finding> {
        Some(contradiction(events, &self.doubts(events))?.finding(moments()).within(&in_words(register)))
    }

    /// Of a write that failed nobody knows whether it happened, nor what of it was synced; but nothing of it happens after its mount's death.
    fn doubts(&self, events: &[Event]) -> Doubts {
        unknown(events, |write| {
            let of_its = self.deaths.iter().filter(|(client, at)| *client == write.client && *at > write.called);
            of_its.map(|(_, at)| *at).min().unwrap_or(NEVER)
        })
    }
}

/// A read of the first value, after everything else; nothing, if there was no later write.
fn stale_read(events: &[Event]) -> Option<Event> {
    let ended = || events.iter().filter(|event| event.answered != NEVER);
    let writes = || ended().filter(|event| event.kind == Kind::Write);
    let first = writes().min_by_key(|write| write.answered)?;
    let called = ended().map(|event| event.answered).max()? + 1;
    let is_stale = writes().any(|write| first.answered < write.called);
    is_stale.then(|| Event { kind: Kind::Read, called, answered: called + 1, ..*first })
}
