//! Newtypes for everything that could be mixed up. Plain numbers inside; no behaviour but ordering and display.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub u64);

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id!(
    /// An inode number. 1 is the root folder; never used twice within a cluster.
    InodeId
);
id!(
    /// A chunk: generation (16 bits) and counter (48 bits), F1.
    ChunkId
);
id!(
    /// The version of a chunk. Starts at 1, never goes back (V1).
    ChunkVersion
);
id!(
    /// A grant: generation (16 bits) and counter (48 bits), compared per chunk (F3).
    GrantId
);
id!(
    /// A client's session.
    SessionId
);
id!(
    /// A request's number within its session, from 1 (S1).
    Seq
);
id!(
    /// A chunk server.
    ServerId
);
id!(
    /// One start of a chunk server (F3); new at every start, higher than all before.
    Incarnation
);
id!(
    /// A metadata node.
    NodeId
);
id!(
    /// The position of a directory entry, from a counter per directory.
    Cookie
);

/// The root folder's inode.
pub const ROOT_INODE: InodeId = InodeId(1);
/// A chunk's size in bytes.
pub const CHUNK_BYTES: u64 = 64 << 20;
/// A block's size in bytes: the unit of checksums and of recovery.
pub const BLOCK_BYTES: u32 = 64 << 10;
/// Blocks of a chunk.
pub const BLOCKS_PER_CHUNK: u32 = (CHUNK_BYTES / BLOCK_BYTES as u64) as u32;
/// The longest fragment of a write and the longest read, in bytes.
pub const MAX_FRAGMENT_BYTES: u32 = 1 << 20;
/// I1: most bytes of a file that the metadata may hold; what a cluster uses is a setting.
pub const MAX_INLINE_BYTES: u32 = 64 << 10;
/// Size of one block's state in `chunk.v1.Prepared.blocks`.
pub const BLOCK_STATE_BYTES: usize = 5;
/// S2: a request's `seq` must stay below `acked_below` plus this.
pub const SESSION_WINDOW: u64 = 1024;
/// Longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;
/// Longest symlink target, in bytes.
pub const SYMLINK_MAX: usize = 4095;
/// Longest extended attribute value, in bytes.
pub const XATTR_VALUE_MAX: usize = 65_536;

impl ChunkId {
    /// Puts a generation and a counter together (F1).
    pub fn new(generation: u16, counter: u64) -> Self {
        assert!(counter < 1 << 48, "chunk counters have 48 bits");
        Self((u64::from(generation) << 48) | counter)
    }
}

impl GrantId {
    /// Puts a generation and a counter together (F3).
    pub fn new(generation: u16, counter: u64) -> Self {
        assert!(counter < 1 << 48, "grant counters have 48 bits");
        Self((u64::from(generation) << 48) | counter)
    }
}
