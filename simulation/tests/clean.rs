//! Seeds that must run without a finding. `caribou-simulation --seeds N` runs more and longer ones.

use caribou_simulation::{ALL_FAULTS, Fault, Plan, run};

fn runs_clean(seed: u64) {
    let plan = Plan { seed, steps: 2000, clients: 4, faults: ALL_FAULTS.to_vec(), planted: None };
    let outcome = run(&plan).unwrap_or_else(|error| panic!("seed {seed}: {error:#}"));
    assert!(outcome.violations.is_empty(), "seed {seed}: {:#?}", outcome.violations);
    assert!(outcome.steps >= plan.steps, "seed {seed}: {} steps", outcome.steps);
    // Bits flip in the end, in each chunk that has more than one copy.
    let rotten = outcome.faults.get(&Fault::BitRot).copied().unwrap_or_default();
    assert!(outcome.faults.values().sum::<u64>() > rotten, "seed {seed}: no fault was injected");
}

#[test]
fn the_first_seeds_run_clean() {
    (1..=4).for_each(runs_clean);
}

#[test]
fn further_seeds_run_clean() {
    (5..=8).for_each(runs_clean);
}
