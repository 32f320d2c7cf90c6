//! `readdir` in bounded pages, by cookie.

use caribou_proto::ids::{Cookie, InodeId};

use crate::fsm::command::Kind;
use crate::fsm::error::{Errno, OpResult};
use crate::fsm::reply::Attr;
use crate::fsm::tables::{Tables, Visit, dentries, inodes};

/// Entries of one page at most, whatever is asked for.
pub const MAX_READDIR_ENTRIES: u32 = 4096;

/// One name of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    pub name: Vec<u8>,
    pub cookie: Cookie,
    pub inode: InodeId,
    pub kind: Kind,
    /// Only if attributes were asked for.
    pub attr: Option<Attr>,
}

/// Entries in the order of their cookies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<DirEntry>,
    /// Nothing comes after them.
    pub end: bool,
}

/// The entries after `cookie` (0: from the start), without `.` and `..`; `plus`: with attributes.
pub fn readdir(tables: &dyn Tables, directory: InodeId, cookie: Cookie, limit: u32, plus: bool) -> OpResult<Page> {
    if !inodes::named(tables, directory)?.is_dir() {
        return Err(Errno::NotDir.into());
    }
    let limit = limit.clamp(1, MAX_READDIR_ENTRIES) as usize;
    let mut page = Page { entries: Vec::new(), end: true };
    dentries::scan_after(tables, directory, cookie, &mut |name, dentry| {
        if page.entries.len() == limit {
            page.end = false;
            return Ok(Visit::Stop);
        }
        page.entries.push(DirEntry {
            name: name.to_vec(),
            cookie: dentry.cookie,
            inode: dentry.inode,
            kind: dentry.kind,
            attr: None,
        });
        Ok(Visit::Next)
    })?;
    if plus {
        for entry in &mut page.entries {
            entry.attr = Some(inodes::existing(tables, entry.inode)?.attr(entry.inode));
        }
    }
    Ok(page)
}
