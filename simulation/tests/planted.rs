//! A simulation that finds nothing proves nothing: each bug that can be planted must be found within a few seeds.

#![cfg(debug_assertions)]

use caribou_planted::Bug;
use caribou_simulation::Fault::*;
use caribou_simulation::{ALL_FAULTS, Fault, Plan, run};

/// Runs of one bug; each has as many steps as that many operations and faults.
const SEEDS: u64 = 40;
const STEPS: u64 = 4000;

fn violations(seed: u64, faults: &[Fault], planted: Option<Bug>) -> Vec<String> {
    let plan = Plan { seed, steps: STEPS, clients: 4, faults: faults.to_vec(), planted };
    run(&plan).unwrap_or_else(|error| panic!("seed {seed} could not be set up: {error:#}")).violations
}

/// Looks for a bug with the faults that bring it out: a violation that says one of these is its trace. What else a seed finds must come of
/// the bug too: without it the same seed and faults find nothing.
fn is_found(bug: Bug, faults: &[Fault], traces: &[&str]) {
    let control = violations(1, faults, None);
    assert!(control.is_empty(), "found without the bug: {control:#?}");
    let is_trace = |violation: &String| traces.iter().any(|trace| violation.contains(trace));
    let mut others = Vec::new();
    for seed in 1..=SEEDS {
        let found = violations(seed, faults, Some(bug));
        if found.iter().any(is_trace) {
            return;
        }
        if !found.is_empty() {
            let without = violations(seed, faults, None);
            assert!(without.is_empty(), "seed {seed} finds something without the bug, too: {without:#?}");
        }
        others.extend(found);
    }
    panic!("{bug:?} did not show as {traces:?} in {SEEDS} runs of {STEPS} steps; found besides: {others:#?}");
}

#[test]
fn the_list_of_tests_is_complete() {
    let tested = include_str!("planted.rs");
    for bug in caribou_planted::ALL {
        assert!(tested.contains(&format!("Bug::{bug:?},")), "{bug:?} has no test here");
    }
}

#[test]
fn a_log_that_answers_before_its_sync() {
    is_found(
        Bug::LogAnsweredBeforeSync,
        &ALL_FAULTS,
        &["P1", "exactly once", "state-machine safety", "leader completeness"],
    );
}

#[test]
fn a_vote_that_is_not_written() {
    is_found(Bug::VoteNotWritten, &ALL_FAULTS, &["election safety", "went back from term"]);
}

#[test]
fn replies_that_are_forgotten() {
    is_found(Bug::RepliesForgotten, &ALL_FAULTS, &["exactly once", "linearizability"]);
}

#[test]
fn reads_without_a_lease() {
    is_found(Bug::ReadsWithoutLease, &[SplitBrain], &["exactly once", "linearizability", "P1", "P2"]);
}

#[test]
fn entries_that_are_applied_twice() {
    is_found(Bug::AppliedTwice, &ALL_FAULTS, &["state-machine safety", "has stopped"]);
}

#[test]
fn a_snapshot_without_one_of_its_tables() {
    is_found(
        Bug::SnapshotWithoutTable,
        &[CrashFollower, CrashLeader, IsolateFollower],
        &["state-machine safety", "rows are not equal", "inconsistent"],
    );
}

#[test]
fn a_sync_that_a_chunk_server_skips() {
    is_found(
        Bug::ChunkSyncSkipped,
        &[PowerCutChunkServer, PowerCutAllChunkServers],
        &["P1", "header of a chunk is damaged"],
    );
}

#[test]
fn bytes_that_a_client_does_not_send_again() {
    is_found(
        Bug::ResendForgotten,
        &[PowerCutAllChunkServers, CrashAllChunkServers],
        &["P1", "P2", "own writes", "replicas of chunk"],
    );
}

#[test]
fn holders_that_a_recovery_leaves_unequal() {
    is_found(
        Bug::HoldersNotEqualised,
        &[PowerCutChunkServer, KillChunkServer, PowerCutAllChunkServers],
        &["replicas of chunk", "P1", "P2", "damaged at rest"],
    );
}

#[test]
fn an_fsync_that_is_not_waited_for() {
    is_found(Bug::FsyncNotAwaited, &ALL_FAULTS, &["P1"]);
}

#[test]
fn a_writer_that_keeps_nobody_off() {
    is_found(Bug::HoldForgotten, &ALL_FAULTS, &["P2", "own writes"]);
}

#[test]
fn a_dirty_journal_that_is_forgotten() {
    is_found(
        Bug::DirtyJournalForgotten,
        &[KillClientAndServers],
        &["P1", "P2", "replicas of chunk", "damaged at rest"],
    );
}

#[test]
fn a_version_that_is_prepared_before_its_record_is_committed() {
    is_found(Bug::PreparedBeforeCommit, &[KillChunkServer, PowerCutChunkServer], &["which is not committed"]);
}

/// Recoveries that wait for a server that is off begin again every second, at the old leader too.
#[test]
fn a_term_that_is_over_and_still_obeyed() {
    is_found(
        Bug::OldTermObeyed,
        &[PowerCutAllChunkServers, CrashAllChunkServers, SplitBrain],
        &["obeys generation and term"],
    );
}

#[test]
fn bytes_that_are_sent_again_at_the_same_version() {
    is_found(Bug::ResentAtSameVersion, &[CutClientFromChunkServers, KillChunkServer], &["W4", "P2", "own writes"]);
}

#[test]
fn a_checksum_that_is_ignored() {
    is_found(Bug::ChecksumIgnored, &[BitRot], &["P2"]);
}

/// Servers that are away are left out and come back, and are named again once another one is away.
#[test]
fn a_deletion_that_is_carried_out_again() {
    is_found(Bug::DeletionRepeated, &[KillChunkServer, IsolateChunkServer], &["which is counted on"]);
}
