//! Files that were written and closed lately: attributes that were asked for before are those from before what was written, and nobody lays
//! that over them any more.

use std::collections::VecDeque;

use parking_lot::Mutex;

/// So many are remembered: more than are closed while a directory is read.
const MOST: usize = 4096;

#[derive(Debug, Default)]
struct Inner {
    count: u64,
    /// The last ones, oldest first.
    recent: VecDeque<u64>,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Closed(Mutex<Inner>);

impl Closed {
    /// Just before the last trace of what was written through the handle goes.
    pub(crate) fn note(&self, inode: u64) {
        let mut inner = self.0.lock();
        inner.count += 1;
        if inner.recent.len() == MOST {
            inner.recent.pop_front();
        }
        inner.recent.push_back(inode);
    }

    /// How many there have been.
    pub(crate) fn count(&self) -> u64 {
        self.0.lock().count
    }

    /// Those that came after so many; `None` if they are too many to tell.
    pub(crate) fn since(&self, count: u64) -> Option<Vec<u64>> {
        let inner = self.0.lock();
        let new = usize::try_from(inner.count - count).ok().filter(|new| *new <= inner.recent.len())?;
        Some(inner.recent.iter().rev().take(new).copied().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_closed_since_is_told_unless_it_is_too_much() {
        let closed = Closed::default();
        closed.note(7);
        let count = closed.count();
        assert_eq!(closed.since(count), Some(vec![]));
        closed.note(8);
        closed.note(9);
        assert_eq!(closed.since(count), Some(vec![9, 8]));
        (0..MOST as u64).for_each(|inode| closed.note(inode));
        assert_eq!(closed.since(count), None);
        assert_eq!(closed.since(closed.count() - 1), Some(vec![MOST as u64 - 1]));
    }
}
