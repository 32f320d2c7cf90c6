//! Attributes of directories as replies to changes in them brought them along.
//!
//! After each change in a directory the kernel forgets the directory's attributes and asks for them before the next one. Replies name
//! them, so that the question needs no call. What is kept counts as long as what the kernel keeps itself (`attr_timeout`), from the
//! moment it came; with a time-out of zero nothing is kept.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use caribou_client::proto::meta::v1::{Attr, FileKind};
use parking_lot::Mutex;

/// Directories kept at once; when more change within the time-out, all are asked for again.
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
}

/// When a call began, as far as forgetting is concerned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Began(u64);

impl Directories {
    pub(crate) fn new(keep: Duration) -> Self {
        Self { keep, known: Mutex::default() }
    }

    /// Take before a call whose reply may bring attributes.
    pub(crate) fn began(&self) -> Began {
        Began(self.known.lock().forgotten)
    }

    /// Attributes that came with the reply to such a call. Replies may overtake each other: the newer ones count, by their ctime.
    pub(crate) fn learn(&self, began: Began, attrs: impl IntoIterator<Item = Attr>) {
        if self.keep.is_zero() {
            return;
        }
        let (mut known, now) = (self.known.lock(), Instant::now());
        if known.forgotten != began.0 {
            return;
        }
        for attr in attrs.into_iter().filter(|attr| attr.kind() == FileKind::Directory) {
            if known.attrs.get(&attr.inode).is_some_and(|(_, have)| have.ctime_ns > attr.ctime_ns) {
                continue;
            }
            if known.attrs.len() >= MAX_DIRECTORIES {
                known.attrs.clear();
            }
            known.attrs.insert(attr.inode, (now, attr));
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

    /// They have changed in a way that no reply tells, or may have. Call before and after the change.
    pub(crate) fn forget(&self, inode: u64) {
        let mut known = self.known.lock();
        known.forgotten += 1;
        known.attrs.remove(&inode);
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

    #[test]
    fn the_newest_counts_in_whatever_order_replies_come() {
        let directories = Directories::new(Duration::from_secs(3600));
        let began = directories.began();
        directories.learn(began, [directory(2, 20)]);
        directories.learn(began, [directory(2, 10), directory(3, 5)]);
        assert_eq!((ctime(&directories, 2), ctime(&directories, 3), ctime(&directories, 4)), (Some(20), Some(5), None));
        directories.learn(began, [Attr { kind: FileKind::Regular.into(), ..directory(4, 1) }]);
        assert_eq!(ctime(&directories, 4), None, "files have bytes that only this client knows of");
    }

    #[test]
    fn what_was_on_its_way_when_it_was_forgotten_does_not_count() {
        let directories = Directories::new(Duration::from_secs(3600));
        let before = directories.began();
        directories.learn(before, [directory(2, 10)]);
        directories.forget(2);
        directories.learn(before, [directory(2, 10)]);
        assert_eq!(ctime(&directories, 2), None);
        directories.learn(directories.began(), [directory(2, 11)]);
        assert_eq!(ctime(&directories, 2), Some(11));
    }

    #[test]
    fn it_counts_as_long_as_the_kernel_would_keep_it() {
        let directories = Directories::new(Duration::ZERO);
        directories.learn(directories.began(), [directory(2, 10)]);
        assert_eq!(ctime(&directories, 2), None);
        let directories = Directories::new(Duration::from_millis(1));
        directories.learn(directories.began(), [directory(2, 10)]);
        std::thread::sleep(Duration::from_millis(2));
        assert_eq!(ctime(&directories, 2), None);
        let directories = Directories::new(Duration::from_secs(3600));
        directories.learn(directories.began(), [directory(2, 10)]);
        assert!(directories.get(2).is_some_and(|(_, left)| left <= Duration::from_secs(3600)));
    }
}
