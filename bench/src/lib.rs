//! Compares Caribou with MooseFS and the local disk: same machine, same workloads (`caribou_cli::bench`), one system up at a time, turn by
//! turn over several rounds.
//!
//! | file | what it owns |
//! |---|---|
//! | `args.rs` | the command line |
//! | `plan.rs` | groups of workloads, their sizes, how long they may take |
//! | `run.rs` | rounds and turns: up, warm up, measure, down |
//! | `turn.rs` | what is measured in one turn |
//! | `programs.rs`, `source.rs` | tar, cp, sha256sum, git, sqlite3, rm on a tree, and the tree |
//! | `system/` | bringing each system up and down |
//! | `folder.rs` | the folder of a run; what a crashed one left behind |
//! | `machine.rs` | what it was measured on, and whether that was quiet |
//! | `differences.rs` | what differs between the systems, in words |
//! | `rows.rs` | medians, spreads and ratios of all runs |
//! | `floor.rs` | what Caribou has to reach |
//! | `report.rs`, `markdown.rs`, `plot.rs` | the results as JSON, as tables, as SVG |
//!
//! Invariants: only the system that is measured is up; a workload with an error fails the run; a missed floor does not.

pub mod args;
mod differences;
mod floor;
mod folder;
mod machine;
mod markdown;
mod plan;
mod plot;
mod programs;
mod report;
mod rows;
mod run;
mod source;
mod system;
mod turn;
