//! The overlay that operations write to: a batch of entries over a back end, with one layer more for the command at work.
//!
//! A command's writes are kept apart until it has succeeded, so that an error leaves nothing behind (STYLE 7). The state hash is fed
//! when they are kept, in key order, so that how entries are grouped into batches shows nowhere.

use std::collections::BTreeMap;
use std::collections::btree_map::Range;
use std::ops::Bound;

use super::{Table, Tables, Visit};
use crate::fsm::error::Fatal;

/// The rows of one table that are put (`Some`) or deleted (`None`).
type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Rows that a batch puts (`Some`) or deletes (`None`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    tables: [Rows; Table::COUNT],
}

impl Changes {
    /// In the order of tables and keys.
    pub fn into_rows(self) -> impl Iterator<Item = ((Table, Vec<u8>), Option<Vec<u8>>)> {
        Table::ALL
            .into_iter()
            .zip(self.tables)
            .flat_map(|(table, rows)| rows.into_iter().map(move |(key, value)| ((table, key), value)))
    }

    /// In the order of tables and keys.
    pub fn rows(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        Table::ALL.into_iter().flat_map(|table| {
            self.table(table).iter().map(move |(key, value)| (table, key.as_slice(), value.as_deref()))
        })
    }

    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(BTreeMap::is_empty)
    }

    fn table(&self, table: Table) -> &Rows {
        &self.tables[table as usize - 1]
    }

    fn table_mut(&mut self, table: Table) -> &mut Rows {
        &mut self.tables[table as usize - 1]
    }

    fn range(&self, table: Table, from: &[u8]) -> Layer<'_> {
        self.table(table).range::<[u8], _>((Bound::Included(from), Bound::Unbounded)).peekable()
    }
}

/// One layer's rows from some key on.
type Layer<'a> = std::iter::Peekable<Range<'a, Vec<u8>, Option<Vec<u8>>>>;

/// A view of the tables that sees its own writes.
pub struct Txn<'a> {
    base: &'a dyn Tables,
    kept: Changes,
    pending: Changes,
    /// Tables that the command at work has written to, one bit each.
    touched: u32,
}

const _: () = assert!(Table::COUNT <= 32, "`touched` has a bit for each table");

impl<'a> Txn<'a> {
    pub fn new(base: &'a dyn Tables) -> Self {
        Self { base, kept: Changes::default(), pending: Changes::default(), touched: 0 }
    }

    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.write(table, key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.write(table, key.into(), None);
    }

    fn write(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.touched |= 1 << (table as u32 - 1);
        self.pending.table_mut(table).insert(key, value);
    }

    /// Keeps the command's writes; `feed` sees each, in the order of tables and keys (for the state hash).
    pub fn keep(&mut self, mut feed: impl FnMut(Table, &[u8], Option<&[u8]>)) {
        for table in self.take_touched() {
            for (key, value) in std::mem::take(self.pending.table_mut(table)) {
                feed(table, &key, value.as_deref());
                self.kept.table_mut(table).insert(key, value);
            }
        }
    }

    /// Drops the command's writes.
    pub fn discard(&mut self) {
        for table in self.take_touched() {
            self.pending.table_mut(table).clear();
        }
    }

    fn take_touched(&mut self) -> impl Iterator<Item = Table> + use<> {
        let touched = std::mem::take(&mut self.touched);
        Table::ALL.into_iter().filter(move |table| touched & (1 << (*table as u32 - 1)) != 0)
    }

    /// The batch's changes; the command at work must have been kept or discarded.
    pub fn finish(self) -> Changes {
        assert!(self.pending.is_empty(), "a command was neither kept nor discarded");
        self.kept
    }

    fn overlay_get(&self, table: Table, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.pending.table(table).get(key).or_else(|| self.kept.table(table).get(key))
    }
}

/// Two layers as one: the upper one's row wins where both have one.
struct Overlay<'a> {
    upper: Layer<'a>,
    lower: Layer<'a>,
}

impl<'a> Overlay<'a> {
    /// The next row, if its key is below `bound` or equal to it (`None`: no bound).
    fn next_up_to(&mut self, bound: Option<&[u8]>) -> Option<(&'a [u8], Option<&'a [u8]>)> {
        let upper = self.upper.peek().map(|(key, _)| key.as_slice());
        let lower = self.lower.peek().map(|(key, _)| key.as_slice());
        let first = match (upper, lower) {
            (Some(u), Some(l)) => u.min(l),
            (u, l) => u.or(l)?,
        };
        if bound.is_some_and(|bound| first > bound) {
            return None;
        }
        let below = if lower == Some(first) { self.lower.next() } else { None };
        let (key, value) = if upper == Some(first) { self.upper.next() } else { below }?;
        Some((key, value.as_deref()))
    }
}

impl Tables for Txn<'_> {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        match self.overlay_get(table, key) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(table, key),
        }
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Fatal> {
        let mut overlay = Overlay { upper: self.pending.range(table, from), lower: self.kept.range(table, from) };
        let mut stopped = false;
        self.base.scan(table, from, &mut |key, value| {
            // Overlay rows before this one, then the row itself unless the overlay replaces it.
            while let Some((k, v)) = overlay.next_up_to(Some(key)) {
                stopped = v.is_some_and(|v| visit(k, v) == Visit::Stop);
                if stopped {
                    return Visit::Stop;
                }
                if k == key {
                    return Visit::Next;
                }
            }
            let step = visit(key, value);
            stopped = step == Visit::Stop;
            step
        })?;
        while !stopped && let Some((k, v)) = overlay.next_up_to(None) {
            stopped = v.is_some_and(|v| visit(k, v) == Visit::Stop);
        }
        Ok(())
    }
}
