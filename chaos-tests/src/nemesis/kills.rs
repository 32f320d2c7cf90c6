//! Servers are killed (SIGKILL) in a steady rhythm and started again, while a load runs.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::Part;
use rustix::process::Signal;

use crate::lab::Lab;

/// How long a killed metadata node stays away.
const AWAY: Duration = Duration::from_millis(1500);

/// Kills the leader every `every` until `load` ends and at least `at_least` kills have been made. Returns the load's result and the kills.
pub async fn while_running<T>(
    lab: &mut Lab,
    every: Duration,
    at_least: usize,
    load: impl Future<Output = Result<T>>,
) -> Result<(T, usize)> {
    let mut load = Load::new(load);
    let mut kills = 0;
    while load.result.is_none() || kills < at_least {
        if load.run_for(every.saturating_sub(AWAY)).await? {
            continue;
        }
        let killed = lab.kill_leader().await?;
        kills += 1;
        load.run_for(AWAY).await?;
        lab.cluster.start(Part::Meta, killed).await?;
    }
    Ok((load.result.expect("the loop ends when the load has"), kills))
}

/// Every `every` kills the leader and, at the same moment, one chunk server, in turn, until `load` ends. The chunk server stays away
/// for a third of that time, and the next is killed only when it is back. Returns the load's result and the kills of each kind.
pub async fn of_leader_and_chunk_server<T>(
    lab: &mut Lab,
    every: Duration,
    load: impl Future<Output = Result<T>>,
) -> Result<(T, usize)> {
    let chunk_servers = lab.cluster.layout().chunk.len();
    let chunk_away = (every / 3).max(AWAY);
    let mut load = Load::new(load);
    let mut kills = 0;
    while load.result.is_none() {
        if load.run_for(every.saturating_sub(chunk_away)).await? {
            break;
        }
        let number = kills % chunk_servers + 1;
        lab.cluster.signal(Part::Chunk, number, Signal::KILL)?;
        let killed = lab.kill_leader().await?;
        kills += 1;
        load.run_for(AWAY).await?;
        lab.cluster.start(Part::Meta, killed).await?;
        load.run_for(chunk_away.saturating_sub(AWAY)).await?;
        lab.cluster.start(Part::Chunk, number).await?;
    }
    lab.cluster.wait_ready(Duration::from_secs(30)).await?;
    Ok((load.result.expect("the loop ends when the load has"), kills))
}

/// The load, and what came out of it.
struct Load<'a, T> {
    future: Pin<Box<dyn Future<Output = Result<T>> + 'a>>,
    result: Option<T>,
}

impl<'a, T> Load<'a, T> {
    fn new(load: impl Future<Output = Result<T>> + 'a) -> Self {
        Self { future: Box::pin(load), result: None }
    }

    /// Lets it work for `time`; true if it has ended just now. What has ended takes the whole time.
    async fn run_for(&mut self, time: Duration) -> Result<bool> {
        tokio::select! {
            result = &mut self.future, if self.result.is_none() => {
                self.result = Some(result?);
                Ok(true)
            }
            () = tokio::time::sleep(time) => Ok(false),
        }
    }
}
