//! Bugs on purpose: each breaks one rule at the place that carries it, so that a test can show that the simulation finds it.
//!
//! They are there in debug builds only; in a release build [`is`] is `false` before the compiler has looked at what depends on it. A bug is
//! planted in one thread, which is a whole simulation.

use std::cell::Cell;

/// Each of them, named after what is not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// The Raft log says that entries are on disk before they are.
    LogAnsweredBeforeSync,
    /// A vote is answered without being written.
    VoteNotWritten,
    /// S2: a retried request is carried out again.
    RepliesForgotten,
    /// A leader answers reads without a lease and without asking a quorum.
    ReadsWithoutLease,
    /// The state's position in the log is written with every second batch only.
    AppliedTwice,
    /// A snapshot is installed without one of its tables.
    SnapshotWithoutTable,
    /// W6: a chunk server acknowledges a sync that it has not done.
    ChunkSyncSkipped,
    /// W5: after a broken stream a client does not send again what had been acknowledged and not synced.
    ResendForgotten,
    /// V1: a recovery raises the version without making the holders equal.
    HoldersNotEqualised,
    /// W5: an fsync is answered before it is done.
    FsyncNotAwaited,
    /// W5: a writer whose grant was ended by force keeps nobody off until it has sent again what it has.
    HoldForgotten,
    /// V3: after an unclean start a chunk server takes no replica for dirty.
    DirtyJournalForgotten,
    /// F2, V1: the leader tells holders to prepare a version when it proposes the record that raises it, not once that is committed.
    PreparedBeforeCommit,
    /// W4: what was on its way when a write stream broke, a client sends again at the same version, over another one.
    ResentAtSameVersion,
    /// F2: a chunk server goes on to obey the stream of a leader that it has left for a newer one, whatever the term. Two places, each of which
    /// would cover for the other.
    OldTermObeyed,
    /// R1, V2: a chunk server gives a block to readers and to other holders whether it matches its checksum or not.
    ChecksumIgnored,
    /// R4, F2: a chunk server carries a deletion out again and again for a minute, whatever version it has by then.
    DeletionRepeated,
}

/// All of them.
pub const ALL: [Bug; 17] = [
    Bug::LogAnsweredBeforeSync,
    Bug::VoteNotWritten,
    Bug::RepliesForgotten,
    Bug::ReadsWithoutLease,
    Bug::AppliedTwice,
    Bug::SnapshotWithoutTable,
    Bug::ChunkSyncSkipped,
    Bug::ResendForgotten,
    Bug::HoldersNotEqualised,
    Bug::FsyncNotAwaited,
    Bug::HoldForgotten,
    Bug::DirtyJournalForgotten,
    Bug::PreparedBeforeCommit,
    Bug::ResentAtSameVersion,
    Bug::OldTermObeyed,
    Bug::ChecksumIgnored,
    Bug::DeletionRepeated,
];

thread_local! {
    static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
}

/// Plants a bug in this thread, or takes it away.
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Whether this bug is planted here.
#[inline]
pub fn is(bug: Bug) -> bool {
    cfg!(debug_assertions) && PLANTED.get() == Some(bug)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_bug_in_one_thread() {
        plant(Some(Bug::AppliedTwice));
        assert_eq!(is(Bug::AppliedTwice), cfg!(debug_assertions));
        assert!(!is(Bug::VoteNotWritten));
        assert!(!std::thread::spawn(|| is(Bug::AppliedTwice)).join().expect("it does not panic"));
        plant(None);
        assert!(!is(Bug::AppliedTwice));
    }
}
