//! The files against a small honest cluster in one process (`world.rs`): versions, grants, incarnations, recovery, servers that
//! lose what was not synced. The clock is paused.
//!
//! | file | what it owns |
//! |---|---|
//! | `world.rs` | the state of the fake cluster and its faults |
//! | `leader.rs` | its metadata side |
//! | `servers.rs`, `sparse.rs` | its chunk servers and their bytes |
//! | `rig.rs` | a client on it, and what tests ask of both |
//! | `writing.rs`, `reading.rs`, `faults.rs`, `sessions.rs`, `sizes.rs`, `attributes.rs`, `inline.rs` | scenarios |
//! | `random.rs` | random operations and faults against a naive model |

mod attributes;
mod faults;
mod inline;
mod leader;
mod random;
mod reading;
mod rig;
mod servers;
mod sessions;
mod sizes;
mod sparse;
mod world;
mod writing;
