//! One story each: load, faults, checks, a verdict.

pub mod chunk_kill;
mod control;
pub mod copy;
pub mod creates;
pub mod disk_swap;
pub mod exactly_once;
pub mod failover;
pub mod fio;
pub mod fsx;
pub mod git;
pub mod kill_all;
pub mod live_power_cut;
pub mod no_quorum;
pub mod pjdfstest;
pub mod posix;
pub mod power_cut;
pub(crate) mod replicas;
mod round;
pub mod scale;
pub mod smoke;
pub mod snapshot;
pub mod sqlite;
pub(crate) mod strays;
pub mod stress_ng;

use std::time::Duration;

use anyhow::Result;

use crate::lab::Lab;

/// How long a cluster may take to be healthy again after its faults have stopped (P5).
const HEAL_PATIENCE: Duration = Duration::from_secs(90);

/// Waits until nothing is below goal, in recovery or held, and no grant is left.
pub(crate) async fn healed(lab: &Lab) -> Result<()> {
    lab.cluster
        .wait_for(HEAL_PATIENCE, "healed cluster", |s| {
            s.healthy
                && s.totals.as_ref().is_some_and(|t| t.chunks_below_goal + t.chunks_in_recovery + t.chunks_held == 0)
        })
        .await
}

/// Runs blocking work (files on a mount) off the runtime.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await?
}
