//! How long it takes until killed metadata nodes serve again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use caribou_cli::bench::calls;
use caribou_cli::local::Part;
use rustix::process::Signal;

use super::tree::Tree;
use crate::lab::Lab;

/// When nobody waits any longer.
const PATIENCE: Duration = Duration::from_secs(300);

/// SIGKILL of a follower: the time from its start until it answers and lags hardly behind.
pub(super) async fn of_a_follower(lab: &mut Lab) -> Result<Duration> {
    let leader = lab.leader().await?;
    let follower = (1..=lab.cluster.layout().meta.len()).find(|n| *n != leader).context("a node that follows")?;
    lab.cluster.signal(Part::Meta, follower, Signal::KILL)?;
    let started = Instant::now();
    lab.cluster.start(Part::Meta, follower).await?;
    lab.wait_caught_up(PATIENCE).await?;
    Ok(started.elapsed())
}

/// SIGKILL of all metadata nodes at once: the time from their start until a client that was there before gets an answer about a file.
pub(super) async fn of_all(lab: &mut Lab, tree: &Tree) -> Result<Duration> {
    let client = calls::connect(lab.cluster.meta_addresses(), "scale").await?;
    let nodes = 1..=lab.cluster.layout().meta.len();
    // A process that stands still does nothing any more, whatever time it takes to kill the others.
    for signal in [Signal::STOP, Signal::KILL] {
        nodes.clone().try_for_each(|number| lab.cluster.signal(Part::Meta, number, signal))?;
    }
    let started = Instant::now();
    nodes.clone().try_for_each(|number| lab.cluster.spawn(Part::Meta, number))?;
    let answer = tokio::time::timeout(PATIENCE, tree.stat(&client, 0)).await;
    answer.with_context(|| format!("no answer within {PATIENCE:?} after all nodes had been started"))??;
    let took = started.elapsed();
    client.shutdown().await;
    lab.cluster.wait_ready(PATIENCE).await?;
    lab.wait_caught_up(PATIENCE).await?;
    Ok(took)
}
