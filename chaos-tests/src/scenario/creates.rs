//! Committed creates per second through one client process, by the number of calls in flight.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use caribou_cli::local::Options;
use caribou_client::proto::meta::v1::{Caller, Create, Mkdir, mutation::Op};
use caribou_client::{Client, ClientConfig};
use hdrhistogram::Histogram;

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
    let meta = lab.cluster.meta_addresses();
    let load = args.clone();
    // All of the load is on one thread, so that the nodes get what is left of a small machine.
    let figures = tokio::task::spawn_blocking(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(meta, &load))
    });
    for Figure { in_flight, latencies, time } in figures.await?? {
        println!("{in_flight} in flight: {} creates", latencies.len());
        let rate = latencies.len() as f64 / time.as_secs_f64();
        verdict.figure(
            &format!("{in_flight} in flight"),
            format!(
                "{rate:.0} creates/s, p50 {} µs, p99 {} µs",
                latencies.value_at_quantile(0.5),
                latencies.value_at_quantile(0.99)
            ),
        );
    }
    let status = lab.cluster.status().await;
    if let Some(leader) = status.leader() {
        verdict.figure("commands, log fsyncs of the leader", format!("{}, {}", leader.commands, leader.log_fsyncs));
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// What was seen with so many calls in flight.
struct Figure {
    in_flight: usize,
    latencies: Histogram<u64>,
    time: Duration,
}

async fn measure(meta: Vec<String>, args: &Args) -> Result<Vec<Figure>> {
    let client = Client::connect(ClientConfig { meta, name: "creates".to_owned(), ..ClientConfig::default() }).await?;
    let caller = Caller { uid: 0, gid: 0, groups: vec![] };
    let mut figures = Vec::new();
    for &in_flight in &args.in_flight {
        let mkdir = Mkdir { parent: 1, name: format!("creates{in_flight}").into(), mode: 0o755 };
        let folder = client.meta().mutate(&caller, Op::Mkdir(mkdir)).await?.attr.context("attributes")?.inode;
        let next = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let end = started + args.time;
        let tasks: Vec<_> =
            (0..in_flight).map(|_| tokio::spawn(create_until(client.clone(), folder, next.clone(), end))).collect();
        let mut latencies = Histogram::<u64>::new(3)?;
        for task in tasks {
            latencies.add(task.await??)?;
        }
        figures.push(Figure { in_flight, latencies, time: started.elapsed() });
    }
    client.shutdown().await;
    Ok(figures)
}

async fn create_until(client: Client, folder: u64, next: Arc<AtomicU64>, end: Instant) -> Result<Histogram<u64>> {
    let caller = Caller { uid: 0, gid: 0, groups: vec![] };
    let mut latencies = Histogram::<u64>::new(3)?;
    while Instant::now() < end {
        let name = format!("file{}", next.fetch_add(1, Ordering::Relaxed));
        let create =
            Create { parent: folder, name: name.into(), mode: 0o644, exclusive: true, access: 6, ..Create::default() };
        let started = Instant::now();
        let body = client.meta().mutate(&caller, Op::Create(create)).await?;
        latencies.record(started.elapsed().as_micros() as u64)?;
        client.meta().release_claim(body.attr.map_or(0, |a| a.inode));
    }
    Ok(latencies)
}
