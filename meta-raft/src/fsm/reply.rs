//! What `apply` answers (memory language). Replies to clients are rows of the reply table (S2) and so replicated.

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, Incarnation, InodeId, ServerId, SessionId};

use super::command::Kind;
use super::error::Errno;

/// The answer to one command, in the order of the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "nearly all replies are those to clients")]
pub enum Reply {
    Client(ClientReply),
    SessionOpened {
        session: SessionId,
    },
    /// ExpireSession, PurgeOrphans, ForgetSessions: whether nothing is left to do.
    Progress {
        finished: bool,
    },
    ServerRegistered {
        server: ServerId,
    },
    /// Carried out.
    Done,
    /// S6: the condition no longer holds; nothing was changed.
    Refused(&'static str),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientReply {
    pub outcome: Outcome,
    /// Meaningful for `Executed` only.
    pub result: Result<Body, Errno>,
    /// S2: the reply was found in the table, the command had no effect this time.
    pub from_table: bool,
}

/// What happened to a request as far as sessions are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    Executed = 1,
    /// S4.
    NotExecuted = 2,
    /// S5.
    Cancelled = 3,
    /// S2: no such session.
    SessionExpired = 4,
    /// S2: beyond the window; not stored.
    WindowExceeded = 5,
    /// S2: below `acked_below`; ignored, nobody waits for it.
    Acknowledged = 6,
}

/// What an operation gives back; unused fields stay at their default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Body {
    pub attr: Option<Attr>,
    pub created: bool,
    pub grant: Option<GrantReply>,
    /// WriteEnd: the committed length.
    pub length: u64,
    /// WriteEnd, EndGrants: chunk indices whose grant is no longer current (GrantLost, W9).
    pub lost: Vec<u32>,
    /// EndGrants: the same by id, since they may be of many files.
    pub lost_chunks: Vec<ChunkId>,
    /// Rename, Rmdir: the directories that changed besides those that the request names. `None`: unknown, as in every stored reply.
    pub others: Option<Vec<InodeId>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attr {
    pub inode: InodeId,
    pub kind: Kind,
    /// Permission bits with setuid, setgid, sticky.
    pub mode: u32,
    pub nlink: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    pub size: u64,
    /// Units of 512 bytes.
    pub blocks: u64,
    pub atime_ns: i64,
    pub mtime_ns: i64,
    pub ctime_ns: i64,
    pub data_generation: u64,
}

/// The numbers are on the wire and in stored replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum GrantState {
    Granted = 1,
    /// An Intent or a hold is in the way.
    Pending = 2,
    /// Another session's grant is in the way and has been recalled (W8).
    Recalled = 3,
    /// W2: the new chunk went to garbage.
    Restart = 4,
    NoServers = 5,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrantReply {
    pub state: GrantState,
    pub index: u32,
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub grant: GrantId,
    /// W2: may create replicas.
    pub create: bool,
    /// Chain order; addresses are looked up by the service when it answers.
    pub holders: Vec<(ServerId, Incarnation)>,
    /// M12: where the chunk was cut since the session's last write-end under a grant of it.
    pub clip: Option<u32>,
    /// The chunk's grant before this one, to anybody, or a later cut by somebody else; 0 for the first. This one itself when the answer is given again.
    pub before: GrantId,
    /// W5: [`Chunk::unkept`](crate::fsm::tables::chunks::Chunk), 0 for none.
    pub unkept: GrantId,
}

/// Hints to the leader; the truth is in the state, and a new leader re-derives them by scanning (STYLE 9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Something about the chunk changed that waiters or leader loops may want to look at.
    ChunkChanged(ChunkId),
    /// V1: drive this Intent.
    IntentStarted(ChunkId),
    /// W8: ask the session to end its grant.
    RecallGrant {
        session: SessionId,
        inode: InodeId,
        index: u32,
        chunk: ChunkId,
        grant: GrantId,
    },
    /// An inode lost its last link.
    Orphaned(InodeId),
    /// R4: there is garbage for this server.
    Garbage(ServerId),
    /// The chunk has fewer copies than its goal.
    BelowGoal(ChunkId),
    SessionEnded(SessionId),
    ServerChanged(ServerId),
}
