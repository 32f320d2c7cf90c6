//! Loads, each with what it needs to be judged: what was sent, what was acknowledged.

pub mod append;
pub mod blocks;
pub mod copies;
pub mod registers;
mod source;
pub mod storm;
pub mod universe;
pub mod worker;
