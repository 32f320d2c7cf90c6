//! Ordered key/value tables: the only thing that the state machine knows of storage.
//!
//! [`Tables`] is what a back end gives (RocksDB in `raft/state`, [`memory::MemoryTables`] for tests and models); [`Txn`] is what an
//! operation works on: reads see its own writes, nothing reaches the back end before the whole batch is taken with its applied index.
//! Each table has a file of its own with its key layout and row encoding (docs/on-disk-format.md).

pub mod chunks;
pub mod classes;
pub(crate) mod codec;
#[cfg(test)]
pub(crate) mod conformance;
pub mod dentries;
pub mod file_chunks;
pub mod garbage;
pub mod inline;
pub mod inodes;
pub mod links;
pub mod memory;
pub mod meta;
pub mod orphans;
pub mod replies;
pub mod server_chunks;
pub mod servers;
pub mod session_grants;
pub mod sessions;
pub mod symlinks;
pub mod txn;
pub mod xattrs;

use super::error::Fatal;
pub use txn::{Changes, Txn};

/// The tables. The numbers are part of the state hash: never reuse one. Names are the RocksDB column families.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Table {
    /// Counters, cluster identity, feature level, state hash, totals.
    Meta = 1,
    Inodes = 2,
    /// `(parent, name) → (cookie, inode, kind)`.
    Dentries = 3,
    /// `(parent, cookie) → name`.
    Cookies = 4,
    Xattrs = 5,
    Symlinks = 6,
    Chunks = 7,
    /// `(inode, index) → chunk`.
    FileChunks = 8,
    Sessions = 9,
    /// `(session, slot) → (seq, reply)`.
    Replies = 10,
    /// `open key → session`.
    SessionKeys = 11,
    Orphans = 12,
    Servers = 13,
    /// `uuid → server`.
    ServerUuids = 14,
    /// `(server, chunk)`.
    ServerChunks = 15,
    /// Chunks with an Intent.
    Intents = 16,
    /// `(session, chunk)`: live grants and holds of a session.
    SessionGrants = 17,
    /// `(server, chunk) → version`: committed deletions not yet carried out.
    Garbage = 18,
    Classes = 19,
    /// `(inode, parent, cookie)`: the names of an inode but the first, which is in its row.
    Links = 20,
    /// `inode → bytes`: the first chunk of a small file.
    Inline = 21,
    /// `(end time, session)`: ended sessions, oldest first.
    EndedSessions = 22,
}

impl Table {
    /// How many there are; their numbers are 1 to this.
    pub const COUNT: usize = 22;

    /// All tables, in the order of their numbers.
    pub const ALL: [Table; Table::COUNT] = {
        use Table::*;
        [
            Meta,
            Inodes,
            Dentries,
            Cookies,
            Xattrs,
            Symlinks,
            Chunks,
            FileChunks,
            Sessions,
            Replies,
            SessionKeys,
            Orphans,
            Servers,
            ServerUuids,
            ServerChunks,
            Intents,
            SessionGrants,
            Garbage,
            Classes,
            Links,
            Inline,
            EndedSessions,
        ]
    };

    /// The column family's name.
    pub fn name(self) -> &'static str {
        use Table::*;
        match self {
            Meta => "meta",
            Inodes => "inodes",
            Dentries => "dentries",
            Cookies => "cookies",
            Xattrs => "xattrs",
            Symlinks => "symlinks",
            Chunks => "chunks",
            FileChunks => "file_chunks",
            Sessions => "sessions",
            Replies => "replies",
            SessionKeys => "session_keys",
            Orphans => "orphans",
            Servers => "servers",
            ServerUuids => "server_uuids",
            ServerChunks => "server_chunks",
            Intents => "intents",
            SessionGrants => "session_grants",
            Garbage => "garbage",
            Classes => "classes",
            Links => "links",
            Inline => "inline",
            EndedSessions => "ended_sessions",
        }
    }
}

/// What a back end gives: one consistent view of all tables.
pub trait Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Fatal>;

    /// Visits rows with `from <= key`, in key order, until `visit` answers [`Visit::Stop`] or the table ends.
    /// The caller checks prefixes and ends.
    fn scan(&self, table: Table, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> Visit) -> Result<(), Fatal>;
}

/// Whether a scan goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Visit {
    Next,
    Stop,
}
