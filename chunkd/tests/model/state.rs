//! What there is: the committed row, the leader's memory, chunk servers with their disks, writers, messages under way, and the oracle's notes.
//!
//! Everything is small integers in fixed arrays, so that a state is cheap to clone and to hash. Sets of servers and of blocks are bit masks.
//! A cell is what one replica has in one block: `HOLE`, the number of a write (numbered in the order of issue), or `TORN`.

pub const SERVERS: usize = 3;
pub const BLOCKS: usize = 2;
pub const WRITERS: usize = 2;

pub type Cell = u8;
pub const HOLE: Cell = 0;
/// Part old, part new: its checksum does not hold.
pub const TORN: Cell = 15;
/// Nothing read yet, or nothing known since an excused loss.
pub const UNKNOWN: Cell = 14;

pub fn has(mask: u8, i: usize) -> bool {
    mask >> i & 1 == 1
}

pub fn ids(mask: u8) -> impl Iterator<Item = usize> {
    (0..8).filter(move |i| has(mask, *i))
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub row: Row,
    pub leader: Leader,
    pub servers: [Server; SERVERS],
    pub writers: [Writer; WRITERS],
    /// Fragments under way, in the order of sending.
    pub frags: Vec<Frag>,
    /// A command of a leader that died while it was in the network.
    pub late: Option<Command>,
    pub used: Used,
    pub ghost: Ghost,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Before the first write-end: a hole to readers (W2).
    New,
    Live,
    Garbage,
}

/// The chunk's replicated row. Consensus is not modelled: changing it is one atomic step.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    pub phase: Phase,
    pub version: u8,
    /// Named by the last Ready or RepairDone, in chain order, with the incarnations named there.
    pub holders: u8,
    pub incs: [u8; SERVERS],
    /// Committed length in blocks.
    pub len: u8,
    pub grant: Option<Grant>,
    pub last_grant: u8,
    /// The writer of the last grant.
    pub owner: Option<usize>,
    pub intent: Option<Intent>,
    pub hold: Option<Hold>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    pub id: u8,
    pub writer: usize,
    pub version: u8,
    pub holders: u8,
    pub incs: [u8; SERVERS],
    pub create: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Intent {
    pub version: u8,
    /// Blocks from here on are cut by Fix.
    pub cut: u8,
    /// Whose grant was ended by force and never resolved since the last Ready.
    pub ended: Option<usize>,
}

/// Until `writer` has resent or its session ends, no other session gets a grant; with `reads`, nobody gets a location either (W5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hold {
    pub writer: usize,
    pub reads: bool,
    /// The lowest truncation since the grant was ended: the client drops un-synced bytes from here on before it resends.
    pub clip: u8,
}

/// The leader's memory; gone with it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Leader {
    pub term: u8,
    pub round: u8,
    /// Incarnation in which each server answered Prepare in this round; 0 = not yet.
    pub prepared: [u8; SERVERS],
    /// Silent for TTL + 10 % (ADR 7).
    pub waited: u8,
    pub plan: Option<Plan>,
    pub fixed: u8,
    pub repair: Option<Repair>,
    /// A predecessor that does not know that it has been deposed still answers heartbeats.
    pub deposed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub version: u8,
    pub cut: u8,
    pub members: u8,
    pub incs: [u8; SERVERS],
    /// For each block the server whose cell everyone gets.
    pub source: [usize; BLOCKS],
    /// A source stayed up since it acknowledged the ended grant's writes (W5).
    pub stayed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Repair {
    pub target: usize,
    pub version: u8,
    /// The target's incarnation.
    pub inc: u8,
    pub grant: u8,
    pub copied: u8,
    pub done: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Command {
    pub term: u8,
    pub round: u8,
    pub server: usize,
    pub order: Order,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    Prepare {
        version: u8,
    },
    Fix(Plan),
    /// Remove a replica of at most this version.
    Delete {
        version: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Server {
    pub up: bool,
    pub inc: u8,
    /// Highest (term, round) obeyed, persisted (F2).
    pub term: (u8, u8),
    /// The leader and this server reach each other.
    pub linked: bool,
    /// May answer reads.
    pub lease: bool,
    pub replica: Option<Replica>,
    /// Gone in a power cut before its creation was synced; the journal's "all ids ≥ X" says so (V3).
    pub vanished: bool,
    /// In memory: deleted in this incarnation (ADR 9).
    pub tombstone: bool,
    /// In memory: created in this incarnation.
    pub created: bool,
}

/// How a replica came through an unclean start while it was in the dirty journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Doubt {
    None,
    /// The process died; the page cache did not.
    Process,
    Power,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Replica {
    pub version: u8,
    pub complete: bool,
    /// What a read returns, and what the last sync covered.
    pub cells: [Cell; BLOCKS],
    pub disk: [Cell; BLOCKS],
    /// The file's creation has been synced.
    pub born: bool,
    /// In the dirty journal.
    pub journal: bool,
    pub doubt: Doubt,
    pub grant: u8,
    /// In memory: written here, not known to be written by all behind.
    pub unacked: u8,
    /// A Fix has begun to write.
    pub fixing: bool,
    /// Made by a repair and not yet told that it is named.
    pub copy: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Writer {
    pub alive: bool,
    pub session: bool,
    /// What the client believes to hold.
    pub grant: Option<Grant>,
    /// Latest un-synced bytes (ADR 6).
    pub buf: [Cell; BLOCKS],
    /// Blocks of `buf` that have not been sent under `grant`.
    pub unsent: u8,
    /// Something was sent under `grant`; a grant is used before it is ended, which bounds the exploration.
    pub wrote: bool,
    pub broken: bool,
    /// Servers that have answered the fsync under way.
    pub fsync: Option<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Frag {
    pub grant: Grant,
    pub block: usize,
    pub cell: Cell,
    /// Next server; `SERVERS` = at all of them, the ack is on its way back.
    pub hop: usize,
}

/// How much of each bounded budget has been used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Used {
    pub writes: u8,
    pub fsyncs: u8,
    pub crashes: u8,
    pub power_cuts: u8,
    pub disk_losses: u8,
    pub partitions: u8,
    pub leader_deaths: u8,
    pub writer_deaths: u8,
    pub expiries: u8,
    pub recalls: u8,
    pub truncates: u8,
    pub extends: u8,
    pub repairs: u8,
}

/// Notes of the oracle; no rule may look at them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Ghost {
    /// Number of the next write.
    pub next: Cell,
    pub latest: [Cell; BLOCKS],
    /// Cells that no reader may see any more, and those among them that even an excused loss does not bring back.
    pub past: [u16; BLOCKS],
    pub sealed: [u16; BLOCKS],
    /// Per server: the version for which a reader may hold a location that this server still honours.
    pub located: [u8; SERVERS],
    /// Holders that lost un-synced bytes, and holders whose disk was emptied, since they were last named.
    pub powerless: u8,
    pub emptied: u8,
    /// Servers that have confirmed the deletion of the garbage chunk.
    pub deleted: u8,
    /// Every holder lost power; excused as soon as the writer is gone.
    pub excuse: bool,
    pub torn_ok: u8,
    pub broken: Option<Violation>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Violation {
    /// P1: an fsync-acknowledged byte is lost or changed.
    Lost,
    /// P2: back from new to old.
    Backwards,
    /// P2: two readable replicas differ.
    Differ,
    /// P2: a mixed block.
    Mixed,
    /// P3: a fragment of a grant that is not live changed a Ready replica.
    Stale,
    /// A command removed a replica that is named.
    Removed,
    /// A deleted replica came back (W2, R4).
    Undead,
}
