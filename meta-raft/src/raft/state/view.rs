//! A consistent view of the state: a RocksDB snapshot together with the instance that it belongs to. Cheap to make and to clone.
#![allow(unsafe_code)]

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use rocksdb::{ErrorKind, ReadOptions, ReadTier, Snapshot};

use super::db::StateDb;
use crate::fsm::digest::Digest;
use crate::fsm::error::Fatal;
use crate::fsm::tables::{Table, Tables, Visit, meta};

/// What all clones of a view share. Fields are dropped in this order: the snapshot before its store.
struct Inner {
    snapshot: Snapshot<'static>,
    db: Arc<StateDb>,
}

/// The state at one applied index; stays the same however long it is kept (keep it shortly: it holds old rows back from compaction).
#[derive(Clone)]
pub struct StateView {
    inner: Arc<Inner>,
}

impl fmt::Debug for StateView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "view of {:?}", self.inner.db)
    }
}

impl StateView {
    pub(super) fn new(db: Arc<StateDb>) -> Self {
        let snapshot = db.db().snapshot();
        // SAFETY: the snapshot borrows the `DB` inside the `Arc<StateDb>`, whose address does not change while the Arc lives. `Inner`
        // owns that Arc, declares the snapshot before it (so it is dropped first), and lends the snapshot only inside `InMemory<'a>`,
        // which borrows the view and gives neither the reference nor its `ReadOptions` out.
        let snapshot = unsafe { std::mem::transmute::<Snapshot<'_>, Snapshot<'static>>(snapshot) };
        Self { inner: Arc::new(Inner { snapshot, db }) }
    }

    /// The same as far as it is in memory.
    pub(crate) fn in_memory(&self) -> InMemory<'_> {
        InMemory::at(&self.inner.db, Some(&self.inner.snapshot))
    }

    /// A hash of all rows as they are: equal on all nodes that have applied the same. Reads the whole state.
    pub fn content_hash(&self) -> Result<u64, Fatal> {
        let mut digest = Digest::default();
        for table in Table::ALL {
            self.scan(table, &[], &mut |key, value| {
                digest.feed(table, key, Some(value));
                Visit::Next
            })?;
        }
        Ok(digest.state())
    }

    /// What every state has to be: `fsm::invariants`.
    pub fn check_invariants(&self) -> Result<(), Fatal> {
        crate::fsm::invariants::check(self)
    }

    /// The rolling hash of everything applied up to here.
    pub fn state_hash(&self) -> Result<u64, Fatal> {
        meta::state_hash(self)
    }
}

fn fatal(e: rocksdb::Error) -> Fatal {
    Fatal(format!("the state cannot be read: {e}"))
}

impl Tables for StateView {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        self.inner.snapshot.get_cf(self.inner.db.family(table), key).map_err(fatal)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Fatal> {
        let mut rows = self.inner.snapshot.raw_iterator_cf_opt(self.inner.db.family(table), ReadOptions::default());
        walk(&mut rows, from, visit).map_err(fatal)
    }
}

/// The newest state, for `apply`, which is its only writer.
impl Tables for StateDb {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        self.db().get_cf(self.family(table), key).map_err(fatal)
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Fatal> {
        walk(&mut self.db().raw_iterator_cf(self.family(table)), from, visit).map_err(fatal)
    }
}

/// The newest state, or a view, as far as it is in memory. A read that would need the disk fails, and is noted.
pub(crate) struct InMemory<'a> {
    db: &'a StateDb,
    snapshot: Option<&'a Snapshot<'static>>,
    options: ReadOptions,
    missed: Cell<bool>,
}

impl<'a> InMemory<'a> {
    pub(super) fn new(db: &'a StateDb) -> Self {
        Self::at(db, None)
    }

    fn at(db: &'a StateDb, snapshot: Option<&'a Snapshot<'static>>) -> Self {
        Self { db, snapshot, options: in_memory(snapshot), missed: Cell::new(false) }
    }

    /// Whether any read failed for that reason; what was computed from it is worth nothing.
    pub(crate) fn missed(&self) -> bool {
        self.missed.get()
    }

    fn fatal(&self, e: rocksdb::Error) -> Fatal {
        if e.kind() == ErrorKind::Incomplete {
            self.missed.set(true);
        }
        fatal(e)
    }
}

fn in_memory(snapshot: Option<&Snapshot<'static>>) -> ReadOptions {
    let mut options = ReadOptions::default();
    options.set_read_tier(ReadTier::BlockCache);
    if let Some(snapshot) = snapshot {
        options.set_snapshot(snapshot);
    }
    options
}

impl Tables for InMemory<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        self.db.db().get_cf_opt(self.db.family(table), key, &self.options).map_err(|e| self.fatal(e))
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Fatal> {
        let mut rows = self.db.db().raw_iterator_cf_opt(self.db.family(table), in_memory(self.snapshot));
        walk(&mut rows, from, visit).map_err(|e| self.fatal(e))
    }
}

fn walk(
    rows: &mut rocksdb::DBRawIterator<'_>,
    from: &[u8],
    visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit,
) -> Result<(), rocksdb::Error> {
    rows.seek(from);
    while let Some((key, value)) = rows.item() {
        if visit(key, value) == Visit::Stop {
            return Ok(());
        }
        rows.next();
    }
    rows.status()
}
