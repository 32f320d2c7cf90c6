//! (map follows)

pub mod store;
