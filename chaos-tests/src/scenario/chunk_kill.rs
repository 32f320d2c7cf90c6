//! A chunk server, and separately a writing client, are killed during writes with two copies: no error at other clients, no fsynced
//! byte lost, replicas equal afterwards, the goal restored.

use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::local::{Options, Part};
use rustix::process::Signal;

use super::replicas::replicas_differ;
use super::{blocking, healed};
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;
use crate::workload::blocks::{Written, writer};
use crate::workload::worker::{Worker, drop_caches};

const WRITERS: u64 = 3;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often a chunk server is killed, in turn
    #[arg(long, default_value_t = 3)]
    pub kills: usize,
    /// How long a killed chunk server stays away
    #[arg(long, default_value = "8s", value_parser = humantime::parse_duration)]
    pub away: Duration,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("chunk-kill");
    let options = Options::default();
    let mut lab = Lab::up(setting, &options).await?;
    let (mount, doomed) = (lab.mount(&[]).await?, lab.mount(&[]).await?);
    let writers = (0..WRITERS).map(|n| writer(&mount, n)).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for kill in 0..args.kills {
        let number = kill % options.chunk + 1;
        let before: u64 = writers.iter().map(Worker::progress).sum();
        lab.cluster.signal(Part::Chunk, number, Signal::KILL)?;
        tokio::time::sleep(args.away).await;
        let after: u64 = writers.iter().map(Worker::progress).sum();
        verdict.check(after > before, || format!("no fsync succeeded while chunk server {number} was away"));
        lab.cluster.start(Part::Chunk, number).await?;
        lab.cluster.wait_ready(Duration::from_secs(30)).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    // A client dies in the middle of its writes; another one then writes the same file.
    let mut dying = writer(&doomed, 77)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let killed_after = dying.progress();
    dying.tell_to_stop();
    lab.cluster.kill_mount(&doomed)?;
    let dead: Written = dying.finish()?;
    drop_caches()?;
    let path = mount.join("written77");
    let (ledger, read) = (dead.ledger.clone(), path.clone());
    verdict.found(blocking(move || Ok(ledger.verify(77, &read))).await?);
    let taken_over = path.clone();
    let write = blocking(move || {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&taken_over)?;
        file.write_all_at(&crate::block::make(77, 0, u64::MAX), 0)?;
        Ok(file.sync_all()?)
    });
    let result = tokio::time::timeout(Duration::from_secs(60), write)
        .await
        .context("a dead writer's file could not be written within 60 s (W8)");
    verdict.check(matches!(result, Ok(Ok(()))), || format!("after the writer's death: {result:?}"));

    let mut synced = 0;
    let mut written: Vec<Written> = Vec::new();
    for writer in writers {
        written.push(blocking(move || writer.finish()).await?);
    }
    healed(&lab).await?;
    drop_caches()?;
    for file in written {
        synced += file.ledger.synced_blocks();
        verdict.found(file.errors);
        let path = file.path;
        verdict.found(blocking(move || Ok(file.ledger.verify(file.id, &path))).await?);
    }
    verdict.figure("chunk servers killed", args.kills);
    verdict.figure("blocks fsynced", synced);
    verdict.figure("fsyncs of the killed client", killed_after);
    verdict.check(killed_after > 0, || "the killed client had written nothing".to_owned());
    verdict.violations.extend(replicas_differ(&lab).await?);
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}
