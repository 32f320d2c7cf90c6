//! Caribou's command line: everything that an operator does.
//!
//! | folder | what it owns |
//! |---|---|
//! | `cmd/` | one file per noun or verb of the command line |
//! | `local/` | whole clusters on this machine, every process a real one; the chaos harness uses it too |
//! | `demo/` | the story that `make demo` tells |
//! | `bench/` | measures mounted directories and clusters; the comparison with other systems uses it too |
//! | `probe.rs` | the longest gap that a mounted client feels |
//! | `tree.rs` | trees of files: choosing, copying, comparing byte by byte |
//! | `costs.rs` | what work costs the metadata nodes, from their own counters |
//! | `colour.rs` | colours, on terminals only |
//! | `admin.rs` | calls to the metadata nodes' AdminService |
//! | `failure.rs` | what a person reads when something is wrong, and the exit code |

pub mod admin;
pub mod bench;
pub mod cmd;
mod colour;
pub mod costs;
pub mod demo;
pub mod failure;
pub mod local;
pub mod probe;
pub mod tree;
