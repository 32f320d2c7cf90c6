//! Medians, spreads and ratios of all runs: one row for each workload, one summary in it for each system.

use std::collections::BTreeMap;

use caribou_cli::bench::{Figure, Placement, Unit};
use serde::Serialize;

use crate::floor::{self, Judged};
use crate::plan::Group;
use crate::system::System;

/// What makes two figures the same workload.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Key {
    pub group: Group,
    pub workload: String,
    pub threads: usize,
    pub placement: Option<Placement>,
    pub unit: Unit,
}

/// All that was measured, in the order in which workloads were first seen.
#[derive(Debug, Default)]
pub struct Runs {
    keys: Vec<Key>,
    /// By place in `keys`, then by system; one figure for each round.
    figures: Vec<BTreeMap<System, Vec<Figure>>>,
}

/// One workload over all systems.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    #[serde(flatten)]
    pub key: Key,
    pub systems: BTreeMap<System, Summary>,
    /// How many times faster Caribou is than each other system.
    pub ratios: BTreeMap<System, Ratio>,
    /// Empty where nothing is demanded.
    pub floors: Vec<Judged>,
}

/// One workload on one system, over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    /// In the order of the rounds.
    pub runs: Vec<f64>,
    /// Medians over the rounds.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
}

/// Of medians; the spread is that of the single rounds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    pub of_medians: f64,
    pub min: f64,
    pub max: f64,
}

impl Runs {
    /// Notes what one turn gave.
    pub fn add(&mut self, group: Group, system: System, figures: Vec<Figure>) {
        for figure in figures {
            let key = Key {
                group,
                workload: figure.workload.clone(),
                threads: figure.threads,
                placement: figure.placement,
                unit: figure.unit,
            };
            let place = self.keys.iter().position(|k| *k == key).unwrap_or_else(|| {
                self.keys.push(key);
                self.figures.push(BTreeMap::new());
                self.keys.len() - 1
            });
            self.figures[place].entry(system).or_default().push(figure);
        }
    }

    /// Everything so far, judged.
    pub fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = self.keys.iter().zip(&self.figures).map(|(key, of)| row(key, of)).collect();
        rows.sort_by_key(|row| row.key.group);
        rows
    }
}

fn row(key: &Key, figures: &BTreeMap<System, Vec<Figure>>) -> Row {
    let systems: BTreeMap<System, Summary> =
        figures.iter().map(|(system, figures)| (*system, summary(figures))).collect();
    let mut ratios = BTreeMap::new();
    if let Some(ours) = systems.get(&System::Caribou) {
        for (system, theirs) in systems.iter().filter(|(system, _)| **system != System::Caribou) {
            ratios.insert(*system, ratio(key.unit, ours, theirs));
        }
    }
    let floors = floor::judge(key, &ratios);
    Row { key: key.clone(), systems, ratios, floors }
}

fn summary(figures: &[Figure]) -> Summary {
    let runs: Vec<f64> = figures.iter().map(|f| f.value).collect();
    let of_latencies = |part: fn(&caribou_cli::bench::Latency) -> f64| {
        let all: Vec<f64> = figures.iter().filter_map(|f| f.latency.as_ref().map(part)).collect();
        (!all.is_empty()).then(|| median(&all))
    };
    Summary {
        median: median(&runs),
        min: runs.iter().copied().fold(f64::INFINITY, f64::min),
        max: runs.iter().copied().fold(0.0, f64::max),
        p50_us: of_latencies(|l| l.p50_us),
        p99_us: of_latencies(|l| l.p99_us),
        runs,
    }
}

fn ratio(unit: Unit, ours: &Summary, theirs: &Summary) -> Ratio {
    let rounds = ours.runs.iter().zip(&theirs.runs).map(|(ours, theirs)| unit.times_faster(*ours, *theirs));
    let (min, max) = rounds.fold((f64::INFINITY, 0.0), |(min, max), r| (f64::min(min, r), f64::max(max, r)));
    Ratio { of_medians: unit.times_faster(ours.median, theirs.median), min, max }
}

/// The middle value, or the mean of the two middle ones; of at least one.
fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    if sorted.len().is_multiple_of(2) { f64::midpoint(sorted[middle - 1], sorted[middle]) } else { sorted[middle] }
}

#[cfg(test)]
pub mod tests {
    use caribou_cli::bench::Latency;

    use super::*;

    /// A figure with this value.
    pub fn figure(workload: &str, threads: usize, unit: Unit, value: f64) -> Figure {
        Figure {
            workload: workload.to_owned(),
            threads,
            placement: Some(Placement::Private),
            unit,
            value,
            operations: 10,
            seconds: 1.0,
            latency: Some(Latency { p50_us: value, p99_us: 2.0 * value, max_us: 3.0 * value }),
        }
    }

    #[test]
    fn medians_of_odd_and_even_counts() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 3.0, 2.0]), 2.5);
        assert_eq!(median(&[7.0]), 7.0);
    }

    #[test]
    fn a_row_has_spread_of_its_runs_and_ratios_of_medians_with_the_spread_of_rounds() {
        let mut runs = Runs::default();
        for (ours, theirs) in [(100.0, 50.0), (300.0, 100.0), (200.0, 200.0)] {
            runs.add(Group::Metadata, System::Caribou, vec![figure("create", 16, Unit::Operations, ours)]);
            runs.add(Group::Metadata, System::MooseFs, vec![figure("create", 16, Unit::Operations, theirs)]);
        }
        let rows = runs.rows();
        let ours = &rows[0].systems[&System::Caribou];
        assert_eq!((ours.median, ours.min, ours.max, ours.p99_us), (200.0, 100.0, 300.0, Some(400.0)));
        assert_eq!(rows[0].ratios[&System::MooseFs], Ratio { of_medians: 2.0, min: 1.0, max: 3.0 });
        assert!(!rows[0].ratios.contains_key(&System::Caribou));
    }

    #[test]
    fn less_time_is_a_better_ratio() {
        let mut runs = Runs::default();
        runs.add(Group::Programs, System::Caribou, vec![figure("untar", 1, Unit::Seconds, 5.0)]);
        runs.add(Group::Programs, System::MooseFsSynced, vec![figure("untar", 1, Unit::Seconds, 20.0)]);
        assert_eq!(runs.rows()[0].ratios[&System::MooseFsSynced].of_medians, 4.0);
    }

    #[test]
    fn workloads_keep_their_order_and_differ_by_threads_and_folder() {
        let mut runs = Runs::default();
        let shared = Figure { placement: Some(Placement::Shared), ..figure("create", 4, Unit::Operations, 1.0) };
        runs.add(Group::Programs, System::Caribou, vec![figure("untar", 1, Unit::Seconds, 1.0)]);
        let all = vec![figure("stat", 4, Unit::Operations, 1.0), figure("create", 4, Unit::Operations, 1.0), shared];
        runs.add(Group::Metadata, System::Caribou, all.clone());
        runs.add(Group::Metadata, System::Local, all);
        let rows = runs.rows();
        let seen: Vec<_> = rows.iter().map(|r| (r.key.workload.as_str(), r.systems.len())).collect();
        assert_eq!(seen, [("stat", 2), ("create", 2), ("create", 2), ("untar", 1)]);
    }
}
