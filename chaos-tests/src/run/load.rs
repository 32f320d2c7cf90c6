//! The loads of a run: clients of the library that fight over names, and processes that work through mounts.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use serde::de::DeserializeOwned;

use super::timeline::Counter;
use crate::check::finding::Finding;
use crate::lab::Lab;
use crate::workload::append::Appended;
use crate::workload::blocks::{ReaderResult, Written};
use crate::workload::copies::Copied;
use crate::workload::registers::{self, History};
use crate::workload::storm::Storm;
use crate::workload::universe::{Outcome, Universes};
use crate::workload::worker::{Work, Worker};

/// Writers of blocks, one on each mount; as many that write one file together; and as many that fight over registers.
const WRITERS: u64 = 2;
/// Readers take every page from the servers, whatever this kernel has cached.
const UNCACHED: [&str; 2] = ["-o", "attr-timeout=0s,entry-timeout=0s"];

/// Everything that works.
pub struct Loads {
    universes: Universes,
    writers: Vec<Worker>,
    /// Those who write one file together.
    sharing: Vec<Worker>,
    registers: Vec<Worker>,
    reader: Worker,
    append: Worker,
    storm: Worker,
    copies: Worker,
    /// Mounts that writers work on.
    pub mounts: Vec<PathBuf>,
    /// The mount of the reader, which nobody harms.
    pub observer: PathBuf,
}

/// What all have seen.
pub struct Seen {
    pub universes: Outcome,
    pub written: Vec<Written>,
    pub registers: Vec<History>,
    /// None of what is stuck.
    pub read: Option<ReaderResult>,
    pub appended: Option<Appended>,
    pub storm: Option<Storm>,
    pub copied: Option<Copied>,
    /// Loads that did not end what they had begun.
    pub stuck: Vec<Finding>,
}

impl Loads {
    pub async fn start(lab: &mut Lab, seed: u64) -> Result<Self> {
        let mut mounts = Vec::new();
        for _ in 0..WRITERS {
            mounts.push(lab.mount(&[]).await?);
        }
        let observer = lab.mount(&UNCACHED).await?;
        let universes = Universes::start(lab.cluster.meta_addresses(), seed).await?;
        universes.open_root().await?;
        let first = mounts[0].clone();
        tokio::task::spawn_blocking(move || registers::make_files(&first)).await??;
        let write = |(mount, id): (&PathBuf, u64)| Worker::start(&Work::Write { dir: mount.clone(), id, seed });
        let share = |(mount, number): (&PathBuf, u64)| {
            Worker::start(&Work::Share { dir: mount.clone(), number, of: WRITERS, seed })
        };
        let fight = |(mount, number): (&PathBuf, u64)| {
            Worker::start(&Work::Register { dir: mount.clone(), number, of: WRITERS, seed })
        };
        let (id, sources) = (WRITERS + 2, lab.folder().join("sources"));
        let copies = Work::Copy { dir: mounts[0].clone(), other: observer.clone(), sources, id, seed };
        Ok(Self {
            universes,
            writers: mounts.iter().zip(0..).map(write).collect::<Result<_>>()?,
            sharing: mounts.iter().zip(0..).map(share).collect::<Result<_>>()?,
            registers: mounts.iter().zip(0..).map(fight).collect::<Result<_>>()?,
            reader: Worker::start(&Work::Read { dir: observer.clone(), writers: WRITERS, sharing: WRITERS, seed })?,
            append: Worker::start(&Work::Append { dir: mounts[0].clone(), id: WRITERS, seed })?,
            storm: Worker::start(&Work::Storm { dir: mounts[1].clone(), id: WRITERS + 1, seed })?,
            copies: Worker::start(&copies)?,
            mounts,
            observer,
        })
    }

    /// What counts each load's completions.
    pub fn counters(&self) -> Vec<(String, Counter)> {
        let of = |worker: &Worker| -> Counter {
            let progress = worker.progress_handle();
            std::sync::Arc::new(move || progress.get())
        };
        let mut counters = vec![("names".to_owned(), self.universes.completions())];
        let together = [("fsyncs", &self.writers), ("shared", &self.sharing), ("registers", &self.registers)];
        for (name, workers) in together {
            let each: Vec<Counter> = workers.iter().map(of).collect();
            counters.push((name.to_owned(), std::sync::Arc::new(move || each.iter().map(|c| c()).sum())));
        }
        counters.push(("records".to_owned(), of(&self.append)));
        counters.push(("files".to_owned(), of(&self.storm)));
        counters.push(("copies".to_owned(), of(&self.copies)));
        counters.push(("reads".to_owned(), of(&self.reader)));
        counters
    }

    /// Ends all of them. One that does not end within `patience`, now that nothing is broken, is stuck (P5).
    pub async fn finish(mut self, patience: Duration) -> Result<Seen> {
        let end = Instant::now() + patience;
        let writers = self.writers.iter_mut().chain(&mut self.sharing).chain(&mut self.registers);
        for worker in writers.chain([&mut self.reader, &mut self.append, &mut self.storm, &mut self.copies]) {
            worker.tell_to_stop();
        }
        let universes = self.universes.finish(patience).await?;
        let (registers, reader, append) = (self.registers, self.reader, self.append);
        let (storm, copies) = (self.storm, self.copies);
        let writers: Vec<Worker> = self.writers.into_iter().chain(self.sharing).collect();
        tokio::task::spawn_blocking(move || {
            let mut stuck = Vec::new();
            let mut written = Vec::new();
            for worker in writers {
                written.extend(ended("a writer of blocks", worker, end, &mut stuck)?);
            }
            let mut fought = Vec::new();
            for worker in registers {
                fought.extend(ended("who fights over registers", worker, end, &mut stuck)?);
            }
            let read = ended("the reader", reader, end, &mut stuck)?;
            let appended = ended("the writer of records", append, end, &mut stuck)?;
            let storm = ended("the maker of small files", storm, end, &mut stuck)?;
            let copied = ended("who copies trees", copies, end, &mut stuck)?;
            Ok(Seen { universes, written, registers: fought, read, appended, storm, copied, stuck })
        })
        .await?
    }
}

/// What a worker has seen, if it ends in time.
fn ended<T: DeserializeOwned>(who: &str, worker: Worker, end: Instant, stuck: &mut Vec<Finding>) -> Result<Option<T>> {
    let seen = worker.finish_until(end)?;
    if seen.is_none() {
        stuck.push(Finding::now(format!("{who} does not end what it has begun (P5)")));
    }
    Ok(seen)
}

impl Seen {
    /// Errors that programs on mounts got.
    pub fn errors(&self) -> impl Iterator<Item = &Finding> {
        let written = self.written.iter().flat_map(|written| &written.errors);
        let registers = self.registers.iter().flat_map(|history| &history.errors);
        let appended = self.appended.iter().flat_map(|appended| &appended.errors);
        let files = self.storm.iter().flat_map(|storm| &storm.errors);
        let copies = self.copied.iter().flat_map(|copied| &copied.errors);
        written.chain(registers).chain(appended).chain(files).chain(copies)
    }

    /// What another mount shows, compared with what was acknowledged.
    pub fn verify(&self, mount: &Path) -> Vec<Finding> {
        let blocks = self.written.iter().flat_map(|file| file.ledger.verify(file.id, &at(mount, &file.path)));
        let records = self.appended.iter().flat_map(|appended| appended.verify(&at(mount, &appended.path)));
        let files = self.storm.iter().flat_map(|storm| storm.verify(&at(mount, &storm.folder)));
        blocks.chain(records.chain(files).map(Finding::from)).collect()
    }

    /// The same as if more had been acknowledged than there ever was: what is planted, and what is found of it.
    pub fn verify_planted(&self, mount: &Path) -> Vec<(&'static str, Option<Finding>)> {
        let block = self.written.first().and_then(|file| {
            file.ledger.with_a_lost_write().verify(file.id, &at(mount, &file.path)).into_iter().next()
        });
        let record = self
            .appended
            .as_ref()
            .and_then(|appended| appended.with_a_lost_record().verify(&at(mount, &appended.path)).into_iter().next());
        let file = self
            .storm
            .as_ref()
            .and_then(|storm| storm.with_a_lost_file().verify(&at(mount, &storm.folder)).into_iter().next());
        vec![
            ("a lost fsync in a ledger", block),
            ("a lost record of the log", record.map(Finding::from)),
            ("a lost small file", file.map(Finding::from)),
        ]
    }

    /// What another mount shows of the tree that was copied last.
    pub fn verify_copy(&self, mount: &Path) -> Vec<Finding> {
        let wrong = self.copied.iter().flat_map(|copied| copied.verify(&at(mount, &copied.folder)));
        wrong.map(Finding::from).collect()
    }

    /// The same after its source has been changed: what was planted, and what is found of it.
    pub fn verify_planted_copy(&self, mount: &Path) -> [(&'static str, Option<Finding>); 2] {
        let copied = self.copied.as_ref();
        let found = copied.map(|copied| copied.verify_planted(&at(mount, &copied.folder))).unwrap_or_default();
        let [byte, entry] = found.map(|found| found.map(Finding::from));
        [("a changed byte of a copied file", byte), ("a lost entry of a copied tree", entry)]
    }
}

/// Where another mount shows what was written at `path`.
fn at(mount: &Path, path: &Path) -> PathBuf {
    mount.join(path.file_name().unwrap_or_default())
}
