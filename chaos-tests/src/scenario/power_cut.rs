//! All nodes lose power at once: un-synced data are really gone (a control shows it), what was acknowledged is there.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::{Options, Part};

use super::blocking;
use super::round::{IDS_PER_ROUND, Round, Stakes, leave};
use crate::args::Setting;
use crate::lab::Lab;
use crate::ledger::FileLedger;
use crate::report::Verdict;
use crate::workload::worker::{Work, Worker};

/// Blocks that are written and never fsynced: the control.
const CONTROL_BLOCKS: u64 = 32;

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
    let (mut stakes, mut lost) = (Stakes::default(), 0);
    for number in 0..args.rounds {
        let mut round = Round::load(&mut lab, number, args.load).await?;
        let name = format!("control{number}");
        let (id, path) = ((number as u64 + 1) * IDS_PER_ROUND - 1, round.mount().join(&name));
        let mut control = Worker::start(&Work::Control { path, id, blocks: CONTROL_BLOCKS })?;
        while control.progress() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        control.tell_to_stop();
        round.brace();
        lab.cut_all_power(&[(Part::Chunk, options.chunk), (Part::Meta, options.meta)])?;
        lab.cluster.kill_mount(round.mount())?;
        let control: FileLedger = control.finish()?;
        let again = round.check(&mut lab, &mut verdict, &mut stakes).await?;
        let path = again.join(&name);
        let (wrong, gone) = blocking(move || Ok((control.verify(id, &path), control.lost_unsynced(id, &path)))).await?;
        verdict.found(wrong);
        lost += gone;
        leave(&mut lab, &again).await?;
    }
    verdict.violations.extend(super::replicas::replicas_differ(&lab).await?);
    verdict.figure("cuts of the whole cluster", args.rounds);
    verdict.figure("names acknowledged", stakes.names);
    verdict.figure("blocks fsynced", stakes.blocks);
    verdict.figure("un-synced control blocks lost", lost);
    verdict.check(lost > 0, || "no un-synced control block was lost: the power cuts did not take effect".to_owned());
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
