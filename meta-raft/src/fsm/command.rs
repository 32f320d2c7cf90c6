//! Commands as `apply` sees them (memory language; `raft/codec` knows the disk form, `service/` the wire form).
//!
//! Every choice is already made: time, placement, liveness and lists ride in the command (DESIGN 3.1).

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, Incarnation, InodeId, Seq, ServerId, SessionId};

/// One Raft entry: commands applied in order, under one time stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The feature level under which the entry was proposed; above the node's own → "upgrade this node".
    pub feature_level: u32,
    /// `max(previous + 1, leader's clock)`, nanoseconds since the epoch; for timestamps and retention only.
    pub time_ns: i64,
    pub commands: Vec<Command>,
}

/// One command of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// A client's request (S1, S2).
    Client(ClientCommand),
    /// S5: stores `cancelled` as the reply of `seq` unless there is one.
    Cancel { session: SessionId, seq: Seq },
    /// A new session; the same key finds the same session (a retried opening).
    OpenSession { key: [u8; 16], name: String },
    /// S3: adds idle time to silent sessions (`reset`: sets it to zero), in coarse steps.
    AddIdle { sessions: Vec<IdleStep> },
    /// S3, S4: ends a session if its committed idle time has reached the TTL. Bounded: ends at most
    /// `MAX_GRANTS_PER_STEP` grants per record; the leader repeats it until the reply says `finished`.
    ExpireSession { session: SessionId, ttl_ms: u64 },
    /// S4: removes rows (and replies) of sessions that ended before `before_ns`; at most `limit` rows.
    ForgetSessions { before_ns: i64, limit: u32 },
    /// Purges orphans without links; the leader has checked the claims (S7). Bounded per inode and record.
    PurgeOrphans { inodes: Vec<InodeId> },
    /// The first record of a cluster.
    InitCluster(InitCluster),
    /// A chunk server says who it is (F3). Reply: `ServerRegistered`.
    RegisterServer(RegisterServer),
    /// The leader has not heard from the server for longer than its lease; condition: still this incarnation (S6).
    ServerDown { server: ServerId, incarnation: Incarnation },
    /// V1: starts a recovery that no client asked for (dirty after an unclean start, W8 recall unanswered).
    StartIntent(StartIntent),
    /// V1: the holders are equal and complete.
    Ready(Ready),
    /// R2: a copy has been made while no grant was live.
    RepairDone(RepairDone),
    /// R3: the server itself confirms that it has no usable replica.
    ReplicaLost { chunk: ChunkId, version: ChunkVersion, server: ServerId },
    /// R4: the server has moved these to its quarantine.
    GarbageDone { server: ServerId, chunks: Vec<(ChunkId, ChunkVersion)> },
    /// R4: the server has a replica that nobody counts on.
    StrayFound(StrayFound),
}

impl Command {
    /// Whether its work is a few rows for each thing that it names; the others go through a directory's path, a file's chunks or a page of
    /// sessions. A hint about time, nothing that `apply` may depend on.
    pub fn is_brief(&self) -> bool {
        use Command::*;
        match self {
            Client(request) => match &request.op {
                ClientOp::Create(create) => !create.truncate,
                ClientOp::SetAttr(set) => set.size.is_none(),
                ClientOp::Rename(rename) => rename.parent == rename.new_parent,
                _ => true,
            },
            ExpireSession { .. } | ForgetSessions { .. } | PurgeOrphans { .. } => false,
            Cancel { .. } | OpenSession { .. } | AddIdle { .. } | InitCluster(_) | RegisterServer(_) => true,
            ServerDown { .. } | StartIntent(_) | Ready(_) | RepairDone(_) => true,
            ReplicaLost { .. } | GarbageDone { .. } | StrayFound(_) => true,
        }
    }
}

/// A client's request with what the session rules need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCommand {
    pub session: SessionId,
    pub seq: Seq,
    pub acked_below: Seq,
    pub caller: Caller,
    pub op: ClientOp,
}

/// Who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// What kind of thing an inode is. The numbers are in stored rows and on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    Regular = 1,
    Directory = 2,
    Symlink = 3,
    Fifo = 4,
    Socket = 5,
    CharDevice = 6,
    BlockDevice = 7,
}

/// A mutation by a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientOp {
    Create(Create),
    Mkdir { parent: InodeId, name: Vec<u8>, mode: u32 },
    Mknod { parent: InodeId, name: Vec<u8>, kind: Kind, mode: u32, rdev: u32 },
    Symlink { parent: InodeId, name: Vec<u8>, target: Vec<u8> },
    Link { inode: InodeId, parent: InodeId, name: Vec<u8> },
    Unlink { parent: InodeId, name: Vec<u8> },
    Rmdir { parent: InodeId, name: Vec<u8> },
    Rename(Rename),
    SetAttr(SetAttr),
    SetXattr { inode: InodeId, name: Vec<u8>, value: Vec<u8>, create: bool, replace: bool },
    RemoveXattr { inode: InodeId, name: Vec<u8> },
    TakeGrant(TakeGrant),
    WriteEnd(WriteEnd),
    WriteAndSet(WriteAndSet),
    EndGrants { chunks: Vec<WrittenChunk> },
    ReportBroken(ReportBroken),
}

/// `open(O_CREAT)` of a regular file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Create {
    pub parent: InodeId,
    pub name: Vec<u8>,
    pub mode: u32,
    pub exclusive: bool,
    pub truncate: bool,
    /// Access bits (4 read, 2 write) that an existing file is opened with.
    pub access: u32,
    /// W1: first chunk and grant in the same record, on these servers (chosen by the leader; empty: none).
    pub placement: Vec<ServerId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    pub parent: InodeId,
    pub name: Vec<u8>,
    pub new_parent: InodeId,
    pub new_name: Vec<u8>,
    pub no_replace: bool,
    pub exchange: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    pub inode: InodeId,
    pub mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub atime: Option<SetTime>,
    pub mtime: Option<SetTime>,
    /// The size is changed through a descriptor open for writing.
    pub by_handle: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The entry's time.
    Now,
    /// Nanoseconds since the epoch.
    At(i64),
}

/// W1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakeGrant {
    pub inode: InodeId,
    pub index: u32,
    /// Servers for a new chunk, in chain order, chosen by the leader; empty when it has none to offer.
    pub placement: Vec<ServerId>,
}

/// W9.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteEnd {
    pub inode: InodeId,
    /// End of the furthest acknowledged byte; 0: unchanged.
    pub length: u64,
    /// 0: the record's time.
    pub mtime_ns: i64,
    pub chunks: Vec<WrittenChunk>,
    /// I2: bytes of the first chunk, for the metadata to keep.
    pub inline: Vec<InlineWrite>,
    /// I2: the content that these were written over.
    pub data_generation: u64,
}

/// A write-end and then a change of the same file's attributes but its size, both or neither.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteAndSet {
    pub write: WriteEnd,
    pub set: SetAttr,
}

/// I2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineWrite {
    pub offset: u32,
    pub data: Vec<u8>,
}

/// One chunk that a client has written (W7, W9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrittenChunk {
    pub index: u32,
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub grant: GrantId,
    pub resent: bool,
    pub end: bool,
    /// I3: as many bytes of the file's inline data are in the new chunk.
    pub inline_bytes: u32,
}

/// W4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportBroken {
    pub inode: InodeId,
    pub index: u32,
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub grant: GrantId,
    pub suspects: Vec<ServerId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdleStep {
    pub session: SessionId,
    /// Added to the committed idle time; 0 resets it.
    pub add_ms: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitCluster {
    pub uuid: [u8; 16],
    pub generation: u16,
    pub nonce: u64,
    /// Copies of the default storage class, 1–9.
    pub default_goal: u8,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisterServer {
    pub uuid: [u8; 16],
    pub incarnation: Incarnation,
    pub address: String,
    pub total_bytes: u64,
    pub free_bytes: u64,
}

/// Why a version is raised (V1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum IntentKind {
    /// A stream broke while its writer lives.
    Bump = 1,
    /// The writer is gone, or the servers started uncleanly.
    Recover = 2,
    /// Truncation: bytes at or beyond `cut` become a hole.
    Cut = 3,
}

/// S6: `version` and `grant` are what the leader saw; `apply` refuses if either has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartIntent {
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub grant: Option<GrantId>,
    pub kind: IntentKind,
}

/// One holder named by a Ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadyHolder {
    pub server: ServerId,
    pub incarnation: Incarnation,
    /// Its own bytes were a source, and it was clean: up since it acknowledged them, and not in the dirty journal (V2, W5).
    pub clean_source: bool,
}

/// V1; refused unless the chunk's Intent has this version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ready {
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub holders: Vec<ReadyHolder>,
}

/// R2; refused if a grant is live, one has been given since `last_grant`, or the version moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepairDone {
    pub chunk: ChunkId,
    pub version: ChunkVersion,
    pub last_grant: Option<GrantId>,
    pub server: ServerId,
    pub incarnation: Incarnation,
    /// A down holder whose replica this copy replaces; it becomes garbage.
    pub replaces: Option<ServerId>,
}

/// R4; refused if the chunk's row is another one than was seen, names the server, or is at work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StrayFound {
    pub server: ServerId,
    pub chunk: ChunkId,
    /// Of the replica, as the server says.
    pub version: ChunkVersion,
    /// S6: the version of the chunk's row; `None`: it has none (any more).
    pub row_version: Option<ChunkVersion>,
}

impl StrayFound {
    /// Versions up to this one are to be deleted. A chunk with a row has been prepared nowhere beyond the row's while it is at rest.
    pub fn up_to(&self) -> ChunkVersion {
        self.row_version.unwrap_or(self.version)
    }
}
