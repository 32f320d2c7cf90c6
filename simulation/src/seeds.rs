//! Many seeds, some at the same time: what was found, and how to run one again.
//!
//! Each seed has a process of its own: nothing of another run decides anything in it, and one that panics (which ends a release build) leaves
//! the others alone.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use caribou_planted::Bug;
use clap::Parser;
use parking_lot::Mutex;

use crate::faults::{ALL as ALL_FAULTS, Counts, Fault};
use crate::run::{Outcome, Plan, run_on_trail};
use crate::twice::run_twice;

/// Runs Caribou's real code in simulated clusters with faults, one for each seed
#[derive(Debug, Parser)]
pub struct Args {
    /// The first seed
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// So many seeds from there on
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Operations and faults of each run
    #[arg(long, default_value_t = 20_000)]
    steps: u64,
    /// Clients of each run
    #[arg(long, default_value_t = 4)]
    clients: u32,
    /// Faults of these kinds only
    #[arg(long, value_delimiter = ',', value_parser = fault_named)]
    faults: Vec<Fault>,
    /// Plants a bug first, by its name (debug builds only): it must be found
    #[arg(long, value_parser = bug_named)]
    planted: Option<Bug>,
    /// Runs at the same time
    #[arg(long, default_value_t = 2)]
    parallel: usize,
    /// Run each seed twice: it is bad if they differ, and where they part is told
    #[arg(long)]
    twice: bool,
    /// Print what came of one seed as JSON
    #[arg(long)]
    json: bool,
    /// Write all that it does to this file, to compare it with that of another run
    #[arg(long, requires = "json")]
    trail: Option<PathBuf>,
}

impl Args {
    fn plan(&self, seed: u64) -> Plan {
        let faults = if self.faults.is_empty() { ALL_FAULTS.to_vec() } else { self.faults.clone() };
        Plan { seed, steps: self.steps, clients: self.clients, faults, planted: self.planted }
    }
}

/// Runs them, says what was found, and whether that is as it must be: nothing, or a planted bug.
///
/// # Errors
/// When a bug is to be planted in a release build, which has none; when one run as JSON could not be set up.
pub fn run_all(args: &Args) -> Result<bool> {
    ensure!(args.planted.is_none() || cfg!(debug_assertions), "bugs can be planted in debug builds only");
    if args.json {
        let outcome = run_on_trail(&args.plan(args.seed), args.trail.as_deref())?;
        println!("{}", serde_json::to_string(&outcome)?);
        return Ok(true);
    }
    let seeds: Vec<u64> = (args.seed..args.seed + args.seeds).collect();
    let next = AtomicUsize::new(0);
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..args.parallel.max(1) {
            scope.spawn(|| {
                while let Some(seed) = seeds.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (plan, started) = (args.plan(*seed), Instant::now());
                    let outcome = match args.twice {
                        true => run_twice(&plan, |trail| apart(&plan, Some(trail))),
                        false => apart(&plan, None),
                    };
                    say(&plan, &outcome, started.elapsed());
                    results.lock().push((plan, outcome, started.elapsed()));
                }
            });
        }
    });
    let results = results.into_inner();
    let bad: Vec<_> = results.iter().filter(|(_, outcome, _)| !is_clean(outcome)).collect();
    let mut faults = Counts::default();
    let outcomes: Vec<&Outcome> = results.iter().filter_map(|(_, outcome, _)| outcome.as_ref().ok()).collect();
    for outcome in &outcomes {
        outcome.faults.iter().for_each(|(fault, count)| *faults.entry(*fault).or_default() += count);
    }
    let steps: u64 = outcomes.iter().map(|outcome| outcome.steps).sum();
    let injected: u64 = faults.values().sum();
    for (fault, count) in &faults {
        println!("  {fault:?}: {count}");
    }
    // Once more, where whoever looks for it looks first.
    bad.iter().for_each(|(plan, outcome, took)| say(plan, outcome, *took));
    let (seeds, kinds, bad) = (results.len(), faults.len(), bad.len());
    println!("{seeds} seeds, {steps} steps, {injected} faults of {kinds} kinds, {bad} bad");
    Ok(match args.planted {
        None => bad == 0,
        Some(bug) => {
            println!("{bug:?} was {}", if bad > 0 { "found" } else { "NOT found" });
            bad > 0
        }
    })
}

/// Runs one in a process of its own.
fn apart(plan: &Plan, trail: Option<&Path>) -> Result<Outcome> {
    let mut command = Command::new(std::env::current_exe().context("this program")?);
    command.args(plan.args()).arg("--json").stderr(Stdio::inherit());
    if let Some(path) = trail {
        command.arg("--trail").arg(path);
    }
    let output = command.output().context("a run's process")?;
    ensure!(output.status.success(), "its process ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn fault_named(name: &str) -> Result<Fault, String> {
    let known = ALL_FAULTS.iter().find(|fault| format!("{fault:?}") == name);
    known.copied().ok_or_else(|| format!("one of {ALL_FAULTS:?}"))
}

fn bug_named(name: &str) -> Result<Bug, String> {
    let known = caribou_planted::ALL.iter().find(|bug| format!("{bug:?}") == name);
    known.copied().ok_or_else(|| format!("one of {:?}", caribou_planted::ALL))
}

fn is_clean(outcome: &Result<Outcome>) -> bool {
    matches!(outcome, Ok(outcome) if outcome.violations.is_empty())
}

fn say(plan: &Plan, outcome: &Result<Outcome>, real: Duration) {
    let seed = plan.seed;
    match outcome {
        Ok(outcome) => {
            let injected: u64 = outcome.faults.values().sum();
            let (simulated, real) = (outcome.took.as_secs_f64(), real.as_secs_f64());
            println!("seed {seed}: {} steps, {injected} faults, {simulated:.0} s in {real:.1} s", outcome.steps);
            outcome.violations.iter().for_each(|violation| println!("  ! {violation}"));
            outcome.record.iter().for_each(|path| println!("  what was said and done: {}", path.display()));
        }
        Err(error) => println!("seed {seed}: broken off: {error:#}"),
    }
    if !is_clean(outcome) {
        println!("  again: caribou-simulation {}", plan.args().join(" "));
    }
}
