//! Caribou's metadata node: a pure state machine (`fsm`), replicated by Raft (`raft`), offered over gRPC (`service`), with the
//! loops that only the leader runs (`leader`). `server` puts them together; `config`, `listen` and `usage` are what a process needs besides.

pub mod config;
pub mod embedded;
pub mod folder_image;
pub mod fsm;
pub mod leader;
mod listen;
pub mod raft;
pub mod server;
mod service;
mod usage;
