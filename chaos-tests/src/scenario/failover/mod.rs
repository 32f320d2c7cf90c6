//! What a mounted client feels when the leader dies, or hands over: the distribution of the longest gap over many times.

mod plot;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::local::{Options, Part};
use caribou_cli::probe::{Probe, ProbeResult};
use serde::Serialize;

use crate::args::Setting;
use crate::distribution::{self, Bin, Distribution};
use crate::lab::Lab;
use crate::report::Verdict;

/// DESIGN 1.2.
const MEDIAN_LIMIT_MS: u128 = 350;
pub(super) const MAXIMUM_LIMIT_MS: u128 = 1000;
const HAND_OVER_LIMIT_MS: u128 = 100;
/// A time without kills, so that the gaps are told from the noise of the machine.
const CALM: Duration = Duration::from_secs(3);
/// How long a killed node may take to be one of them again.
const REJOIN_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often the leader is killed
    #[arg(long, default_value_t = 50)]
    pub kills: usize,
    /// It is not killed but told to hand its leadership over, so many times
    #[arg(long, conflicts_with = "report")]
    pub hand_over: bool,
    /// Report the figures without judging them (tests on a loaded machine)
    #[arg(long)]
    pub unjudged: bool,
    /// Where a plot of the gaps goes (SVG), with JSON beside it
    #[arg(long)]
    pub report: Option<PathBuf>,
}

/// The gaps as JSON.
#[derive(Debug, Serialize)]
struct Report<'a> {
    kills: usize,
    /// The longest gap without a kill.
    calm_ms: u128,
    #[serde(flatten)]
    distribution: Distribution,
    histogram: &'a [Bin],
    /// The longest gap of each kill, in their order.
    gaps_ms: Vec<u128>,
    operations: u64,
    violations: &'a [String],
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
    let how = if args.hand_over { How::HandOver } else { How::Kill };
    let felt = change_leaders(&mut lab, how, args.kills).await?;
    let mut verdict = Verdict::new("failover");
    let of = Distribution::of(&felt.gaps);
    let (median, maximum) = (of.median.as_millis(), of.maximum.as_millis());
    verdict.figure(how.name(), args.kills);
    verdict.figure("longest gap without a kill, ms", felt.calm.as_millis());
    verdict.figure("gap minimum, ms", of.minimum.as_millis());
    verdict.figure("gap median, ms", median);
    verdict.figure("gap p90, ms", of.p90.as_millis());
    verdict.figure("gap p99, ms", of.p99.as_millis());
    verdict.figure("gap maximum, ms", maximum);
    verdict.figure("operations completed", felt.result.completions);
    felt.check_work(&mut verdict);
    if !args.unjudged && args.hand_over {
        verdict.check(maximum < HAND_OVER_LIMIT_MS, || {
            format!("the longest gap of a planned hand-over is {maximum} ms, not below {HAND_OVER_LIMIT_MS} ms")
        });
    } else if !args.unjudged {
        verdict
            .check(median <= MEDIAN_LIMIT_MS, || format!("the median gap is {median} ms, above {MEDIAN_LIMIT_MS} ms"));
        verdict.check(maximum <= MAXIMUM_LIMIT_MS, || {
            format!("the longest gap is {maximum} ms, above {MAXIMUM_LIMIT_MS} ms")
        });
    }
    let histogram = distribution::histogram(&felt.gaps);
    println!("{} by the length of their gap in ms:", how.name());
    distribution::in_text(&histogram).iter().for_each(|line| println!("  {line}"));
    if let Some(path) = &args.report {
        felt.write(path, &histogram, &verdict.violations)?;
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

impl Felt {
    /// The plot, and JSON beside it.
    fn write(&self, path: &Path, histogram: &[Bin], violations: &[String]) -> Result<()> {
        let limit = |ms: u128| Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX));
        let svg = plot::svg(&self.gaps, limit(MAXIMUM_LIMIT_MS), limit(MEDIAN_LIMIT_MS));
        std::fs::write(path, svg).with_context(|| path.display().to_string())?;
        let report = Report {
            kills: self.gaps.len(),
            calm_ms: self.calm.as_millis(),
            distribution: Distribution::of(&self.gaps),
            histogram,
            gaps_ms: self.gaps.iter().map(Duration::as_millis).collect(),
            operations: self.result.completions,
            violations,
        };
        let json = path.with_extension("json");
        std::fs::write(&json, serde_json::to_vec_pretty(&report)?).with_context(|| json.display().to_string())
    }

    /// Work went on, and nothing failed.
    pub(super) fn check_work(&self, verdict: &mut Verdict) {
        verdict.check(self.completed_since > 0, || "no operation completed after the first kill".to_owned());
        verdict.violations.extend(self.result.errors.iter().take(50).cloned());
    }
}

/// How the leader goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum How {
    Kill,
    HandOver,
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Kill => "kills",
            Self::HandOver => "hand-overs",
        }
    }
}

/// Kills the leader, or has it hand over, so many times under a probe on a mount of its own. Each time all nodes are there and have caught up:
/// with another one away it would be the majority that is lost.
pub(super) async fn change_leaders(lab: &mut Lab, how: How, times: usize) -> Result<Felt> {
    let mount = lab.mount(&[]).await?;
    let probe = Probe::start(&mount)?;
    tokio::time::sleep(CALM).await;
    let calm = probe.take_longest_gap();
    let before = probe.completions();
    let mut gaps = Vec::new();
    for time in 1..=times {
        let leader = lab.leader().await?;
        probe.take_longest_gap();
        match how {
            How::Kill => lab.kill_leader().await.map(drop)?,
            How::HandOver => {
                let address = lab.cluster.layout().nodes(Part::Meta)[leader - 1].address.clone();
                caribou_cli::admin::transfer_leader(&address, 0).await?;
            }
        }
        tokio::time::sleep(Duration::from_millis(1500)).await;
        let gap = probe.take_longest_gap();
        if how == How::Kill {
            lab.cluster.start(Part::Meta, leader).await?;
            lab.cluster.wait_ready(REJOIN_PATIENCE).await?;
        }
        lab.wait_caught_up(REJOIN_PATIENCE).await?;
        println!("{} {time:>3}: node {leader}, longest gap {:>4} ms", how.name(), gap.as_millis());
        gaps.push(gap);
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let result = probe.stop()?;
    lab.cluster.unmount(&mount)?;
    Ok(Felt { calm, gaps, completed_since: result.completions - before, result })
}
