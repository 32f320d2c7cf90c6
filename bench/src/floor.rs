//! What Caribou has to reach against MooseFS, and whether it does. A missed floor is reported; it is no error.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::plan::Group;
use crate::rows::{Key, Ratio};
use crate::system::System;

/// Metadata, against MooseFS as shipped (which syncs nothing) and synced, at one thread and at 16.
const METADATA: [(usize, System, f64); 4] = [
    (16, System::MooseFs, 0.7),
    (1, System::MooseFs, 0.35),
    (16, System::MooseFsSynced, 1.5),
    (1, System::MooseFsSynced, 1.0),
];
/// Sequential write with two copies, cold reads, random reads; as shipped.
const BIG: f64 = 1.0;
/// 4 KiB files; as shipped.
const SMALL: f64 = 0.7;

/// One demand and what was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Judged {
    pub against: System,
    pub floor: f64,
    pub ratio: f64,
    pub ok: bool,
}

/// All demands on a workload whose rival was measured.
pub fn judge(key: &Key, ratios: &BTreeMap<System, Ratio>) -> Vec<Judged> {
    let judged = floors(key).into_iter().filter_map(|(against, floor)| {
        let ratio = ratios.get(&against)?.of_medians;
        Some(Judged { against, floor, ratio, ok: ratio >= floor })
    });
    judged.collect()
}

fn floors(key: &Key) -> Vec<(System, f64)> {
    match key.group {
        Group::Metadata => {
            let of_threads = METADATA.iter().filter(|(threads, ..)| *threads == key.threads);
            of_threads.map(|(_, against, floor)| (*against, *floor)).collect()
        }
        Group::Small => vec![(System::MooseFs, SMALL)],
        Group::Big if !key.workload.starts_with("random write") => vec![(System::MooseFs, BIG)],
        Group::OneCopy | Group::ThreeCopies if key.workload.starts_with("sequential read") => {
            vec![(System::MooseFs, BIG)]
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use caribou_cli::bench::Unit;

    use super::*;

    fn key(group: Group, workload: &str, threads: usize) -> Key {
        Key { group, workload: workload.to_owned(), threads, placement: None, unit: Unit::Operations }
    }

    fn ratios(shipped: f64, synced: f64) -> BTreeMap<System, Ratio> {
        let ratio = |of_medians| Ratio { of_medians, min: 0.0, max: 9.0 };
        BTreeMap::from([(System::MooseFs, ratio(shipped)), (System::MooseFsSynced, ratio(synced))])
    }

    fn verdicts(key: &Key, ratios: &BTreeMap<System, Ratio>) -> Vec<(f64, bool)> {
        judge(key, ratios).iter().map(|j| (j.floor, j.ok)).collect()
    }

    #[test]
    fn metadata_is_judged_at_one_and_sixteen_threads_against_both() {
        let sixteen = verdicts(&key(Group::Metadata, "create", 16), &ratios(0.7, 1.49));
        assert_eq!(sixteen, [(0.7, true), (1.5, false)]);
        let one = verdicts(&key(Group::Metadata, "stat", 1), &ratios(0.34, 1.0));
        assert_eq!(one, [(0.35, false), (1.0, true)]);
        assert!(verdicts(&key(Group::Metadata, "create", 4), &ratios(0.1, 0.1)).is_empty());
    }

    #[test]
    fn data_are_judged_against_the_shipped_one() {
        let at = |group, workload| verdicts(&key(group, workload, 1), &ratios(0.8, 0.1));
        assert_eq!(at(Group::Small, "write + fsync"), [(0.7, true)]);
        assert_eq!(at(Group::Big, "sequential write + fsync"), [(1.0, false)]);
        assert_eq!(at(Group::Big, "random read 4 KiB, cold"), [(1.0, false)]);
        assert!(at(Group::Big, "random write 4 KiB + fsync").is_empty());
        assert!(at(Group::OneCopy, "sequential write + fsync").is_empty());
        assert_eq!(at(Group::ThreeCopies, "sequential read, cold"), [(1.0, false)]);
        assert!(at(Group::Programs, "untar").is_empty());
    }

    #[test]
    fn a_rival_that_was_not_measured_is_not_judged() {
        let only_synced = BTreeMap::from([(System::MooseFsSynced, Ratio { of_medians: 2.0, min: 2.0, max: 2.0 })]);
        assert_eq!(verdicts(&key(Group::Metadata, "create", 16), &only_synced), [(1.5, true)]);
    }
}
