//! A simulation that finds nothing proves nothing: each bug that can be planted must be found within a few seeds.

#![cfg(debug_assertions)]

use caribou_planted::Bug;
use caribou_simulation::Fault::*;
use caribou_simulation::{ALL_FAULTS, Fault, Plan, run};

/// Runs of one bug; each has as many steps as that many operations and faults.
const SEEDS: u64 = 40;
const STEPS: u64 = 4000;

/// Looks for a bug with the faults that bring it out.
fn is_found(bug: Bug, faults: &[Fault]) {
    for seed in 1..=SEEDS {
        let plan = Plan { seed, steps: STEPS, clients: 4, faults: faults.to_vec(), planted: Some(bug) };
        let outcome = run(&plan).unwrap_or_else(|error| panic!("seed {seed} could not be set up: {error:#}"));
        if !outcome.violations.is_empty() {
            return;
        }
    }
    panic!("{bug:?} was not found in {SEEDS} runs of {STEPS} steps");
}

#[test]
fn the_list_of_tests_is_complete() {
    let tested = include_str!("planted.rs");
    for bug in caribou_planted::ALL {
        assert!(tested.contains(&format!("is_found(Bug::{bug:?}")), "{bug:?} has no test here");
    }
}

#[test]
fn a_log_that_answers_before_its_sync() {
    is_found(Bug::LogAnsweredBeforeSync, &ALL_FAULTS);
}

#[test]
fn a_vote_that_is_not_written() {
    is_found(Bug::VoteNotWritten, &ALL_FAULTS);
}

#[test]
fn replies_that_are_forgotten() {
    is_found(Bug::RepliesForgotten, &ALL_FAULTS);
}

#[test]
fn reads_without_a_lease() {
    is_found(Bug::ReadsWithoutLease, &[SplitBrain]);
}

#[test]
fn entries_that_are_applied_twice() {
    is_found(Bug::AppliedTwice, &ALL_FAULTS);
}

#[test]
fn a_snapshot_without_one_of_its_tables() {
    is_found(Bug::SnapshotWithoutTable, &[CrashFollower, CrashLeader, IsolateFollower]);
}

#[test]
fn a_sync_that_a_chunk_server_skips() {
    is_found(Bug::ChunkSyncSkipped, &[PowerCutChunkServer, PowerCutAllChunkServers]);
}

#[test]
fn bytes_that_a_client_does_not_send_again() {
    is_found(Bug::ResendForgotten, &[PowerCutAllChunkServers, CrashAllChunkServers]);
}

#[test]
fn holders_that_a_recovery_leaves_unequal() {
    is_found(Bug::HoldersNotEqualised, &[PowerCutChunkServer, KillChunkServer, PowerCutAllChunkServers]);
}

#[test]
fn an_fsync_that_is_not_waited_for() {
    is_found(Bug::FsyncNotAwaited, &ALL_FAULTS);
}
