//! Between memory and bytes. `command` and `entry` know the disk (`proto/log/v1`), `wire` what nodes say to each other (`proto/raft/v1`).

pub(crate) mod command;
pub(crate) mod entry;
pub(crate) mod wire;
