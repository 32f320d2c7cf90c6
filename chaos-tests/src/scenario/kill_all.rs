//! kill -9 of all processes at once, restart: everything acknowledged is there, what was fsynced is byte-equal, replicas are equal.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::Options;

use super::round::{Round, Stakes, leave};
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often everything is killed
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How long is written before each kill
    #[arg(long, default_value = "6s", value_parser = humantime::parse_duration)]
    pub load: Duration,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("kill-all");
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mut stakes = Stakes::default();
    for number in 0..args.rounds {
        let mut round = Round::load(&mut lab, number, args.load).await?;
        round.brace();
        lab.cluster.kill_all();
        let again = round.check(&mut lab, &mut verdict, &mut stakes).await?;
        leave(&mut lab, &again).await?;
    }
    verdict.violations.extend(super::replicas::replicas_differ(&lab).await?);
    verdict.figure("rounds", args.rounds);
    verdict.figure("names acknowledged", stakes.names);
    verdict.figure("blocks fsynced", stakes.blocks);
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
