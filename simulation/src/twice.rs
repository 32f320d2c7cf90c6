//! Whether a seed decides what happens: two runs of it are compared, line by line (`trail.rs`).

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::run::{Outcome, Plan};

/// Lines before the first difference that are told.
const TOLD: usize = 5;

/// Where two trails part.
#[derive(Debug, PartialEq, Eq)]
struct Parting {
    /// From 1.
    line: usize,
    /// The last step before it.
    step: String,
    before: VecDeque<String>,
    /// `None`: it is over there.
    lines: [Option<String>; 2],
}

/// Runs a seed twice with `run`, which is told where to leave its trail; what came of the first, and that the other was different, if it was.
///
/// # Errors
/// When one of them breaks off, or its trail cannot be read.
pub fn run_twice(plan: &Plan, run: impl Fn(&Path) -> Result<Outcome>) -> Result<Outcome> {
    let trail = |number: u32| -> PathBuf {
        let name = format!("caribou-simulation-{}-{}-{number}.trail", plan.seed, std::process::id());
        std::env::temp_dir().join(name)
    };
    let trails = [trail(1), trail(2)];
    let mut first = run(&trails[0])?;
    let second = run(&trails[1])?;
    let parting = parting(&trails[0], &trails[1]).context("the trails of two runs")?;
    let mut differs = parting.map(|parting| parting.to_string());
    let told = |outcome: &Outcome| Outcome { record: None, ..outcome.clone() };
    if differs.is_none() && told(&first) != told(&second) {
        differs = Some(format!("their trails are equal and their ends are not: {first:?} and {second:?}"));
    }
    match differs {
        None => trails.iter().try_for_each(std::fs::remove_file)?,
        Some(differs) => {
            let [one, other] = trails.each_ref().map(|path| path.display());
            first.violations.push(format!("two runs of this seed differ: {differs}\n    trails: {one} {other}"));
        }
    }
    Ok(first)
}

fn parting(one: &Path, other: &Path) -> io::Result<Option<Parting>> {
    let lines = |path: &Path| -> io::Result<Lines<BufReader<File>>> { Ok(BufReader::new(File::open(path)?).lines()) };
    let (mut one, mut other) = (lines(one)?, lines(other)?);
    let (mut before, mut step) = (VecDeque::new(), String::new());
    for line in 1.. {
        let lines = [one.next().transpose()?, other.next().transpose()?];
        match lines {
            [None, None] => break,
            [Some(one), Some(other)] if one == other => {
                if let Some((_, number)) = one.split_once(" step ") {
                    number.clone_into(&mut step);
                }
                before.push_back(one);
                if before.len() > TOLD {
                    before.pop_front();
                }
            }
            lines => return Ok(Some(Parting { line, step, before, lines })),
        }
    }
    Ok(None)
}

impl fmt::Display for Parting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, step, before, lines } = self;
        let step = if step.is_empty() { "the first step".to_owned() } else { format!("step {step}") };
        write!(f, "after {step}, in line {line}")?;
        before.iter().try_for_each(|line| write!(f, "\n      {line}"))?;
        for (number, line) in lines.iter().enumerate() {
            write!(f, "\n    {} {}", number + 1, line.as_deref().unwrap_or("is over"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::time::Duration;

    use super::*;
    use crate::trail::Trail;

    fn plan(seed: u64) -> Plan {
        Plan { seed, steps: 1, clients: 1, faults: Vec::new(), planted: None }
    }

    /// A run that leaves these lines.
    fn leaves(path: &Path, lines: &[&str]) -> Result<Outcome> {
        let trail = Trail::default();
        trail.begin(path)?;
        lines.iter().zip(0..).for_each(|(line, at)| trail.line(at, || (*line).to_owned()));
        trail.end()?;
        let (steps, took) = (lines.len() as u64, Duration::ZERO);
        Ok(Outcome { violations: Vec::new(), record: None, steps, faults: BTreeMap::new(), took })
    }

    #[test]
    fn equal_runs_are_no_finding_and_leave_nothing() {
        let ran = run_twice(&plan(1), |path| leaves(path, &["step 1", "a → b"])).expect("both run");
        assert_eq!((ran.steps, ran.violations), (2, Vec::<String>::new()));
    }

    #[test]
    fn the_first_difference_is_told_with_what_came_before() {
        let number = std::cell::Cell::new(0);
        let ran = run_twice(&plan(2), |path| {
            number.set(number.get() + 1);
            match number.get() {
                1 => leaves(path, &["step 1", "a → b", "c"]),
                _ => leaves(path, &["step 1", "a → d"]),
            }
        });
        let found = ran.expect("both run").violations.pop().expect("they differ");
        for part in ["after step 1, in line 2", "\n      0 step 1", "\n    1 1 a → b", "\n    2 1 a → d"] {
            assert!(found.contains(part), "{part}: {found}");
        }
        for path in found.split_once("trails: ").expect("they are named").1.split(' ') {
            std::fs::remove_file(path).expect("they are kept");
        }
    }
}
