//! An open directory: positions that stay true while the directory changes, `.` and `..`, and a bounded page read ahead.
//!
//! A position is 0 (the start), 1 (after `.`), 2 (after `..`), or the server's cookie + 2. Cookies belong to entries, not to
//! counts, so a scan neither skips nor repeats what was there all the time.
//!
//! A page that was read ahead is used only while nothing was changed through this mount, no longer than the kernel may
//! keep attributes, and only at the position where it begins: it never shows what a program cannot have seen.

use std::collections::VecDeque;
use std::time::Duration;

use caribou_client::proto::meta::v1::DirEntry;
use tokio::time::Instant;

/// Entries of the first page, and of the longest one: a scan that goes on gets longer ones.
pub(crate) const FIRST_PAGE: u32 = 64;
const LONGEST_PAGE: u32 = 1024;
/// Positions of `.` and `..`.
pub(crate) const AFTER_SELF: u64 = 1;
pub(crate) const AFTER_PARENT: u64 = 2;

/// The position after the entry with this cookie.
pub(crate) fn position(cookie: u64) -> u64 {
    cookie + AFTER_PARENT
}

/// The cookie after which the server goes on, for a position from [`AFTER_PARENT`] on.
pub(crate) fn cookie(position: u64) -> u64 {
    position.saturating_sub(AFTER_PARENT)
}

/// The scan of one handle.
#[derive(Debug)]
pub(crate) struct Scan {
    pub(crate) inode: u64,
    entries: VecDeque<DirEntry>,
    /// Where `entries` begins, and what it is worth.
    begins: u64,
    plus: bool,
    ends: bool,
    fetched: Instant,
    changes: u64,
    page: u32,
}

impl Scan {
    pub(crate) fn new(inode: u64) -> Self {
        Self {
            inode,
            entries: VecDeque::new(),
            begins: u64::MAX,
            plus: false,
            ends: false,
            fetched: Instant::now(),
            changes: 0,
            page: FIRST_PAGE,
        }
    }

    /// Whether the page may be served at this position.
    pub(crate) fn is_usable(&self, at: u64, plus: bool, changes: u64, keep: Duration) -> bool {
        self.begins == at
            && self.plus == plus
            && self.changes == changes
            && (!plus || self.fetched.elapsed() < keep)
            && (!self.entries.is_empty() || self.ends)
    }

    /// How many entries to ask for at this position.
    pub(crate) fn next_page(&mut self, at: u64) -> u32 {
        // Goes on where the last page ended: a long scan. Anything else starts short again.
        self.page =
            if self.begins == at && self.entries.is_empty() { (self.page * 2).min(LONGEST_PAGE) } else { FIRST_PAGE };
        self.page
    }

    pub(crate) fn fill(&mut self, at: u64, plus: bool, entries: Vec<DirEntry>, ends: bool, changes: u64) {
        self.entries = entries.into();
        self.begins = at;
        self.plus = plus;
        self.ends = ends;
        self.changes = changes;
        self.fetched = Instant::now();
    }

    pub(crate) fn peek(&self) -> Option<&DirEntry> {
        self.entries.front()
    }

    /// The first entry has been handed to the kernel.
    pub(crate) fn advance(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.begins = position(entry.cookie);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(cookies: std::ops::Range<u64>) -> Vec<DirEntry> {
        cookies.map(|cookie| DirEntry { cookie, ..DirEntry::default() }).collect()
    }

    const KEEP: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_page_is_used_where_it_begins_while_nothing_changes() {
        let mut scan = Scan::new(1);
        assert!(!scan.is_usable(AFTER_PARENT, true, 7, KEEP));
        assert_eq!(scan.next_page(AFTER_PARENT), FIRST_PAGE);
        scan.fill(AFTER_PARENT, true, entries(5..8), false, 7);
        assert!(scan.is_usable(AFTER_PARENT, true, 7, KEEP));
        scan.advance();
        assert!(scan.is_usable(position(5), true, 7, KEEP));
        assert!(!scan.is_usable(AFTER_PARENT, true, 7, KEEP), "a seek back asks again");
        assert!(!scan.is_usable(position(5), false, 7, KEEP), "without attributes is another question");
        assert!(!scan.is_usable(position(5), true, 8, KEEP), "something was changed");
        tokio::time::advance(KEEP).await;
        assert!(!scan.is_usable(position(5), true, 7, KEEP), "the attributes are too old");
    }

    #[tokio::test(start_paused = true)]
    async fn long_scans_get_longer_pages_and_end() {
        let mut scan = Scan::new(1);
        scan.next_page(AFTER_PARENT);
        scan.fill(AFTER_PARENT, false, entries(1..65), false, 0);
        for _ in 1..65 {
            scan.advance();
        }
        let at = position(64);
        assert_eq!((scan.next_page(at), cookie(at)), (128, 64));
        scan.fill(at, false, Vec::new(), true, 0);
        assert!(scan.is_usable(at, false, 0, Duration::ZERO), "the end is known");
        assert_eq!(scan.next_page(AFTER_PARENT), FIRST_PAGE, "a seek starts short again");
    }
}
