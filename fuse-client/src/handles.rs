//! Numbers for the kernel, and what they stand for: open files and open directories.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use caribou_client::OpenFile;
use parking_lot::Mutex;

/// An open file as the kernel knows it.
pub(crate) struct FileHandle {
    pub(crate) file: Arc<OpenFile>,
    /// Opened for writing: a close has something to report.
    pub(crate) writes: bool,
    /// The file had a set-user-id or set-group-id bit when this mount last saw its mode: a write by a user takes it away.
    pub(crate) set_id: AtomicBool,
}

/// A table of handles. Numbers are never used twice.
pub(crate) struct Handles<T> {
    table: Mutex<HashMap<u64, Arc<T>>>,
    next: AtomicU64,
}

impl<T> Default for Handles<T> {
    fn default() -> Self {
        Self { table: Mutex::default(), next: AtomicU64::new(1) }
    }
}

impl<T> Handles<T> {
    pub(crate) fn insert(&self, value: T) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.table.lock().insert(number, Arc::new(value));
        number
    }

    pub(crate) fn get(&self, number: u64) -> Option<Arc<T>> {
        self.table.lock().get(&number).cloned()
    }

    pub(crate) fn remove(&self, number: u64) -> Option<Arc<T>> {
        self.table.lock().remove(&number)
    }

    pub(crate) fn for_each(&self, mut visit: impl FnMut(&T)) {
        self.table.lock().values().for_each(|value| visit(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_never_used_twice() {
        let handles = Handles::default();
        let first = handles.insert("a");
        assert_eq!(handles.remove(first).as_deref(), Some(&"a"));
        let second = handles.insert("b");
        assert_ne!(first, second);
        assert!(handles.get(first).is_none() && handles.get(second).is_some());
    }
}
