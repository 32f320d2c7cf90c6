//! Questions: answered on one consistent view of the tables, without changing anything.
//!
//! `names` lookup, readlink, paths · `attrs` getattr, access, statfs · `directory` readdir in pages · `xattrs`. Each answers
//! `OpResult`: an errno for the caller, or the end of this node. Rights to read a file or a directory are checked when it is opened
//! ([`access`]), as POSIX has it, and not again by each [`readdir`].

mod attrs;
pub mod chunks;
mod directory;
mod names;
mod xattrs;

pub use attrs::{StatFs, access, getattr, is_orphan, statfs};
pub use directory::{DirEntry, MAX_READDIR_ENTRIES, Page, readdir};
pub use names::{links, lookup, path, readlink};
pub use xattrs::{getxattr, listxattr};

pub use super::tables::sessions::{Session, SessionState, by_key as session_by_key, get as session};
