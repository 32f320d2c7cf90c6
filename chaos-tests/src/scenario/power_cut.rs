//! All nodes lose power at once: un-synced data are really gone (a control shows it), what was acknowledged is there.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::{Options, Part};

use super::kill_all::make_names;
use super::writers::{Work, Worker, Written, drop_caches, writer};
use super::{blocking, healed};
use crate::args::Setting;
use crate::lab::Lab;
use crate::ledger::FileLedger;
use crate::report::Verdict;

const WRITERS: u64 = 4;
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
    let (mut names, mut synced, mut lost) = (0, 0, 0);
    for round in 0..args.rounds {
        let mount = lab.mount(&[]).await?;
        let mut writers = (0..WRITERS).map(|n| writer(&mount, round as u64 * 100 + n)).collect::<Result<Vec<_>>>()?;
        let acknowledged = make_names(&mount, round, args.load).await?;
        let (id, path) = (round as u64 * 100 + 99, mount.join(format!("control{round}")));
        let mut control = Worker::start(&Work::Control { path, id, blocks: CONTROL_BLOCKS })?;
        while control.progress() == 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        control.tell_to_stop();
        writers.iter_mut().for_each(Worker::tell_to_stop);
        lab.cut_all_power(&[(Part::Chunk, options.chunk), (Part::Meta, options.meta)])?;
        lab.cluster.kill_mount(&mount)?;
        let written = writers.into_iter().map(Worker::finish).collect::<Result<Vec<Written>>>()?;
        let control: FileLedger = control.finish()?;
        lab.cluster.start_all().await?;
        lab.cluster.wait_ready(Duration::from_secs(60)).await?;
        let again = lab.mount(&[]).await?;
        drop_caches()?;
        for name in &acknowledged {
            let there = again.join(name).exists();
            verdict.check(there, || format!("round {round}: {name} was acknowledged and is gone"));
        }
        names += acknowledged.len();
        for file in written {
            synced += file.ledger.synced_blocks();
            let path = again.join(file.path.file_name().unwrap_or_default());
            verdict.violations.extend(blocking(move || Ok(file.ledger.verify(file.id, &path))).await?);
        }
        let path = again.join(format!("control{round}"));
        let (wrong, gone) = blocking(move || Ok((control.verify(id, &path), control.lost_unsynced(id, &path)))).await?;
        verdict.violations.extend(wrong);
        lost += gone;
        healed(&lab).await?;
        lab.cluster.unmount(&again)?;
    }
    verdict.violations.extend(crate::scenario::chunk_kill::replicas_differ(&lab).await?);
    verdict.figure("cuts of the whole cluster", args.rounds);
    verdict.figure("names acknowledged", names);
    verdict.figure("blocks fsynced", synced);
    verdict.figure("un-synced control blocks lost", lost);
    verdict.check(names > 100 && synced > 100, || "too little was written: the run says nothing".to_owned());
    verdict.check(lost > 0, || "no un-synced control block was lost: the power cuts did not take effect".to_owned());
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
