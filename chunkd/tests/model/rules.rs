//! The rules that a mutation can drop, one at a time.

/// One rule of the protocol as the model carries it out. The second half are mendings: without them the model finds a counterexample to the
/// protocol as it was first written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rule {
    /// W5: nobody reads until un-synced bytes that no source kept have been resent.
    HoldReads,
    /// V1: holders are made equal before Ready.
    Equalise,
    /// R2: RepairDone is refused if a grant has been given since.
    RepairCondition,
    /// W2: only a create token creates a replica.
    CreateMark,
    /// F3: fragments and acks count for one incarnation only.
    Incarnation,
    /// F2, ADR 7: a holder is left out only when its read lease has ended.
    LeaseWait,
    /// V3: what was in the dirty journal at an unclean start is no clean source.
    DirtyJournal,
    /// W9: recovery cuts at the committed length.
    CutAtLength,
    /// W6: all holders acknowledge an fsync.
    AllSync,
    /// F2: commands of an older term are refused.
    TermFence,
    /// R1: the head does not serve what those behind have not acknowledged.
    HeadRefuses,
    /// W7, ADR 2: a clean end waits for every ack and for the sync.
    CleanEnd,
    /// ADR 9: a deleted id is not created again.
    Tombstone,

    /// A forced end of a live session's grant keeps other *writers* off until it has resent, even when a source stayed up.
    HoldWriters,
    /// A hold survives later Intents.
    HoldSticks,
    /// A client drops un-synced bytes beyond a truncation that ended its grant before it resends.
    ClipResend,
    /// Every Intent cuts at the committed length, kind bump included.
    BumpCuts,
    /// A new round of Prepare takes `complete` back; F2's "confirmed, not repeated" holds within one round only.
    RoundReopens,
    /// Fix names its sources' incarnations and fails when one has changed.
    FixSource,
    /// Reads name the server's lease; a lapsed lease is never the same again.
    LeaseNumber,
    /// Heartbeats are answered only under a valid leader lease.
    LeaderLease,
    /// A Ready without a clean source needs an answer from every holder.
    AllDirtyAnswers,
    /// After a mere process crash the page cache is as good as a clean replica; it wins over replicas that lost power.
    ProcessBeatsPower,
    /// A replica in doubt serves no reads, the tail's included.
    DoubtServesNothing,
    /// A create token creates once per incarnation.
    CreateOnce,
    /// A new file lost in a power cut counts as a dirty replica without blocks, not as a missing one.
    VanishedIsDirty,
    /// A journal entry stays while a block is not known to be written by all behind, synced or not.
    JournalUntilAcked,
    /// No record makes the file longer over a chunk with an open Intent.
    GrowthWaits,
    /// A repair copy serves no reads until it is told that RepairDone has named it.
    CopyServesNothing,
    /// What Fix writes goes through the dirty journal too.
    FixJournals,
}
