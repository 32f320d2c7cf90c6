//! Whole clusters on this machine, in one folder; every process a real one with its own log file. The one launcher: the
//! command line, the demo and the chaos harness use it.
//!
//! Invariants: a process is signalled only if its start time is the one that was noted (no reused pid is ever hit); ports are
//! chosen once and kept over restarts; listeners are on loopback unless they have hosts of their own; what is started never holds a descriptor of its starter.

mod cluster;
mod layout;
mod plan;
mod process;
mod starter;

pub use cluster::{LocalCluster, detach};
pub use layout::{Layout, MountEntry, Node, Part};
pub use plan::{Host, Options};
pub use process::{Binaries, ProcessId, tail};
