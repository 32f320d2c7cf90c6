//! The leader is killed (SIGKILL) in a steady rhythm and started again, while a load runs.

use std::future::Future;
use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::Part;

use crate::lab::Lab;

/// How long a killed node stays away.
const AWAY: Duration = Duration::from_millis(1500);

/// Kills the leader every `every` until `load` ends and at least `at_least` kills have been made. Returns the load's result and the kills.
pub async fn while_running<T>(
    lab: &mut Lab,
    every: Duration,
    at_least: usize,
    load: impl Future<Output = Result<T>>,
) -> Result<(T, usize)> {
    let mut load = std::pin::pin!(load);
    let mut done = None;
    let mut kills = 0;
    while done.is_none() || kills < at_least {
        tokio::select! {
            result = &mut load, if done.is_none() => {
                done = Some(result?);
                continue;
            }
            () = tokio::time::sleep(every.saturating_sub(AWAY)) => {}
        }
        let killed = lab.kill_leader().await?;
        kills += 1;
        tokio::select! {
            result = &mut load, if done.is_none() => done = Some(result?),
            () = tokio::time::sleep(AWAY) => {}
        }
        lab.cluster.start(Part::Meta, killed).await?;
    }
    Ok((done.expect("the loop ends when the load has"), kills))
}
