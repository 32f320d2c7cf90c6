//! Three nodes in one process over real gRPC on loopback, each with its own folder and server runtime.

pub(crate) mod cluster;
mod failover;
mod identity;
mod snapshots;
