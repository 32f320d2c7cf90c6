//! Breaks real clusters on purpose and says whether a promise was broken.
//!
//! | folder | what it owns |
//! |---|---|
//! | `run/` | `caribou-chaos run`: faults of all kinds under all loads for some minutes, every check, a report |
//! | `scenario/` | one story each: load, faults, checks, a verdict |
//! | `nemesis/` | faults: processes, lines, disks and power, mounts |
//! | `workload/` | loads, each with what it needs to be judged |
//! | `check/` | linearizable names, the tree, copies of trees, logs, what processes hold |
//! | `block.rs` | blocks that say which file, place and write they belong to |
//! | `ledger.rs` | what was acknowledged, kept outside the mount |
//! | `lab.rs` | a cluster with its folder, cleaned up however a scenario ends |
//! | `network.rs` | hosts: network namespaces on a bridge |
//! | `program.rs` | programs of others: there or not, run, how they ended |
//! | `report.rs` | verdicts and figures for a person and as JSON |
//! | `distribution.rs`, `plot.rs` | percentiles and histograms; parts of plots |
//! | `wait.rs` | waiting for what nobody tells of |
//!
//! Servers run only as processes (STYLE, layers 1); of the chunk server's library only what decodes its files is used.

pub mod args;
pub mod block;
pub mod check;
pub mod distribution;
pub mod lab;
pub mod ledger;
pub mod nemesis;
pub mod network;
pub mod plot;
pub mod program;
pub mod report;
pub mod run;
pub mod scenario;
pub mod wait;
pub mod workload;
