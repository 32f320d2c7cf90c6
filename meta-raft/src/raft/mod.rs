//! The Raft library behind one door: [`RaftNode`]. Its types appear nowhere outside of this folder (STACK, openraft 9).
//!
//! - [`node`], [`start`], [`init`], [`status`]: the door; `api` has its errors and answers, `config` its settings and limits.
//! - `proposer` (commands → entries) and `pace` (when), `reads` (linearizable views), `leadership` (who is ready), `upkeep` (snapshots and purges
//!   by bytes), `catch_up` (flushes, and who had better not lead after a restart).
//! - `log_store` (the Raft log), `state` (the tables on RocksDB), `snapshot` (checkpoints), `state_machine` (their adapter).
//! - `surroundings` (the network, the clock and the threads that it is given), `network` (gRPC between nodes), `identity` (whose folder, whose message), `codec` (bytes), `types` (the library's parameters).

mod api;
mod catch_up;
pub(crate) mod codec;
mod config;
mod files;
mod identity;
mod init;
mod leadership;
mod log_store;
mod network;
mod node;
mod pace;
mod proposer;
mod reads;
mod snapshot;
mod start;
mod state;
mod state_machine;
mod status;
mod surroundings;
#[cfg(test)]
pub(crate) mod tests;
mod types;
mod upkeep;

pub use api::{
    EventSink, FatalError, FollowerStatus, InitError, LeaderHint, LeaderState, Member, NotLeader, ProposeError,
    RaftStatus, Role, StartError, StateEvent, TransferError,
};
pub use config::RaftConfig;
pub use identity::ClusterIdentity;
pub(crate) use network::door;
pub use network::server::Server as RaftServer;
pub use node::{RaftNode, WeakRaftNode};
pub use state::StateView;
pub use surroundings::{Blocking, Dial, Line, Surroundings};
