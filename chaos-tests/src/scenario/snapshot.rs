//! A follower that was away for longer than the log is kept comes back by snapshot while clients work; `caribou status` shows it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use caribou_cli::local::{Options, Part};
use rustix::process::Signal;

use super::blocking;
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

/// Small limits, so that the log is purged soon.
pub(crate) const META_CONFIG: &str = "[raft]\nsnapshot_after = \"1MiB\"\nlog_keep = \"1MiB\"\n";
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Folders that are made while the follower is away and while it comes back, in each of 4 threads, until its log position is purged
    #[arg(long, default_value_t = 3000)]
    pub folders: usize,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("snapshot");
    let options = Options { meta_config: META_CONFIG.to_owned(), ..Options::default() };
    let mut lab = Lab::up(setting, &options).await?;
    let mount = lab.mount(&[]).await?;
    let leader = lab.leader().await?;
    let follower = (1..=3).find(|n| *n != leader).context("three nodes")?;
    let applied =
        |s: &caribou_cli::cmd::status::ClusterStatus| s.nodes.iter().map(|n| n.applied_index).max().unwrap_or_default();
    let left_at = applied(&lab.cluster.status().await);
    lab.cluster.signal(Part::Meta, follower, Signal::KILL)?;

    let started = Instant::now();
    let mut made = 0;
    // Until the leader has purged what the follower would need.
    loop {
        let (dir, count) = (mount.clone(), args.folders / 10);
        made += blocking(move || make_folders(&dir, made, count)).await?;
        let status = lab.cluster.status().await;
        if status.leader().is_some_and(|l| l.purged_index > left_at) {
            break;
        }
        anyhow::ensure!(
            started.elapsed() < PATIENCE,
            "the log was not purged within {PATIENCE:?} ({made} folders made)"
        );
    }
    let work = {
        let (dir, count) = (mount.clone(), args.folders);
        tokio::spawn(blocking(move || make_folders(&dir, made, count)))
    };
    lab.cluster.start(Part::Meta, follower).await?;
    let (mut seen_catching_up, end) = (false, Instant::now() + PATIENCE);
    loop {
        let status = lab.cluster.status().await;
        let node = status.nodes.iter().find(|n| n.node_id == follower as u64);
        if let Some(node) = node {
            seen_catching_up |= node.health.contains("catching up")
                || node.snapshot_progress_bytes.is_some()
                || node.lag_entries.is_some_and(|l| l > 100);
            if node.applied_index > left_at
                && node.lag_entries.is_some_and(|l| l < 100)
                && node.health == "ok"
                && work.is_finished()
            {
                break;
            }
        }
        anyhow::ensure!(
            Instant::now() < end,
            "the follower has not caught up within {PATIENCE:?}: {}",
            serde_json::to_string(&status)?
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    made += work.await??;
    // All three states are the same once nothing is under way.
    lab.wait_equal_states(Duration::from_secs(30)).await?;
    verdict.check(seen_catching_up, || "status never showed the follower catching up".to_owned());
    let log = std::fs::read_to_string(&lab.cluster.layout().meta[follower - 1].log)?;
    verdict.check(log.to_lowercase().contains("snapshot"), || "the follower's log tells of no snapshot".to_owned());
    let there = std::fs::read_dir(&mount)?.count();
    verdict.check(there == made, || format!("{made} folders were made, {there} are there"));
    verdict.figure("folders made meanwhile", made);
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

fn make_folders(dir: &std::path::Path, from: usize, count: usize) -> Result<usize> {
    const THREADS: usize = 4;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|thread| {
                scope.spawn(move || -> Result<()> {
                    for n in (from + thread..from + count).step_by(THREADS) {
                        let path = dir.join(format!("a-folder-with-a-rather-long-name-to-fill-the-log-{n}"));
                        std::fs::create_dir(&path).with_context(|| path.display().to_string())?;
                    }
                    Ok(())
                })
            })
            .collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
    })?;
    Ok(count)
}
