//! What must be true of a run, checked from what was recorded.

mod explain;
pub mod finding;
pub mod logs;
pub mod names;
pub mod processes;
pub mod tree;
