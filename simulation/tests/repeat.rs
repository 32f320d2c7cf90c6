//! A seed decides what happens: two runs of it, each in a process of its own, are equal, message by message and state by state.
//!
//! Not in this process: tokio numbers what it draws random numbers from for the process as a whole.

use std::process::Command;

fn runs_of_a_seed_are_equal(args: &[&str]) {
    let mut program = Command::new(env!("CARGO_BIN_EXE_caribou-simulation"));
    let output = program.arg("--twice").args(args).output().expect("the program runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn seeds_repeat() {
    runs_of_a_seed_are_equal(&["--seed", "1", "--seeds", "3", "--steps", "1000"]);
}

/// What differs here before the faults are over has nothing to do with folders that are copied.
#[test]
fn seeds_repeat_while_no_metadata_node_goes_down() {
    let faults = "KillChunkServer,PowerCutWithinJob,IsolateLeader,TransferLeader,KillClient,Loss";
    runs_of_a_seed_are_equal(&["--seed", "4", "--seeds", "2", "--steps", "1000", "--faults", faults]);
}
