//! What a mounted client feels when the leader dies: the distribution of the longest gap over many kills.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::{Options, Part};
use caribou_cli::probe::{Probe, ProbeResult};

use crate::args::Setting;
use crate::lab::Lab;
use crate::report::{Verdict, distribution_ms};

/// DESIGN 1.2.
const MEDIAN_LIMIT_MS: u128 = 350;
pub(super) const MAXIMUM_LIMIT_MS: u128 = 1000;
/// A time without kills, so that the gaps are told from the noise of the machine.
const CALM: Duration = Duration::from_secs(3);
/// How long a killed node may take to be one of them again.
const REJOIN_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often the leader is killed
    #[arg(long, default_value_t = 50)]
    pub kills: usize,
    /// Report the figures without judging them (tests on a loaded machine)
    #[arg(long)]
    pub unjudged: bool,
}

/// What the probe felt.
#[derive(Debug, Clone)]
pub(super) struct Felt {
    /// The longest gap without a kill.
    pub(super) calm: Duration,
    /// The longest gap of each kill.
    pub(super) gaps: Vec<Duration>,
    /// Operations completed after the first kill.
    pub(super) completed_since: u64,
    pub(super) result: ProbeResult,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let felt = kill_leaders(&mut lab, args.kills).await?;
    let mut verdict = Verdict::new("failover");
    let (median, maximum) = distribution_ms(&felt.gaps);
    verdict.figure("kills", args.kills);
    verdict.figure("longest gap without a kill, ms", felt.calm.as_millis());
    verdict.figure("gap median, ms", median);
    verdict.figure("gap maximum, ms", maximum);
    verdict.figure("operations completed", felt.result.completions);
    felt.check_work(&mut verdict);
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

impl Felt {
    /// Work went on, and nothing failed.
    pub(super) fn check_work(&self, verdict: &mut Verdict) {
        verdict.check(self.completed_since > 0, || "no operation completed after the first kill".to_owned());
        verdict.violations.extend(self.result.errors.iter().take(50).cloned());
    }
}

/// Kills the leader so many times under a probe on a mount of its own. Each time all nodes are there and have caught up: with another one
/// away it would be the majority that is lost.
pub(super) async fn kill_leaders(lab: &mut Lab, kills: usize) -> Result<Felt> {
    let mount = lab.mount(&[]).await?;
    let probe = Probe::start(&mount)?;
    tokio::time::sleep(CALM).await;
    let calm = probe.take_longest_gap();
    let before = probe.completions();
    let mut gaps = Vec::new();
    for kill in 1..=kills {
        lab.leader().await?;
        probe.take_longest_gap();
        let killed = lab.kill_leader().await?;
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let gap = probe.take_longest_gap();
        lab.cluster.start(Part::Meta, killed).await?;
        lab.cluster.wait_ready(REJOIN_PATIENCE).await?;
        lab.wait_caught_up(REJOIN_PATIENCE).await?;
        println!("kill {kill:>3}: node {killed}, longest gap {:>4} ms", gap.as_millis());
        gaps.push(gap);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let result = probe.stop()?;
    lab.cluster.unmount(&mount)?;
    Ok(Felt { calm, gaps, completed_since: result.completions - before, result })
}
