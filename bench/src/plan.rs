//! Groups of workloads, their sizes, and how long they may take.

use std::time::Duration;

use clap::ValueEnum;
use serde::Serialize;

use crate::system::System;

/// Workloads that are measured in one turn, on a fresh file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// Empty files and folders
    Metadata,
    /// 4 KiB files
    Small,
    /// One big file with two copies, and random reads and writes in it
    Big,
    /// One big file with one copy
    OneCopy,
    /// One big file with three copies
    ThreeCopies,
    /// Programs on a tree of files
    Programs,
}

impl Group {
    /// In the order in which they are measured and shown.
    pub const ALL: [Self; 6] =
        [Self::Metadata, Self::Small, Self::Big, Self::OneCopy, Self::ThreeCopies, Self::Programs];

    /// As a heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Metadata => "Metadata: empty files and folders",
            Self::Small => "4 KiB files",
            Self::Big => "A big file, two copies",
            Self::OneCopy => "A big file, one copy",
            Self::ThreeCopies => "A big file, three copies",
            Self::Programs => "Programs on a tree of files",
        }
    }

    /// Copies that each system with copies keeps of every chunk.
    pub fn copies(self) -> u32 {
        match self {
            Self::OneCopy => 1,
            Self::ThreeCopies => 3,
            _ => 2,
        }
    }

    /// About how long a full turn takes, bringing up and down included.
    fn seconds(self, system: System) -> u64 {
        let [local, caribou, shipped, synced] = match self {
            Self::Metadata => [10, 75, 30, 50],
            Self::Small => [6, 30, 20, 35],
            Self::Big => [20, 40, 40, 45],
            Self::OneCopy => [7, 16, 12, 16],
            Self::ThreeCopies => [7, 35, 20, 25],
            Self::Programs => [12, 220, 90, 150],
        };
        match system {
            System::Local => local,
            System::Caribou => caribou,
            System::MooseFs => shipped,
            System::MooseFsSynced => synced,
        }
    }
}

/// How much of each workload.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Sizes {
    /// Empty files over all threads at 1, 4 and 16 threads; half as many in a shared folder.
    pub metadata_files: [usize; 3],
    /// 4 KiB files over all threads at 1 and 16 threads.
    pub small_files: [usize; 2],
    pub big_bytes: u64,
    /// How long random reads and synced random writes are measured.
    pub random_time: Duration,
    /// Random writes without fsync.
    pub random_writes: usize,
    pub sqlite_transactions: usize,
    /// Files of the source tree at most.
    pub tree_files: usize,
}

impl Sizes {
    pub const FULL: Self = Self {
        metadata_files: [2000, 4000, 8000],
        small_files: [400, 1600],
        big_bytes: 1 << 30,
        random_time: Duration::from_secs(3),
        random_writes: 20_000,
        sqlite_transactions: 500,
        tree_files: usize::MAX,
    };
    pub const QUICK: Self = Self {
        metadata_files: [100, 400, 800],
        small_files: [50, 240],
        big_bytes: 100 << 20,
        random_time: Duration::from_millis(300),
        random_writes: 2000,
        sqlite_transactions: 50,
        tree_files: 800,
    };
}

/// What is measured, how often, on what.
#[derive(Debug, Clone)]
pub struct Plan {
    pub rounds: usize,
    pub groups: Vec<Group>,
    pub systems: Vec<System>,
    pub sizes: Sizes,
}

/// One system measured with one group in one round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// From 1.
    pub round: usize,
    pub group: Group,
    pub system: System,
}

impl Plan {
    /// All turns in their order: within a round, group by group, all systems one after another; each round begins with another system, and
    /// every second one goes backwards, so that none is always the first or always comes after the same one.
    pub fn turns(&self) -> Vec<Turn> {
        let mut turns = Vec::new();
        for round in 1..=self.rounds {
            for &group in &self.groups {
                let mut systems = self.systems.clone();
                let count = systems.len();
                if round % 2 == 1 {
                    systems.rotate_left((round - 1) % count);
                } else {
                    systems.rotate_left(round % count);
                    systems.reverse();
                }
                turns.extend(systems.into_iter().map(|system| Turn { round, group, system }));
            }
        }
        turns
    }

    /// About how long these turns take.
    pub fn estimate(&self, turns: &[Turn]) -> Duration {
        let seconds = turns.iter().map(|turn| turn.group.seconds(turn.system)).sum();
        let full = Duration::from_secs(seconds);
        // A tenth of the work, but as much bringing up and down.
        if self.sizes == Sizes::QUICK { full / 5 } else { full }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `make bench` may take.
    const BUDGET: Duration = Duration::from_secs(3600);

    fn full() -> Plan {
        Plan { rounds: 3, groups: Group::ALL.to_vec(), systems: System::ALL.to_vec(), sizes: Sizes::FULL }
    }

    #[test]
    fn a_full_run_is_planned_within_an_hour() {
        let plan = full();
        assert!(plan.estimate(&plan.turns()) <= BUDGET);
    }

    #[test]
    fn systems_alternate_and_none_is_always_first() {
        let turns = full().turns();
        assert_eq!(turns.len(), 3 * Group::ALL.len() * System::ALL.len());
        let firsts: Vec<_> = turns.iter().filter(|t| t.group == Group::Small).step_by(4).map(|t| t.system).collect();
        assert_eq!(firsts, [System::Local, System::Caribou, System::MooseFs]);
        for window in turns.windows(2) {
            assert_ne!(window[0], window[1]);
        }
    }
}
