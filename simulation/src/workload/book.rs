//! What must be in a directory that one client changes: everybody can look it up, also after that client's end, when one change may or may
//! not have been made.

use std::collections::BTreeMap;

use caribou_client::meta::QueryOp;
use caribou_client::{Error, MetaClient};
use caribou_proto::meta::v1::{FileKind, ReadDir};
use parking_lot::Mutex;

use super::caller;
use crate::findings::Findings;

/// Entries of one page of a listing.
const PAGE: u32 = 10;

/// What a name stands for. The inode of what is just being made is not known: `None`, which is equal to any.
#[derive(Clone, Copy, Debug, Eq)]
pub struct Entry {
    pub inode: Option<u64>,
    pub is_directory: bool,
}

impl Entry {
    /// The inode, 0 if it is not known.
    pub fn number(self) -> u64 {
        self.inode.unwrap_or(0)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        let is_open = self.inode.is_none() || other.inode.is_none();
        self.is_directory == other.is_directory && (is_open || self.inode == other.inode)
    }
}

pub type Entries = BTreeMap<String, Entry>;

#[derive(Debug, Default)]
struct State {
    entries: Entries,
    /// As it will be if the change that is under way is made.
    pending: Option<Entries>,
}

/// See the module.
#[derive(Debug)]
pub struct Book {
    pub label: String,
    pub directory: u64,
    state: Mutex<State>,
}

impl Book {
    pub fn new(label: &str, directory: u64) -> Self {
        Self { label: label.to_owned(), directory, state: Mutex::default() }
    }

    pub fn entries(&self) -> Entries {
        self.state.lock().entries.clone()
    }

    /// A change is on its way.
    pub fn begin(&self, change: impl FnOnce(&mut Entries)) {
        let mut state = self.state.lock();
        let mut after = state.entries.clone();
        change(&mut after);
        state.pending = Some(after);
    }

    /// It has been answered; what it is from now on.
    pub fn settle(&self, change: impl FnOnce(&mut Entries)) {
        let mut state = self.state.lock();
        change(&mut state.entries);
        state.pending = None;
    }

    /// The whole directory must be what the book has (P4).
    ///
    /// # Errors
    /// When the client that looks is gone.
    pub async fn check(&self, meta: &MetaClient, findings: &Findings) -> Result<(), Error> {
        let (mut cookie, mut listed) = (0, Vec::new());
        loop {
            let page = ReadDir { inode: self.directory, cookie, limit: PAGE, plus: false };
            let body = meta.query(&caller(), QueryOp::ReadDir(page)).await?;
            cookie = body.entries.last().map_or(cookie, |entry| entry.cookie);
            listed.extend(body.entries.into_iter().map(|entry| {
                let is_directory = entry.kind() == FileKind::Directory;
                let name = String::from_utf8_lossy(&entry.name).into_owned();
                (name, Entry { inode: Some(entry.inode), is_directory })
            }));
            if body.end_of_directory {
                break;
            }
        }
        let count = listed.len();
        let found: Entries = listed.into_iter().collect();
        let label = &self.label;
        findings.check(found.len() == count, || {
            format!("exactly once: a listing of {label} has {count} entries of {} names: {found:?}", found.len())
        });
        let state = self.state.lock();
        let is_right = found == state.entries || state.pending.as_ref().is_some_and(|pending| found == *pending);
        findings.check(is_right, || format!("exactly once: {label} has {found:?}, it must have {state:?}"));
        Ok(())
    }
}
