//! Whole chunk servers in one process: real service, chain, control and store; clock, network and disks are the test's.
//!
//! `cluster.rs` builds them, `leader.rs` plays the leader, the other files hold the cases. Time is tokio's paused clock
//! except in `grpc.rs`, which goes through real sockets and folders.

mod broken;
mod cluster;
mod control;
mod damage;
mod grpc;
mod leader;
mod reading;
mod recovery;
mod strays;
mod writing;
