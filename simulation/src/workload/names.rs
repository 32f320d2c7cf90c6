//! Names in a directory of the client's own: creates, directories, links, renames, removals, lookups, listings. Nobody else changes them,
//! so each answer is known beforehand, whatever happens to the cluster meanwhile: a mutation that was carried out twice answers EEXIST or
//! ENOENT, one that was lost shows in the next listing (P4).

use std::sync::Arc;

use caribou_client::meta::QueryOp;
use caribou_client::{Error, MetaClient};
use caribou_proto::meta::v1::{Create, Link, Lookup, Mkdir, Rename, Rmdir, Unlink, mutation::Op};
use rand::RngExt as _;
use rand::rngs::StdRng;

use super::book::{Book, Entries, Entry};
use super::caller;
use crate::findings::Findings;

const ENOENT: i32 = 2;
const EEXIST: i32 = 17;

/// Few enough that most operations meet something.
const NAMES: u32 = 24;
/// A name and what it must stand for.
type Named = (String, Option<Entry>);

/// One directory and its only user.
pub struct Names {
    book: Arc<Book>,
    rng: StdRng,
}

fn errno<T>(result: Result<T, Error>) -> Result<Result<T, i32>, Error> {
    match result {
        Ok(value) => Ok(Ok(value)),
        Err(Error::Errno(number)) => Ok(Err(number)),
        Err(error) => Err(error),
    }
}

impl Names {
    /// Makes the directory.
    pub async fn new(label: &str, meta: &MetaClient, rng: StdRng) -> Result<Self, Error> {
        let mkdir = Mkdir { parent: 1, name: label.as_bytes().to_vec().into(), mode: 0o755 };
        let made = meta.mutate(&caller(), Op::Mkdir(mkdir)).await?;
        let directory = made.attr.map_or(0, |attr| attr.inode);
        Ok(Self { book: Arc::new(Book::new(label, directory)), rng })
    }

    pub fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book)
    }

    fn name(&mut self) -> String {
        format!("n{}", self.rng.random_range(0..NAMES))
    }

    /// One operation, and its answer compared with the model's.
    ///
    /// # Errors
    /// When the client is gone.
    pub async fn step(&mut self, meta: &MetaClient, findings: &Findings) -> Result<(), Error> {
        let name = self.name();
        let known = self.book.entries().get(&name).copied();
        let named = (name, known);
        match self.rng.random_range(0..100) {
            0..30 => self.make(meta, findings, named, false).await?,
            30..40 => self.make(meta, findings, named, true).await?,
            40..60 => self.remove(meta, findings, named).await?,
            60..75 => self.rename(meta, findings, named).await?,
            75..82 => self.link(meta, findings, named).await?,
            82..95 => self.lookup(meta, findings, named).await?,
            _ => self.book.check(meta, findings).await?,
        }
        findings.step();
        Ok(())
    }

    fn compare<T: std::fmt::Debug + PartialEq>(&self, findings: &Findings, what: &str, got: T, expected: T) {
        findings.check(got == expected, || {
            format!("exactly once: {} {what} answered {got:?}, it must be {expected:?}", self.book.label)
        });
    }

    async fn make(
        &mut self,
        meta: &MetaClient,
        findings: &Findings,
        (name, known): Named,
        is_directory: bool,
    ) -> Result<(), Error> {
        let (parent, bytes) = (self.book.directory, name.clone().into_bytes().into());
        let op = match is_directory {
            true => Op::Mkdir(Mkdir { parent, name: bytes, mode: 0o755 }),
            false => {
                let create =
                    Create { parent, name: bytes, mode: 0o644, exclusive: true, access: 6, ..Create::default() };
                Op::Create(create)
            }
        };
        if known.is_none() {
            self.book.begin(|entries| entries.extend([(name.clone(), Entry { inode: None, is_directory })]));
        }
        let answer = errno(meta.mutate(&caller(), op).await)?.map(|body| body.attr.map_or(0, |attr| attr.inode));
        let expected = if known.is_some() { Err(EEXIST) } else { Ok(()) };
        self.compare(findings, &format!("make {name}"), answer.map(|_| ()), expected);
        if let Ok(inode) = answer {
            if !is_directory {
                meta.release_claim(inode);
            }
            self.book.settle(|entries| entries.extend([(name, Entry { inode: Some(inode), is_directory })]));
        }
        Ok(())
    }

    async fn remove(&mut self, meta: &MetaClient, findings: &Findings, (name, known): Named) -> Result<(), Error> {
        let (parent, bytes) = (self.book.directory, name.clone().into_bytes().into());
        let op = match known {
            Some(Entry { is_directory: true, .. }) => Op::Rmdir(Rmdir { parent, name: bytes }),
            _ => Op::Unlink(Unlink { parent, name: bytes }),
        };
        self.book.begin(|entries| entries.retain(|other, _| *other != name));
        let answer = errno(meta.mutate(&caller(), op).await)?.map(|_| ());
        let expected = if known.is_some() { Ok(()) } else { Err(ENOENT) };
        self.compare(findings, &format!("remove {name}"), answer, expected);
        self.book.settle(|entries| entries.retain(|other, _| *other != name));
        Ok(())
    }

    async fn rename(&mut self, meta: &MetaClient, findings: &Findings, (name, known): Named) -> Result<(), Error> {
        let to = self.name();
        let there = self.book.entries().get(&to).copied();
        let rename = Rename {
            parent: self.book.directory,
            name: name.clone().into_bytes().into(),
            new_parent: self.book.directory,
            new_name: to.clone().into_bytes().into(),
            no_replace: true,
            exchange: false,
        };
        let moved = |entries: &mut Entries| {
            if let (Some(entry), None) = (known, there) {
                entries.remove(&name);
                entries.insert(to.clone(), entry);
            }
        };
        self.book.begin(moved);
        let answer = errno(meta.mutate(&caller(), Op::Rename(rename)).await)?.map(|_| ());
        let expected = match (known, there) {
            (None, _) => Err(ENOENT),
            (Some(_), Some(_)) => Err(EEXIST),
            (Some(_), None) => Ok(()),
        };
        self.compare(findings, &format!("rename {name} to {to}"), answer, expected);
        self.book.settle(moved);
        Ok(())
    }

    async fn link(&mut self, meta: &MetaClient, findings: &Findings, (name, known): Named) -> Result<(), Error> {
        let Some(entry) = known.filter(|entry| !entry.is_directory) else { return Ok(()) };
        let to = self.name();
        let link = Link { inode: entry.number(), parent: self.book.directory, name: to.clone().into_bytes().into() };
        let entries = self.book.entries();
        let is_free = !entries.contains_key(&to);
        let linked = |entries: &mut Entries| {
            if is_free {
                entries.insert(to.clone(), entry);
            }
        };
        self.book.begin(linked);
        let answer = errno(meta.mutate(&caller(), Op::Link(link)).await)?;
        let links = answer.map(|body| body.attr.map_or(0, |attr| attr.nlink));
        let before = entries.values().filter(|other| other.inode == entry.inode).count();
        let expected = if is_free { Ok(before as u32 + 1) } else { Err(EEXIST) };
        self.compare(findings, &format!("link {name} as {to}"), links, expected);
        self.book.settle(linked);
        Ok(())
    }

    async fn lookup(&mut self, meta: &MetaClient, findings: &Findings, (name, known): Named) -> Result<(), Error> {
        let lookup = Lookup { parent: self.book.directory, name: name.clone().into_bytes().into() };
        let answer = errno(meta.query(&caller(), QueryOp::Lookup(lookup)).await)?;
        let got = answer.map(|body| body.attr.map_or(0, |attr| attr.inode));
        let expected = known.map_or(Err(ENOENT), |entry| Ok(entry.number()));
        self.compare(findings, &format!("lookup {name}"), got, expected);
        Ok(())
    }
}
