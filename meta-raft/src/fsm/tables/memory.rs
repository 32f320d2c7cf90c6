//! Tables in memory: for unit tests, models and simulations. The same order and the same answers as the RocksDB back end.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{Changes, Table, Tables, Visit};
use crate::fsm::error::Fatal;

/// All tables as ordered maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTables {
    tables: [BTreeMap<Vec<u8>, Vec<u8>>; Table::COUNT],
}

impl MemoryTables {
    /// Takes a batch's changes, all at once.
    pub fn commit(&mut self, changes: Changes) {
        for ((table, key), value) in changes.into_rows() {
            let rows = &mut self.tables[table as usize - 1];
            match value {
                Some(value) => rows.insert(key, value),
                None => rows.remove(&key),
            };
        }
    }

    /// All rows, in the order of tables and keys: what a snapshot holds.
    pub fn rows(&self) -> impl Iterator<Item = (Table, &[u8], &[u8])> {
        let tables = Table::ALL.into_iter().zip(&self.tables);
        tables.flat_map(|(table, rows)| rows.iter().map(move |(key, value)| (table, key.as_slice(), value.as_slice())))
    }
}

impl FromIterator<(Table, Vec<u8>, Vec<u8>)> for MemoryTables {
    fn from_iter<I: IntoIterator<Item = (Table, Vec<u8>, Vec<u8>)>>(rows: I) -> Self {
        let mut tables = Self::default();
        for (table, key, value) in rows {
            tables.tables[table as usize - 1].insert(key, value);
        }
        tables
    }
}

impl Tables for MemoryTables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal> {
        Ok(self.tables[table as usize - 1].get(key).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Fatal> {
        for (key, value) in self.tables[table as usize - 1].range::<[u8], _>((Bound::Included(from), Bound::Unbounded))
        {
            if visit(key, value) == Visit::Stop {
                break;
            }
        }
        Ok(())
    }
}
