//! File descriptors: the program takes all that it may have, and does not start with fewer than its configuration can need.
//!
//! A server that runs short of them while it works can open no chunk and take no connection. The limit is the process's: the library leaves it alone.

use crate::config::Config;
use crate::limits;
use crate::store::OPEN_CHUNKS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The process may not have enough open at once.
#[derive(Debug, thiserror::Error)]
#[error(
    "this process may have {allowed} file descriptors and can need {needed} ({disks} data folders, {connections} \
     connections): raise its limit (ulimit -n, LimitNOFILE= of its unit), or lower connections"
)]
pub struct TooFew {
    allowed: u64,
    needed: u64,
    disks: usize,
    connections: usize,
}

/// Raises the soft limit of this process to the hard one. Fails if that is not enough for the configuration.
pub fn provide(config: &Config) -> Result<(), TooFew> {
    let (disks, connections) = (config.data.len(), config.connections);
    let needed = (disks * OPEN_CHUNKS).saturating_add(connections) as u64 + limits::OTHER_DESCRIPTORS;
    let allowed = raise();
    if allowed < needed { Err(TooFew { allowed, needed, disks, connections }) } else { Ok(()) }
}

/// How many there may be from now on.
fn raise() -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    // `None`: any number. Where the system keeps its limit, the soft one holds.
    let allowed = if raised.is_ok() { maximum } else { current };
    allowed.unwrap_or(u64::MAX)
}
