//! Committed creates per second through one client process, by the number of calls in flight: `caribou bench meta` on a cluster of its own.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::bench::commits;
use caribou_cli::local::Options;

use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Calls in flight
    #[arg(long, default_value = "1,16,64,256", value_delimiter = ',')]
    pub in_flight: Vec<usize>,
    /// How long each is measured
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub time: Duration,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("creates");
    let lab = Lab::up(setting, &Options::default()).await?;
    let load = commits::Load {
        meta: lab.cluster.meta_addresses(),
        in_flight: args.in_flight.clone(),
        time: args.time,
        // The cluster is thrown away.
        remove: false,
    };
    for commits in commits::run(load, Arc::default()).await? {
        let (in_flight, creates, costs) = (commits.in_flight, commits.creates, commits.create_costs);
        println!("{in_flight} in flight: {} creates", creates.operations);
        let latency = creates.latency.context("at least one create")?;
        verdict.figure(
            &format!("{in_flight} in flight"),
            format!("{:.0} creates/s, p50 {:.0} µs, p99 {:.0} µs", creates.value, latency.p50_us, latency.p99_us),
        );
        if let Some(costs) = costs {
            verdict.figure(&format!("{in_flight} in flight, each on all nodes"), costs);
        }
    }
    let status = lab.cluster.status().await;
    if let Some(leader) = status.leader() {
        verdict
            .figure("commands, log fsyncs of the leader", format!("{}, {}", leader.commands, leader.costs.log_fsyncs));
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
