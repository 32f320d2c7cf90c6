//! Caribou's client library: everything that a mount, the CLI and the chaos harness need to use a cluster.
//!
//! | folder | what it owns |
//! |---|---|
//! | `meta/` | the session with the metadata leader: discovery, resume, exactly-once retries, claims (rules S1–S7) |
//! | `chunk/` | blocks on chunk servers: chains, reads with another replica on failure (rules W, R) |
//! | `file/` | open files: the write-back buffer, read-ahead, sync (W5–W7, W9) |
//! | `client.rs` | [`Client`]: one metadata session and the files on top of it |
//! | `config.rs`, `error.rs`, `errno.rs` | settings, the one error type, the one errno table |
//!
//! Not here: anything that knows FUSE, a command line or a server.

pub mod chunk;
mod client;
mod config;
pub mod errno;
mod error;
pub mod file;
pub mod meta;

pub use caribou_proto as proto;
pub use client::Client;
pub use config::ClientConfig;
pub use error::Error;
pub use file::{Created, Files, OpenFile};
pub use meta::MetaClient;
