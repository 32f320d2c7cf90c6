//! kill -9 of all processes at once, restart: everything acknowledged is there, what was fsynced is byte-equal, replicas are equal.

use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::Options;

use super::writers::{Worker, Written, drop_caches, writer};
use super::{blocking, healed};
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

const WRITERS: u64 = 4;

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
    let (mut names, mut synced) = (0, 0);
    for round in 0..args.rounds {
        let mount = lab.mount(&[]).await?;
        let mut writers =
            (0..WRITERS).map(|n| writer(&mount, round as u64 * WRITERS + n)).collect::<Result<Vec<_>>>()?;
        let acknowledged = make_names(&mount, round, args.load).await?;
        writers.iter_mut().for_each(Worker::tell_to_stop);
        // In the middle of the writers' work: some of their last calls fail with the mount.
        lab.cluster.kill_all();
        let written = writers.into_iter().map(Worker::finish).collect::<Result<Vec<Written>>>()?;
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
        healed(&lab).await?;
        lab.cluster.unmount(&again)?;
    }
    verdict.violations.extend(crate::scenario::chunk_kill::replicas_differ(&lab).await?);
    verdict.figure("rounds", args.rounds);
    verdict.figure("names acknowledged", names);
    verdict.figure("blocks fsynced", synced);
    verdict.check(names > 100 && synced > 100, || "too little was written: the run says nothing".to_owned());
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// Makes folders for a while; returns those whose mkdir was acknowledged.
pub(super) async fn make_names(mount: &std::path::Path, round: usize, time: Duration) -> Result<Vec<String>> {
    let mount = mount.to_owned();
    blocking(move || {
        let end = std::time::Instant::now() + time;
        let mut made = Vec::new();
        for number in 0.. {
            if std::time::Instant::now() >= end {
                break;
            }
            let name = format!("round{round}-folder{number}");
            std::fs::create_dir(mount.join(&name))?;
            made.push(name);
        }
        Ok(made)
    })
    .await
}
