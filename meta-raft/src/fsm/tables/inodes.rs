//! `Inodes`: `inode → row`, one for everything that has attributes, orphans included.
//!
//! Owns the row's encoding, the totals that depend on it (`Inodes`, `Bytes`) and the conversion to [`Attr`]. An inode without links
//! has a row of `Orphans` too, until it is purged. Directories have one name, so their parent is found in their row.

use caribou_proto::ids::{Cookie, InodeId, ROOT_INODE};

use super::codec::{Reader, Writer, key1};
pub use super::file_chunks::MAX_FILE_BYTES;
use super::links::Link;
use super::meta::{self, Counter};
use super::{Table, Tables, Txn, classes};
use crate::fsm::command::Kind;
use crate::fsm::error::{Errno, Fatal, OpResult};
use crate::fsm::reply::Attr;

/// Links that an inode may have, and subdirectories that a directory may have.
pub const MAX_LINKS: u32 = i32::MAX as u32;
/// What a directory's size is said to be.
const DIRECTORY_BYTES: u64 = 4096;

/// One inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    pub kind: Kind,
    /// Permission bits with setuid, setgid, sticky.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub nlink: u32,
    pub rdev: u32,
    /// Committed length of a regular file, length of a symlink's target; set it with [`set_size`].
    pub size: u64,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    /// Changes with every change of content that the metadata knows of.
    pub data_generation: u64,
    /// Storage class of new chunks; a new inode inherits it from its parent.
    pub class: u32,
    /// The last cookie given to an entry of this directory.
    pub last_cookie: u64,
    /// Entries of this directory.
    pub entries: u64,
    /// Extended attributes, and the sum of the lengths of their names and values.
    pub xattrs: u32,
    pub xattr_bytes: u32,
    /// Its first name; only `links.rs` changes it.
    pub link: Option<Link>,
}

impl Kind {
    /// The inverse of `kind as u8`.
    pub fn from_number(number: u8) -> Option<Self> {
        use Kind::*;
        [Regular, Directory, Symlink, Fifo, Socket, CharDevice, BlockDevice].into_iter().find(|k| *k as u8 == number)
    }
}

impl Inode {
    /// A new inode without links; all times are `time_ns`.
    pub(crate) fn new(kind: Kind, mode: u32, time_ns: i64) -> Self {
        Self {
            kind,
            mode,
            uid: 0,
            gid: 0,
            nlink: 0,
            rdev: 0,
            size: 0,
            atime_ns: time_ns,
            mtime_ns: time_ns,
            ctime_ns: time_ns,
            data_generation: 1,
            class: classes::DEFAULT_CLASS,
            last_cookie: 0,
            entries: 0,
            xattrs: 0,
            xattr_bytes: 0,
            link: None,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.kind == Kind::Directory
    }

    /// The content changed at `time_ns`.
    pub(crate) fn content_changed(&mut self, time_ns: i64) {
        self.mtime_ns = time_ns;
        self.ctime_ns = time_ns;
        self.data_generation += 1;
    }

    pub fn attr(&self, id: InodeId) -> Attr {
        let (size, blocks) = match self.kind {
            Kind::Directory => (DIRECTORY_BYTES, DIRECTORY_BYTES / 512),
            Kind::Regular => (self.size, self.size.div_ceil(512)),
            _ => (self.size, 0),
        };
        Attr {
            inode: id,
            kind: self.kind,
            mode: self.mode,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            rdev: self.rdev,
            size,
            blocks,
            atime_ns: self.atime_ns,
            mtime_ns: self.mtime_ns,
            ctime_ns: self.ctime_ns,
            data_generation: self.data_generation,
        }
    }

    fn encode(&self) -> Vec<u8> {
        let mut w = Writer::row_of(80);
        w.u8(self.kind as u8).u32(self.mode).u32(self.uid).u32(self.gid).u32(self.nlink).u32(self.rdev).u64(self.size);
        w.i64(self.atime_ns).i64(self.mtime_ns).i64(self.ctime_ns).u64(self.data_generation);
        w.u32(self.class).u64(self.last_cookie).u64(self.entries).u32(self.xattrs).u32(self.xattr_bytes);
        // No inode and no cookie has the number 0.
        if let Some(link) = self.link {
            w.u64(link.parent.0).u64(link.cookie.0);
        } else {
            w.u64(0);
        }
        w.finish()
    }

    fn decode(row: &[u8]) -> Result<Self, Fatal> {
        let mut r = Reader::row(Table::Inodes, row)?;
        let kind = r.u8()?;
        let mut inode = Self {
            kind: Kind::from_number(kind).ok_or_else(|| r.corrupt(&format!("no kind {kind}")))?,
            mode: r.u32()?,
            uid: r.u32()?,
            gid: r.u32()?,
            nlink: r.u32()?,
            rdev: r.u32()?,
            size: r.u64()?,
            atime_ns: r.i64()?,
            mtime_ns: r.i64()?,
            ctime_ns: r.i64()?,
            data_generation: r.u64()?,
            class: r.u32()?,
            last_cookie: r.u64()?,
            entries: r.u64()?,
            xattrs: r.u32()?,
            xattr_bytes: r.u32()?,
            link: None,
        };
        let parent = InodeId(r.u64()?);
        if parent != InodeId(0) {
            inode.link = Some(Link { parent, cookie: Cookie(r.u64()?) });
        }
        r.end()?;
        Ok(inode)
    }
}

pub fn get(tables: &dyn Tables, id: InodeId) -> Result<Option<Inode>, Fatal> {
    tables.get(Table::Inodes, &key1(id.0))?.map(|row| Inode::decode(&row)).transpose()
}

/// The inode that a caller names: ESTALE if it is gone.
pub(crate) fn named(tables: &dyn Tables, id: InodeId) -> OpResult<Inode> {
    Ok(get(tables, id)?.ok_or(Errno::Stale)?)
}

/// The inode that another row names: it must be there.
pub(crate) fn existing(tables: &dyn Tables, id: InodeId) -> Result<Inode, Fatal> {
    get(tables, id)?.ok_or_else(|| Fatal(format!("inode {id} is named by a row and does not exist")))
}

pub(crate) fn put(txn: &mut Txn<'_>, id: InodeId, inode: &Inode) {
    txn.put(Table::Inodes, key1(id.0), inode.encode());
}

/// The id of one more inode, whose row the caller puts.
pub(crate) fn next(txn: &mut Txn<'_>) -> Result<InodeId, Fatal> {
    meta::add(txn, Counter::Inodes, 1)?;
    meta::next_inode(txn)
}

/// Removes the row of a purged inode; its other rows must be gone.
pub(crate) fn remove(txn: &mut Txn<'_>, id: InodeId, mut inode: Inode) -> Result<(), Fatal> {
    assert!(id != ROOT_INODE, "the root folder is never removed");
    if inode.kind == Kind::Regular {
        resize(txn, &mut inode, 0)?;
    }
    meta::add(txn, Counter::Inodes, -1)?;
    txn.delete(Table::Inodes, key1(id.0));
    Ok(())
}

/// Changes a regular file's committed length, and the total with it; the caller puts the row. ENOSPC where the total has no room for it: holes
/// cost nothing, so anybody can come to the end of its 64 bits.
pub(crate) fn set_size(txn: &mut Txn<'_>, inode: &mut Inode, size: u64) -> OpResult<()> {
    let grown = size.saturating_sub(inode.size);
    if meta::counter(txn, Counter::Bytes)?.checked_add(grown).is_none() {
        return Err(Errno::NoSpace.into());
    }
    Ok(resize(txn, inode, size)?)
}

fn resize(txn: &mut Txn<'_>, inode: &mut Inode, size: u64) -> Result<(), Fatal> {
    assert!(inode.kind == Kind::Regular, "only regular files have a length");
    meta::add(txn, Counter::Bytes, size as i64 - inode.size as i64)?;
    inode.size = size;
    Ok(())
}

/// All inodes in the order of their ids.
pub fn scan(tables: &dyn Tables, visit: &mut dyn FnMut(InodeId, Inode) -> Result<(), Fatal>) -> Result<(), Fatal> {
    super::codec::scan_prefix(tables, Table::Inodes, &[], &[], &mut |key, row| {
        let mut key = Reader::key(Table::Inodes, key);
        let id = InodeId(key.be64()?);
        key.end()?;
        visit(id, Inode::decode(row)?)?;
        Ok(super::Visit::Next)
    })
}
