//! What must be true of a run, checked from what was recorded.

pub mod copy;
pub mod logs;
pub mod processes;
pub mod tree;

pub use caribou_histories::{finding, names};
