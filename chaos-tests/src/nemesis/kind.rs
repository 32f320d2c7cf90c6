//! The kinds of faults: their names, classes, how long some of them last, and what they explain.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

/// How long a process stands still that is to outlast its session (30 s, counted in steps) and everything else that is timed.
const FREEZE: Duration = Duration::from_secs(80);
/// How long a disk hangs that is to outlast a chunk server's `store.disk_deadline` (10 s).
const HANG: Duration = Duration::from_secs(13);
/// How long a server whose disk is an old one is left alone: as a rule it has by then what it lacks, of which the others have to vouch for
/// theirs for half a minute.
const STALE: Duration = Duration::from_secs(40);

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    KillLeader,
    KillFollower,
    /// The leader and as many followers as it takes.
    KillMajority,
    KillAllMeta,
    KillChunkServer,
    KillAllChunkServers,
    KillAllServers,
    /// SIGTERM: they end in order.
    StopLeader,
    StopChunkServer,
    /// The leader is killed, started and killed again when it has hardly begun.
    RestartStorm,
    /// The same with more time between start and death, so that each dies in another part of its start.
    KillStartingFollower,
    KillStartingChunkServer,
    TransferLeader,
    /// SIGSTOP: it is there, and does nothing.
    PauseLeader,
    PauseFollower,
    PauseChunkServer,
    PauseAllMeta,
    /// SIGSTOP for longer than anybody waits for it.
    FreezeLeader,
    FreezeChunkServer,
    /// The wall clock of a leader jumps by an hour, and back.
    ClockJumpLeader,
    /// That of a follower, which then comes to lead.
    ClockJumpFollower,
    ClockJumpAllMeta,
    ClockJumpChunkServer,
    ClockJumpAllChunkServers,
    IsolateLeader,
    IsolateFollower,
    IsolateChunkServer,
    /// The leader hears nobody, and is heard.
    DeafLeader,
    /// The leader hears everybody, and nobody hears it.
    MuteLeader,
    /// The leader and one follower do not hear each other; the others hear both.
    CutPair,
    /// No client reaches the leader.
    ClientsFromLeader,
    /// No chunk server reaches the leader.
    ChunkServersFromLeader,
    /// No client reaches one chunk server.
    ClientsFromChunkServer,
    /// Two halves that do not hear each other, and one metadata node that hears both.
    Bridge,
    /// Each server hears two others only.
    Ring,
    /// Servers are cut off one after the other, and come back one after the other, in another order.
    SwizzleClog,
    /// A share of all packets is lost, from whomever and to whomever.
    Loss,
    /// A share of them comes twice.
    DuplicatePackets,
    /// A share of what servers send is overtaken by what they send afterwards.
    ReorderPackets,
    NarrowLeader,
    NarrowChunkServer,
    /// What comes to one server and what it answers takes long.
    Delay,
    /// One server takes connections and says nothing.
    HalfOpen,
    /// What comes to one server and what it answers is taken in small bites.
    SlowReader,
    /// Connections to one server are torn in the middle of a message.
    TornConnections,
    PowerCutLeader,
    PowerCutFollower,
    PowerCutChunkServer,
    PowerCutAllChunkServers,
    PowerCutEverything,
    /// The file system of a follower is full.
    FullFollower,
    FullLeader,
    FullChunkServer,
    /// The disk of a server that goes on fails: every call is EIO. What was not synced is lost, or not.
    FailDiskLeader,
    FailDiskFollower,
    FailDiskChunkServer,
    /// Writes to a server's disk have to wait, again and again.
    SlowDiskLeader,
    SlowDiskFollower,
    SlowDiskChunkServer,
    /// They wait for longer than a chunk server bears.
    HungDiskLeader,
    HungDiskChunkServer,
    /// One bit of one replica, while the others are sound.
    BitFlip,
    /// A chunk server's disk is again what it was some seconds ago.
    OldImageChunkServer,
    /// One bit of a follower's tables flips while it is down, or of what names them, or of its checkpoint.
    RotStateFollower,
    /// One bit of its Raft log.
    RotLogFollower,
    /// A mount's process dies with what it had not synced.
    KillMount,
    PauseMount,
    /// For longer than its session lasts.
    FreezeMount,
}

/// What a kind is about; a run overlaps faults of different classes. They are in the order in which they are lifted: a server that is started
/// has to be reached, and a mount that comes back waits for the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    Network,
    Process,
    Disk,
    Client,
}

impl Kind {
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    pub fn name(self) -> String {
        self.to_possible_value().expect("no kind is hidden").get_name().to_owned()
    }

    pub fn class(self) -> Class {
        match self {
            Self::KillLeader
            | Self::KillFollower
            | Self::KillMajority
            | Self::KillAllMeta
            | Self::KillChunkServer
            | Self::KillAllChunkServers
            | Self::KillAllServers
            | Self::StopLeader
            | Self::StopChunkServer
            | Self::RestartStorm
            | Self::KillStartingFollower
            | Self::KillStartingChunkServer
            | Self::TransferLeader
            | Self::PauseLeader
            | Self::PauseFollower
            | Self::PauseChunkServer
            | Self::PauseAllMeta
            | Self::FreezeLeader
            | Self::FreezeChunkServer
            | Self::ClockJumpLeader
            | Self::ClockJumpFollower
            | Self::ClockJumpAllMeta
            | Self::ClockJumpChunkServer
            | Self::ClockJumpAllChunkServers => Class::Process,
            Self::IsolateLeader
            | Self::IsolateFollower
            | Self::IsolateChunkServer
            | Self::DeafLeader
            | Self::MuteLeader
            | Self::CutPair
            | Self::ClientsFromLeader
            | Self::ChunkServersFromLeader
            | Self::ClientsFromChunkServer
            | Self::Bridge
            | Self::Ring
            | Self::SwizzleClog
            | Self::Loss
            | Self::DuplicatePackets
            | Self::ReorderPackets
            | Self::NarrowLeader
            | Self::NarrowChunkServer
            | Self::Delay
            | Self::HalfOpen
            | Self::SlowReader
            | Self::TornConnections => Class::Network,
            Self::PowerCutLeader
            | Self::PowerCutFollower
            | Self::PowerCutChunkServer
            | Self::PowerCutAllChunkServers
            | Self::PowerCutEverything
            | Self::FullFollower
            | Self::FullLeader
            | Self::FullChunkServer
            | Self::FailDiskLeader
            | Self::FailDiskFollower
            | Self::FailDiskChunkServer
            | Self::SlowDiskLeader
            | Self::SlowDiskFollower
            | Self::SlowDiskChunkServer
            | Self::HungDiskLeader
            | Self::HungDiskChunkServer
            | Self::BitFlip
            | Self::OldImageChunkServer
            | Self::RotStateFollower
            | Self::RotLogFollower => Class::Disk,
            Self::KillMount | Self::PauseMount | Self::FreezeMount => Class::Client,
        }
    }

    /// Whether it needs hosts, volumes or programs of others; the rest works on any cluster.
    pub fn needs_hosts(self) -> bool {
        matches!(self.class(), Class::Network | Class::Disk) || self.is_of_clocks()
    }

    pub(super) fn is_of_clocks(self) -> bool {
        matches!(
            self,
            Self::ClockJumpLeader
                | Self::ClockJumpFollower
                | Self::ClockJumpAllMeta
                | Self::ClockJumpChunkServer
                | Self::ClockJumpAllChunkServers
        )
    }

    /// Whether it is about the lines of all servers. It needs neither their processes nor their disks: other faults may have those.
    pub fn is_of_all_lines(self) -> bool {
        matches!(
            self,
            Self::Bridge | Self::Ring | Self::SwizzleClog | Self::Loss | Self::DuplicatePackets | Self::ReorderPackets
        )
    }

    /// Whether it comes only while nothing is about the lines of all servers.
    pub fn needs_all_lines(self) -> bool {
        // Inflicting it waits for a server that is started anew, or for whoever leads next to be seen.
        let waits = self.is_of_clocks() || self == Self::TransferLeader;
        // P1 needs the other replicas. A server that is cut off for long enough has the current ones no longer.
        waits || matches!(self, Self::BitFlip | Self::OldImageChunkServer)
    }

    /// Whether chunk servers lose what they had not synced, or cannot know that they did not.
    pub fn cuts_chunk_power(self) -> bool {
        matches!(
            self,
            Self::PowerCutChunkServer
                | Self::PowerCutAllChunkServers
                | Self::PowerCutEverything
                | Self::FailDiskChunkServer
                | Self::OldImageChunkServer
        )
    }

    /// Whether a mount's session ends, and what it had not synced belongs to nobody for some time.
    pub fn ends_session(self) -> bool {
        matches!(self, Self::KillMount | Self::FreezeMount)
    }

    /// How long it lasts, if that is longer than a blow: others come and go meanwhile.
    pub fn lasts(self) -> Option<Duration> {
        match self {
            Self::FreezeLeader | Self::FreezeChunkServer | Self::FreezeMount => Some(FREEZE),
            Self::HungDiskLeader | Self::HungDiskChunkServer => Some(HANG),
            Self::OldImageChunkServer => Some(STALE),
            _ => None,
        }
    }

    /// Complaints in logs that it explains, besides those that every run may have (`log-expected.txt`).
    pub fn complaints(self) -> &'static [&'static str] {
        match self {
            Self::FullFollower | Self::FullLeader => &["No space left on device"],
            // That a chunk is deleted is written down before its file moves.
            Self::FullChunkServer => &["No space left on device", "a deletion failed"],
            Self::FailDiskLeader | Self::FailDiskFollower => &["Input/output error", "this metadata node must stop"],
            Self::FailDiskChunkServer => &[
                "Input/output error",
                // What a reader says; the other holder is away.
                "every replica is damaged",
                "the disk has failed and is not used any more",
                "a server has lost its replica",
                "a replica is damaged",
                "a deletion failed",
                // The name of what was being made was synced with others, its header was not.
                "a file without a place has been moved to the quarantine",
            ],
            Self::HungDiskChunkServer => &[
                "the disk has failed and is not used any more",
                "a server has lost its replica",
                // The other holder is away.
                "a replica is damaged or missing, and no other is known to be there",
                "a deletion failed",
                // What was being made when the server ended has a name and no header.
                "a file without a place has been moved to the quarantine",
                // Another server was told to stop while the next one in its chain hung.
                "some requests were not finished in time",
                // V2: it ended in the middle of a write, between a block and its checksum, as the chunk's only holder. The writer sends it again.
                "no copy of this block matches its checksum",
                "no copy of damaged blocks holds",
            ],
            Self::BitFlip => &[
                "a block is damaged at rest and is not served",
                "a damaged block was not served",
                "a replica is damaged",
                "a block is damaged on all holders that answer; waiting for the others",
            ],
            Self::OldImageChunkServer => &[
                // Of the seconds that are missing.
                "replicas that the cluster counts on are not here",
                "a server has lost its replica",
                // The other holder is away.
                "a replica is damaged or missing, and no other is known to be there",
                // The disk stood still while it was copied, for longer than a server bears if there was much, and the server ended in the middle
                // of making a file.
                "the disk has failed and is not used any more",
                "a deletion failed",
                "a file without a place has been moved to the quarantine",
            ],
            // What was on its way when it froze, into a chunk that another mount has written since; its writer is told by EIO.
            Self::FreezeMount => &[
                "session expired: grants, claims and locks are gone",
                "bytes of a file are lost with the session",
                "bytes of a file were lost after its last handle was closed",
            ],
            // RocksDB's word. What a node says that does not even start has no level.
            Self::RotStateFollower => &["Corruption", "this metadata node must stop"],
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_the_names_that_the_command_line_takes() {
        assert!(Kind::all().len() >= 50);
        for kind in Kind::all() {
            assert_eq!(Kind::from_str(&kind.name(), false), Ok(*kind));
            assert_eq!(serde_json::to_string(kind).expect("a name"), format!("\"{}\"", kind.name()));
        }
    }
}
