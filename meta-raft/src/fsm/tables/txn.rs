//! The overlay that operations write to: a batch of entries over a back end, with one layer more for the command at work.
//!
//! A command's writes are kept apart until it has succeeded, so that an error leaves nothing behind (STYLE 7). The state hash is fed
//! when they are kept, in key order, so that how entries are grouped into batches shows nowhere.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Table, Tables, Visit};
use crate::fsm::error::Fatal;

/// The rows of one table that are put (`Some`) or deleted (`None`).
type Rows = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Up to this many rows of one command are looked through one by one.
const FEW_ROWS: usize = 24;

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
        let rows = self.table(table).range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        let rows = rows.map(|(key, value)| (key.as_slice(), value.as_deref()));
        (Box::new(rows) as Box<dyn Iterator<Item = RowRef<'_>>>).peekable()
    }
}

/// A row of a layer: put (`Some`) or deleted (`None`).
type RowRef<'a> = (&'a [u8], Option<&'a [u8]>);
/// One layer's rows from some key on.
type Layer<'a> = std::iter::Peekable<Box<dyn Iterator<Item = RowRef<'a>> + 'a>>;

/// The rows of the command at work. Most commands write a handful: those are a plain list, and only more become ordered maps.
#[derive(Default)]
struct Pending {
    few: Vec<(Table, Vec<u8>, Option<Vec<u8>>)>,
    many: Option<Box<Changes>>,
}

impl Pending {
    fn insert(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        if let Some(many) = &mut self.many {
            many.table_mut(table).insert(key, value);
        } else if let Some(row) = self.few.iter_mut().find(|row| row.0 == table && row.1 == key) {
            row.2 = value;
        } else if self.few.len() < FEW_ROWS {
            self.few.push((table, key, value));
        } else {
            let mut many = Box::<Changes>::default();
            for (table, key, value) in self.few.drain(..).chain([(table, key, value)]) {
                many.table_mut(table).insert(key, value);
            }
            self.many = Some(many);
        }
    }

    fn get(&self, table: Table, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        match &self.many {
            Some(many) => many.table(table).get(key),
            None => self.few.iter().find(|row| row.0 == table && row.1 == key).map(|row| &row.2),
        }
    }

    /// Takes all rows, in the order of tables and keys.
    fn drain(&mut self, mut take: impl FnMut(Table, Vec<u8>, Option<Vec<u8>>)) {
        if let Some(many) = self.many.take() {
            many.into_rows().for_each(|((table, key), value)| take(table, key, value));
        } else {
            self.few.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
            self.few.drain(..).for_each(|(table, key, value)| take(table, key, value));
        }
    }

    fn clear(&mut self) {
        self.few.clear();
        self.many = None;
    }

    fn is_empty(&self) -> bool {
        self.few.is_empty() && self.many.is_none()
    }

    fn range(&self, table: Table, from: &[u8]) -> Layer<'_> {
        if let Some(many) = &self.many {
            return many.range(table, from);
        }
        let here = self.few.iter().filter(|row| row.0 == table && row.1.as_slice() >= from);
        let mut rows: Vec<RowRef<'_>> = here.map(|row| (row.1.as_slice(), row.2.as_deref())).collect();
        rows.sort_unstable();
        (Box::new(rows.into_iter()) as Box<dyn Iterator<Item = RowRef<'_>>>).peekable()
    }
}

/// A view of the tables that sees its own writes.
pub struct Txn<'a> {
    base: &'a dyn Tables,
    kept: Changes,
    pending: Pending,
}

impl<'a> Txn<'a> {
    pub fn new(base: &'a dyn Tables) -> Self {
        Self { base, kept: Changes::default(), pending: Pending::default() }
    }

    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.write(table, key.into(), Some(value.into()));
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.write(table, key.into(), None);
    }

    fn write(&mut self, table: Table, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.pending.insert(table, key, value);
    }

    /// Keeps the command's writes; `feed` sees each, in the order of tables and keys (for the state hash).
    pub fn keep(&mut self, mut feed: impl FnMut(Table, &[u8], Option<&[u8]>)) {
        let kept = &mut self.kept;
        self.pending.drain(|table, key, value| {
            feed(table, &key, value.as_deref());
            kept.table_mut(table).insert(key, value);
        });
    }

    /// Drops the command's writes.
    pub fn discard(&mut self) {
        self.pending.clear();
    }

    /// The batch's changes; the command at work must have been kept or discarded.
    pub fn finish(self) -> Changes {
        assert!(self.pending.is_empty(), "a command was neither kept nor discarded");
        self.kept
    }

    fn overlay_get(&self, table: Table, key: &[u8]) -> Option<&Option<Vec<u8>>> {
        self.pending.get(table, key).or_else(|| self.kept.table(table).get(key))
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
        let upper = self.upper.peek().map(|(key, _)| *key);
        let lower = self.lower.peek().map(|(key, _)| *key);
        let first = match (upper, lower) {
            (Some(u), Some(l)) => u.min(l),
            (u, l) => u.or(l)?,
        };
        if bound.is_some_and(|bound| first > bound) {
            return None;
        }
        let below = if lower == Some(first) { self.lower.next() } else { None };
        if upper == Some(first) { self.upper.next() } else { below }
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
