//! Caribou in one process on a paused clock: metadata nodes, chunk servers and clients are the real ones, on a network and disks that fail.
//!
//! | file | what it owns |
//! |---|---|
//! | `seeds.rs` | many runs, and what is said of them |
//! | `run.rs` | one run from a seed |
//! | `world.rs` | the machines |
//! | `meta_host.rs`, `chunk_host.rs`, `client_host.rs` | one machine each: how it starts and how it goes down |
//! | `crew.rs` | the clients: hired, at work, killed |
//! | `net.rs`, `clock.rs`, `entropy.rs` | the lines between them, the time, and what else is random |
//! | `faults/` | what is done to them |
//! | `workload/` | what clients do, and what must come of it |
//! | `invariants.rs`, `rest.rs` | what must be true always, and at the end |
//! | `fencing/` | nothing written under an old grant takes effect, seen from outside |
//! | `commands.rs`, `resends.rs` | what machines must never say to each other |
//! | `sessions.rs` | what clients are promised of their sessions, and which files they may have lost with one |
//! | `findings.rs`, `hearing.rs`, `places.rs` | what was not true, what nobody waits for, and which lost bytes are excused |
//! | `record.rs` | what was said and done until then |
//! | `trail.rs`, `twice.rs` | whether a second run of a seed does the same |
//!
//! What a seed decides: machines, faults and their times, latencies, disks' times, operations, and by `entropy.rs` election timeouts and the
//! order in which ready tasks run. What it does not, and what of a run is equal to the bit, stands in docs/adr/0006; `caribou-simulation --twice`
//! compares.

mod chunk_host;
mod client_host;
mod clock;
mod commands;
mod crew;
mod entropy;
mod faults;
mod fencing;
mod findings;
mod hearing;
mod invariants;
mod meta_host;
mod net;
mod places;
mod record;
mod resends;
mod rest;
pub mod run;
pub mod seeds;
mod sessions;
mod trail;
mod twice;
mod workload;
mod world;

pub use faults::{ALL as ALL_FAULTS, Counts, Fault};
pub use run::{Outcome, Plan, run};
