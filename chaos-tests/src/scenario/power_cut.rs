//! All nodes lose power at once: un-synced data are really gone (a control shows it), what was acknowledged is there.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::{Options, Part};

use super::control::Control;
use super::round::{Round, Stakes, leave};
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often the power is cut
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How long is written before each cut
    #[arg(long, default_value = "6s", value_parser = humantime::parse_duration)]
    pub load: Duration,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("power-cut");
    let options = Options::default();
    let mut lab = Lab::up_on_volumes(setting, &options).await?;
    let (mut stakes, mut seen, mut lost) = (Stakes::default(), 0, 0);
    for number in 0..args.rounds {
        let mut round = Round::load(&mut lab, number, args.load).await?;
        let control = Control::begin(&mut lab, number).await?;
        seen += control.seen();
        round.brace();
        lab.cut_all_power(&[(Part::Chunk, options.chunk), (Part::Meta, options.meta)])?;
        lab.cluster.kill_mount(round.mount())?;
        let remains = control.end(&mut lab)?;
        let again = round.check(&mut lab, &mut verdict, &mut stakes).await?;
        lost += remains.check(&again, &mut verdict).await?;
        leave(&mut lab, &again).await?;
    }
    verdict.violations.extend(super::replicas::replicas_differ(&lab).await?);
    verdict.figure("cuts of the whole cluster", args.rounds);
    verdict.figure("names acknowledged", stakes.names);
    verdict.figure("blocks fsynced", stakes.blocks);
    verdict.figure("un-synced control blocks on the servers' disks", seen);
    verdict.figure("of these lost", lost);
    verdict.check(lost > 0, || {
        format!("{seen} un-synced control blocks were on the servers' disks, none was lost: the power cuts did not take effect")
    });
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
