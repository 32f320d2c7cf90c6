//! Listing a directory: fetch a page from the server if none is at hand, then hand out of it what the kernel's buffer takes.

use std::sync::Arc;

use bytes::Bytes;
use caribou_client::Error;
use caribou_client::meta::{MetaClient, QueryOp};
use caribou_client::proto::meta::v1::{Attr, Caller, DirEntry, FileKind, GetAttr, ReadDir};
use tokio::sync::OwnedMutexGuard;

use crate::dir::{self, AFTER_PARENT, AFTER_SELF, Scan};
use crate::fs::Fs;

/// How often attributes are asked for again because files were closed meanwhile.
const MAX_ASKS: u32 = 3;
/// Access of an open directory: reads.
const READ: u32 = 4;

/// An open directory. It is claimed (S7), so that it keeps its attributes until it is closed, as a file does, when it is removed meanwhile.
pub(crate) struct OpenDirectory {
    scan: Scan,
    /// Where its claim is to be released; none if it had been removed before.
    claimed_at: Option<MetaClient>,
}

impl Drop for OpenDirectory {
    fn drop(&mut self) {
        if let Some(meta) = &self.claimed_at {
            meta.release_claim(self.scan.inode);
        }
    }
}

/// A page, ready to be handed out from `at` on.
pub(crate) struct Page {
    fs: Arc<Fs>,
    directory: OwnedMutexGuard<OpenDirectory>,
    at: u64,
}

impl Page {
    /// Hands entries to `take(position, entry)` until it answers `false` (the buffer is full: that entry was not taken) or the
    /// page ends. The kernel comes back for more until it is given nothing.
    pub(crate) fn hand_out(mut self, mut take: impl FnMut(u64, &DirEntry) -> bool) {
        let scan = &mut self.directory.scan;
        for (position, name) in [(AFTER_SELF, "."), (AFTER_PARENT, "..")] {
            if self.at < position && !take(position, &dots(name, scan.inode)) {
                return;
            }
        }
        while let Some(entry) = scan.peek() {
            let mut entry = entry.clone();
            entry.attr = entry.attr.map(|attr| self.fs.overlaid(attr));
            if !take(dir::position(entry.cookie), &entry) {
                return;
            }
            scan.advance();
        }
    }
}

impl Fs {
    pub(crate) async fn open_directory(&self, caller: Caller, inode: u64) -> Result<u64, Error> {
        let meta = self.client.meta();
        let claimed_at = match meta.open_claim(&caller, inode, READ).await {
            Ok(_) => Some(meta.clone()),
            // A removed working directory can be opened, and lists nothing.
            Err(Error::Errno(libc::ESTALE)) => None,
            Err(error) => return Err(error),
        };
        Ok(self.dirs.insert(tokio::sync::Mutex::new(OpenDirectory { scan: Scan::new(inode), claimed_at })))
    }

    pub(crate) fn release_directory(&self, number: u64) {
        self.dirs.remove(number);
    }

    /// The entries of an open directory from a position on; with attributes if `plus`.
    pub(crate) async fn page(self: Arc<Self>, caller: Caller, number: u64, at: u64, plus: bool) -> Result<Page, Error> {
        let directory = self.dirs.get(number).ok_or(Error::Errno(libc::EBADF))?;
        let mut directory = directory.lock_owned().await;
        let scan = &mut directory.scan;
        let begins = at.max(AFTER_PARENT);
        let (changes, mut closed) = (self.changes(), self.closed.count());
        if !scan.is_usable(begins, plus, changes, self.keep) {
            let op = ReadDir { inode: scan.inode, cookie: dir::cookie(begins), limit: scan.next_page(begins), plus };
            let body = self.client.meta().query(&caller, QueryOp::ReadDir(op)).await?;
            let ends = body.end_of_directory || body.entries.is_empty();
            let mut entries = body.entries;
            if plus {
                self.complete(&caller, &mut entries).await?;
                // A length from before a close is none that this mount may show. What is closed again and again is asked for a few times only.
                for _ in 0..MAX_ASKS {
                    if !self.forget_closed(&mut entries, &mut closed) {
                        break;
                    }
                    self.complete(&caller, &mut entries).await?;
                }
                entries.iter().filter_map(|entry| entry.attr.as_ref()).for_each(|attr| self.directories.seen(attr));
            }
            scan.fill(begins, plus, entries, ends, changes);
        }
        Ok(Page { fs: self, directory, at })
    }

    /// Takes the attributes away from files that were closed since they were asked for; whether there are any.
    fn forget_closed(&self, entries: &mut [DirEntry], closed: &mut u64) -> bool {
        let since = self.closed.since(std::mem::replace(closed, self.closed.count()));
        let is_old = |entry: &DirEntry| {
            entry.kind() == FileKind::Regular && since.as_ref().is_none_or(|inodes| inodes.contains(&entry.inode))
        };
        let mut any = false;
        for entry in entries.iter_mut().filter(|entry| entry.attr.is_some() && is_old(entry)) {
            (entry.attr, any) = (None, true);
        }
        any
    }

    /// Asks for attributes that the server left out; an entry whose inode has gone meanwhile stays without.
    async fn complete(&self, caller: &Caller, entries: &mut [DirEntry]) -> Result<(), Error> {
        for entry in entries.iter_mut().filter(|entry| entry.attr.is_none()) {
            match self.client.meta().query(caller, QueryOp::GetAttr(GetAttr { inode: entry.inode })).await {
                Ok(body) => entry.attr = body.attr,
                Err(Error::Errno(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// `.` and `..`: the kernel takes their attributes from what it knows. A directory's parent is not known here; the number that
/// is listed for `..` is the directory's own, and nothing but `ls -ia` shows it.
fn dots(name: &'static str, inode: u64) -> DirEntry {
    let kind = FileKind::Directory.into();
    let attr = Attr { inode, kind, mode: 0o755, nlink: 2, ..Attr::default() };
    DirEntry { name: Bytes::from_static(name.as_bytes()), cookie: 0, inode, kind, attr: Some(attr) }
}
