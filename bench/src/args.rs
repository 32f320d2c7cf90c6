//! The command line.

use std::path::PathBuf;

use anyhow::Result;
use caribou_cli::failure::usage;
use caribou_cli::local::Binaries;
use clap::Parser;

use crate::plan::{Group, Plan, Sizes};
use crate::system::System;
use crate::{folder, run};

/// Rounds of a full run.
const ROUNDS: usize = 3;

/// Compare Caribou with MooseFS and the local disk on this machine. Needs root.
#[derive(Debug, Parser)]
#[command(name = "caribou-bench", version, about)]
pub struct Args {
    /// How often everything is measured; by default 3, with --quick 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=99))]
    rounds: Option<u8>,
    /// Only these groups of workloads
    #[arg(long, value_delimiter = ',', value_name = "GROUP,…")]
    only: Vec<Group>,
    /// Only these systems
    #[arg(long, value_delimiter = ',', value_name = "SYSTEM,…")]
    systems: Vec<System>,
    /// A tenth of the work: shows that everything runs, its figures mean little
    #[arg(long)]
    quick: bool,
    /// Where the results go; by default caribou-bench-results in the system's temporary folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where all systems keep their data, on a real disk; by default the system's temporary folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// The tree that is unpacked, copied and committed
    #[arg(long, value_name = "DIR", default_value = "/usr/include")]
    source: PathBuf,
    /// Folder with Caribou's programs; by default that of this one
    #[arg(long, env = "CARIBOU_BIN", value_name = "DIR")]
    bin: Option<PathBuf>,
    /// What is measured, for the report: a release or a commit
    #[arg(long, value_name = "TEXT", default_value = env!("CARGO_PKG_VERSION"))]
    revision: String,
    /// Leave the data and logs of a failed turn behind
    #[arg(long)]
    keep: bool,
}

/// What a run needs to know.
#[derive(Debug)]
pub struct Setting {
    pub plan: Plan,
    /// Absent if Caribou is not measured.
    pub binaries: Option<Binaries>,
    pub dir: PathBuf,
    pub out: PathBuf,
    pub source: PathBuf,
    pub revision: String,
    pub keep: bool,
}

impl Args {
    /// Runs it all.
    ///
    /// # Errors
    /// If anything could not be measured to its end; not if a floor was missed.
    pub fn run(self) -> Result<()> {
        if !rustix::process::geteuid().is_root() {
            return Err(usage("mounts, network namespaces and dropping caches need root"));
        }
        let dir = self.dir.unwrap_or_else(std::env::temp_dir);
        folder::check_is_on_disk(&dir)?;
        if !self.source.is_dir() {
            return Err(usage(format!("{} is no folder: name a tree with --source", self.source.display())));
        }
        let plan = Plan {
            rounds: self.rounds.map_or(if self.quick { 1 } else { ROUNDS }, usize::from),
            groups: chosen(&self.only, &Group::ALL),
            systems: chosen(&self.systems, &System::ALL),
            sizes: if self.quick { Sizes::QUICK } else { Sizes::FULL },
        };
        let needs_programs = plan.systems.contains(&System::Caribou);
        let binaries = needs_programs.then(|| Binaries::find(self.bin.as_deref())).transpose()?;
        run::run(&Setting {
            plan,
            binaries,
            dir,
            out: self.out.unwrap_or_else(|| std::env::temp_dir().join("caribou-bench-results")),
            source: self.source,
            revision: self.revision,
            keep: self.keep,
        })
    }
}

/// What was named, in the usual order; all if nothing was.
fn chosen<T: Copy + PartialEq>(named: &[T], all: &[T]) -> Vec<T> {
    all.iter().copied().filter(|one| named.is_empty() || named.contains(one)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_systems_are_chosen_by_name_and_keep_their_order() {
        let line = ["caribou-bench", "--only", "small,metadata", "--systems", "moosefs-synced,caribou"];
        let args = Args::try_parse_from(line).expect("names that exist");
        assert_eq!(chosen(&args.only, &Group::ALL), [Group::Metadata, Group::Small]);
        assert_eq!(chosen(&args.systems, &System::ALL), [System::Caribou, System::MooseFsSynced]);
        assert_eq!(chosen(&[], &System::ALL), System::ALL);
        assert!(Args::try_parse_from(["caribou-bench", "--only", "nothing"]).is_err());
    }
}
