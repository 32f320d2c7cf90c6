//! `Classes`: storage classes. Key: class number. Now there is one, made at `InitCluster`.

use super::codec::{Reader, Writer};
use super::{Table, Tables, Txn};
use crate::fsm::error::Fatal;

/// The class of every file until classes can be chosen.
pub const DEFAULT_CLASS: u32 = 0;
/// Copies when nothing else is said.
pub const DEFAULT_GOAL: u8 = 2;
/// Most copies of a chunk.
pub const MAX_GOAL: u8 = 9;

/// How a class keeps its chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Class {
    /// Copies, 1 to [`MAX_GOAL`].
    pub goal: u8,
}

impl Class {
    /// V6: the smallest Ready set.
    pub fn minimum(self) -> usize {
        usize::from(self.goal.div_ceil(2))
    }

    pub fn goal(self) -> usize {
        usize::from(self.goal)
    }
}

pub fn get(tables: &dyn Tables, class: u32) -> Result<Class, Fatal> {
    let row = tables
        .get(Table::Classes, &class.to_be_bytes())?
        .ok_or_else(|| Fatal(format!("storage class {class} does not exist")))?;
    let mut reader = Reader::row(Table::Classes, &row)?;
    let goal = reader.u8()?;
    reader.end()?;
    Ok(Class { goal })
}

/// `goal` is brought into 1–9; 0 means [`DEFAULT_GOAL`].
pub(crate) fn put_default(txn: &mut Txn<'_>, goal: u8) {
    let goal = if goal == 0 { DEFAULT_GOAL } else { goal.min(MAX_GOAL) };
    txn.put(Table::Classes, DEFAULT_CLASS.to_be_bytes(), Writer::row().u8(goal).finish());
}
