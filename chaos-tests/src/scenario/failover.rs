//! What a mounted client feels when the leader dies: the distribution of the longest gap over many kills.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::{Options, Part};
use caribou_cli::probe::Probe;

use crate::args::Setting;
use crate::lab::Lab;
use crate::report::{Verdict, distribution_ms};

/// DESIGN 1.2.
const MEDIAN_LIMIT_MS: u128 = 350;
const MAXIMUM_LIMIT_MS: u128 = 1000;
/// A time without kills, so that the gaps are told from the noise of the machine.
const CALM: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often the leader is killed
    #[arg(long, default_value_t = 50)]
    pub kills: usize,
    /// Report the figures without judging them (tests on a loaded machine)
    #[arg(long)]
    pub unjudged: bool,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mount = lab.mount(&[]).await?;
    let probe = Probe::start(&mount)?;
    tokio::time::sleep(CALM).await;
    let calm = probe.take_longest_gap();
    let before = probe.completions();
    let mut gaps = Vec::new();
    for kill in 1..=args.kills {
        lab.leader().await?;
        probe.take_longest_gap();
        let killed = lab.kill_leader().await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let gap = probe.take_longest_gap();
        lab.cluster.start(Part::Meta, killed).await?;
        lab.cluster.wait_ready(Duration::from_secs(20)).await?;
        println!("kill {kill:>3}: node {killed}, longest gap {:>4} ms", gap.as_millis());
        gaps.push(gap);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let result = probe.stop()?;
    let mut verdict = Verdict::new("failover");
    let (median, maximum) = distribution_ms(&gaps);
    verdict.figure("kills", args.kills);
    verdict.figure("longest gap without a kill, ms", calm.as_millis());
    verdict.figure("gap median, ms", median);
    verdict.figure("gap maximum, ms", maximum);
    verdict.figure("operations completed", result.completions);
    verdict.check(result.completions > before, || "no operation completed after the first kill".to_owned());
    verdict.violations.extend(result.errors.iter().take(50).cloned());
    if !args.unjudged {
        verdict
            .check(median <= MEDIAN_LIMIT_MS, || format!("the median gap is {median} ms, above {MEDIAN_LIMIT_MS} ms"));
        verdict.check(maximum <= MAXIMUM_LIMIT_MS, || {
            format!("the longest gap is {maximum} ms, above {MAXIMUM_LIMIT_MS} ms")
        });
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
