//! Breaks real clusters on purpose and says whether a promise was broken.
//!
//! | folder | what it owns |
//! |---|---|
//! | `scenario/` | one story each: load, faults, checks, a verdict |
//! | `nemesis/` | faults: kills, power cuts |
//! | `block.rs` | blocks that say which file, place and write they belong to |
//! | `ledger.rs` | what was acknowledged, kept outside the mount |
//! | `lab.rs` | a cluster with its folder, cleaned up however a scenario ends |
//! | `program.rs` | programs of others: there or not, run, how they ended |
//! | `report.rs` | verdicts and figures for a person and as JSON |
//!
//! Servers run only as processes (STYLE, layers 1).

pub mod args;
pub mod block;
pub mod lab;
pub mod ledger;
pub mod nemesis;
pub mod program;
pub mod report;
pub mod scenario;
