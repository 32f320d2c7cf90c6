//! Attributes of directories as replies to changes in them brought them along.
//!
//! After each change in a directory the kernel forgets the directory's attributes and asks for them before the next one. Replies name
//! them, so that the question needs no call. What is kept counts as long as what the kernel keeps itself (`attr_timeout`), from the
//! moment it came; with a time-out of zero nothing is kept.
//!
//! A directory that is moved, replaced or removed changes too. Replies name those, so that only they are forgotten: many threads that each
//! rename in a folder of their own must not make each other ask.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use caribou_client::proto::meta::v1::{Attr, FileKind};
use parking_lot::Mutex;

/// Directories kept at once, and as many that were forgotten; when more change within the time-out, all are asked for again.
const MAX_DIRECTORIES: usize = 4096;

#[derive(Debug)]
pub(crate) struct Directories {
    keep: Duration,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    attrs: HashMap<u64, (Instant, Attr)>,
    /// Counts what was forgotten: attributes that were on their way then may be the old ones.
    forgotten: u64,
    /// The count when all were forgotten last, and when single ones were since.
    all_forgotten: u64,
    each_forgotten: HashMap<u64, u64>,
}

/// A call under way whose reply may bring attributes. If it is given up its outcome is unknown (S5), and all is forgotten.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    directories: &'a Directories,
    began: Instant,
    forgotten: u64,
    is_over: bool,
}

impl Call<'_> {
    /// It was answered, with the attributes of directories after it.
    pub(crate) fn answered(self, attrs: &[Attr]) {
        self.changed_others(attrs, Some(&[]));
    }

    /// The same, and it has changed others too, whose attributes are not told; `None`: nobody knows which.
    pub(crate) fn changed_others(mut self, attrs: &[Attr], others: Option<&[u64]>) {
        self.is_over = true;
        let mut known = self.directories.known.lock();
        let current: Vec<&Attr> = attrs.iter().filter(|attr| !known.is_outdated(attr.inode, self.forgotten)).collect();
        match others {
            Some(others) => others.iter().for_each(|inode| known.forget(*inode)),
            None => known.forget_all(),
        }
        if !self.directories.keep.is_zero() {
            current.into_iter().for_each(|attr| known.learn(self.began, attr));
        }
    }

    /// It was refused: nothing has changed.
    pub(crate) fn refused(mut self) {
        self.is_over = true;
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.is_over {
            self.directories.known.lock().forget_all();
        }
    }
}

impl Known {
    fn forget_all(&mut self) {
        self.attrs.clear();
        self.each_forgotten.clear();
        self.forgotten += 1;
        self.all_forgotten = self.forgotten;
    }

    fn forget(&mut self, inode: u64) {
        if self.each_forgotten.len() >= MAX_DIRECTORIES {
            return self.forget_all();
        }
        self.attrs.remove(&inode);
        self.forgotten += 1;
        self.each_forgotten.insert(inode, self.forgotten);
    }

    /// Whether attributes that a call brought which began at this count may be the old ones.
    fn is_outdated(&self, inode: u64, began: u64) -> bool {
        began < self.all_forgotten || self.each_forgotten.get(&inode).is_some_and(|forgotten| began < *forgotten)
    }

    /// Replies may overtake each other: the newer attributes count, by their ctime.
    fn learn(&mut self, came: Instant, attr: &Attr) {
        let is_newer = self.attrs.get(&attr.inode).is_none_or(|(_, have)| have.ctime_ns <= attr.ctime_ns);
        if attr.kind() == FileKind::Directory && is_newer {
            if self.attrs.len() >= MAX_DIRECTORIES {
                self.forget_all();
            }
            self.attrs.insert(attr.inode, (came, *attr));
        }
    }
}

impl Directories {
    pub(crate) fn new(keep: Duration) -> Self {
        Self { keep, known: Mutex::default() }
    }

    /// A call begins whose reply may bring attributes.
    pub(crate) fn call(&self) -> Call<'_> {
        Call { directories: self, began: Instant::now(), forgotten: self.known.lock().forgotten, is_over: false }
    }

    /// Attributes that came by another way, which the kernel has from now on: older ones must not be told any more.
    pub(crate) fn seen(&self, attr: &Attr) {
        if attr.kind() == FileKind::Directory {
            let mut known = self.known.lock();
            if known.attrs.get(&attr.inode).is_some_and(|(_, have)| have.ctime_ns < attr.ctime_ns) {
                known.attrs.remove(&attr.inode);
            }
        }
    }

    /// The attributes, and how long they still count.
    pub(crate) fn get(&self, inode: u64) -> Option<(Attr, Duration)> {
        let mut known = self.known.lock();
        let (came, attr) = known.attrs.get(&inode)?;
        let left = self.keep.saturating_sub(came.elapsed());
        if left.is_zero() {
            known.attrs.remove(&inode);
            return None;
        }
        Some((*attr, left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(inode: u64, ctime_ns: i64) -> Attr {
        Attr { inode, kind: FileKind::Directory.into(), ctime_ns, ..Attr::default() }
    }

    fn ctime(directories: &Directories, inode: u64) -> Option<i64> {
        directories.get(inode).map(|(attr, _)| attr.ctime_ns)
    }

    fn hour() -> Directories {
        Directories::new(Duration::from_secs(3600))
    }

    #[test]
    fn the_newest_counts_in_whatever_order_replies_come() {
        let directories = hour();
        let (first, second) = (directories.call(), directories.call());
        second.answered(&[directory(2, 20)]);
        first.answered(&[directory(2, 10), directory(3, 5)]);
        assert_eq!((ctime(&directories, 2), ctime(&directories, 3), ctime(&directories, 4)), (Some(20), Some(5), None));
        directories.call().answered(&[Attr { kind: FileKind::Regular.into(), ..directory(4, 1) }]);
        assert_eq!(ctime(&directories, 4), None, "files have bytes that only this client knows of");
    }

    #[test]
    fn a_call_that_is_given_up_leaves_nothing() {
        let directories = hour();
        directories.call().answered(&[directory(2, 10)]);
        directories.call().refused();
        assert_eq!(ctime(&directories, 2), Some(10));
        let under_way = directories.call();
        drop(directories.call());
        assert_eq!(ctime(&directories, 2), None);
        under_way.answered(&[directory(2, 11)]);
        assert_eq!(ctime(&directories, 2), None, "it may be older than the change that was given up");
        directories.call().answered(&[directory(2, 12)]);
        assert_eq!(ctime(&directories, 2), Some(12));
    }

    #[test]
    fn a_call_may_change_directories_of_which_nothing_is_told() {
        let directories = hour();
        directories.call().answered(&[directory(2, 10), directory(7, 3)]);
        let under_way = directories.call();
        directories.call().changed_others(&[directory(2, 20)], None);
        assert_eq!((ctime(&directories, 2), ctime(&directories, 7)), (Some(20), None));
        under_way.answered(&[directory(7, 3)]);
        assert_eq!(ctime(&directories, 7), None);
    }

    #[test]
    fn only_those_are_forgotten_that_a_call_has_changed() {
        let directories = hour();
        directories.call().answered(&[directory(2, 10), directory(7, 3), directory(8, 4)]);
        let under_way = directories.call();
        directories.call().changed_others(&[directory(2, 20)], Some(&[7]));
        let known = [2, 7, 8].map(|inode| ctime(&directories, inode));
        assert_eq!(known, [Some(20), None, Some(4)]);
        under_way.answered(&[directory(7, 3), directory(8, 5)]);
        assert_eq!((ctime(&directories, 7), ctime(&directories, 8)), (None, Some(5)), "7 may be from before");
        directories.call().answered(&[directory(7, 6)]);
        assert_eq!(ctime(&directories, 7), Some(6));
        for inode in 0..=MAX_DIRECTORIES as u64 {
            directories.call().changed_others(&[], Some(&[100 + inode]));
        }
        assert_eq!(ctime(&directories, 8), None, "too many to remember");
    }

    #[test]
    fn what_the_kernel_saw_is_never_followed_by_something_older() {
        let directories = hour();
        directories.call().answered(&[directory(2, 10)]);
        directories.seen(&directory(2, 10));
        assert_eq!(ctime(&directories, 2), Some(10));
        directories.seen(&directory(2, 11));
        assert_eq!(ctime(&directories, 2), None);
    }

    #[test]
    fn it_counts_as_long_as_the_kernel_would_keep_it() {
        let directories = Directories::new(Duration::ZERO);
        directories.call().answered(&[directory(2, 10)]);
        assert_eq!(ctime(&directories, 2), None);
        // From the beginning of the call: it may have gone on long after the attributes were read.
        let directories = Directories::new(Duration::from_millis(5));
        let call = directories.call();
        std::thread::sleep(Duration::from_millis(10));
        call.answered(&[directory(2, 10)]);
        assert_eq!(ctime(&directories, 2), None);
        let directories = hour();
        directories.call().answered(&[directory(2, 10)]);
        assert!(directories.get(2).is_some_and(|(_, left)| left <= Duration::from_secs(3600)));
    }
}
