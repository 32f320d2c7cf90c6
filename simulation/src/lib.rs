//! Caribou in one process on a paused clock: metadata nodes, chunk servers and clients are the real ones, on a network and disks that fail.
//!
//! | file | what it owns |
//! |---|---|
//! | `seeds.rs` | many runs, and what is said of them |
//! | `run.rs` | one run from a seed |
//! | `world.rs` | the machines |
//! | `meta_host.rs`, `chunk_host.rs`, `client_host.rs` | one machine each: how it starts and how it goes down |
//! | `crew.rs` | the clients: hired, at work, killed |
//! | `net.rs`, `clock.rs` | the lines between them, and the time |
//! | `faults.rs` | what is done to them |
//! | `workload/` | what clients do, and what must come of it |
//! | `invariants.rs`, `findings.rs` | what must always be true, and what was not |
//!
//! What a seed decides: machines, faults and their times, latencies, disks' times, operations. What it does not: the library's election
//! timeouts and the order in which tasks that are ready at the same moment run, which come from generators of their own.

mod chunk_host;
mod client_host;
mod clock;
mod crew;
mod faults;
mod findings;
mod invariants;
mod meta_host;
mod net;
pub mod run;
pub mod seeds;
mod workload;
mod world;

pub use faults::{ALL as ALL_FAULTS, Counts, Fault};
pub use run::{Outcome, Plan, run};
