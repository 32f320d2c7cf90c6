//! One round of load, a blow to the whole cluster, a restart and the checks: what kill-all and power-cut share.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use super::{blocking, healed};
use crate::lab::Lab;
use crate::report::Verdict;
use crate::workload::blocks::{Written, writer};
use crate::workload::worker::{Worker, drop_caches};

const WRITERS: u64 = 4;
/// A round with less than this before its blow says nothing: the load goes on until it is reached.
const MIN_NAMES: usize = 100;
const MIN_SYNCS: u64 = 20;
/// How many times longer than asked for a load may take on a slow machine.
const MAX_STRETCH: u32 = 20;
/// Ids of files per round: its writers' and what the scenario adds.
pub(super) const IDS_PER_ROUND: u64 = 100;

/// What all rounds have put at stake.
#[derive(Debug, Default)]
pub(super) struct Stakes {
    pub(super) names: usize,
    pub(super) blocks: usize,
}

/// A round's load.
pub(super) struct Round {
    number: usize,
    mount: PathBuf,
    writers: Vec<Worker>,
    acknowledged: Vec<String>,
}

impl Round {
    /// Writers at work, and folders made, for `time` at least.
    pub(super) async fn load(lab: &mut Lab, number: usize, time: Duration) -> Result<Self> {
        let mount = lab.mount(&[]).await?;
        let first = number as u64 * IDS_PER_ROUND;
        let writers = (first..first + WRITERS).map(|id| writer(&mount, id)).collect::<Result<Vec<_>>>()?;
        let progress: Vec<_> = writers.iter().map(Worker::progress_handle).collect();
        let folder = mount.clone();
        let acknowledged = blocking(move || {
            let started = Instant::now();
            let mut made = Vec::new();
            loop {
                let syncs: u64 = progress.iter().map(|p| p.get()).sum();
                let enough = made.len() > MIN_NAMES && syncs > MIN_SYNCS;
                if enough && started.elapsed() >= time {
                    return Ok(made);
                }
                if started.elapsed() >= time * MAX_STRETCH {
                    bail!(
                        "only {} folders and {syncs} fsyncs in {:?}: this machine is too slow",
                        made.len(),
                        time * MAX_STRETCH
                    );
                }
                made.push(make_folder(&folder, number, made.len())?);
            }
        });
        Ok(Self { number, mount, writers, acknowledged: acknowledged.await? })
    }

    pub(super) fn mount(&self) -> &Path {
        &self.mount
    }

    /// The blow comes now, in the middle of the writers' work: some of their last calls fail with the mount.
    pub(super) fn brace(&mut self) {
        self.writers.iter_mut().for_each(Worker::tell_to_stop);
    }

    /// After the blow: starts everything again and checks what was acknowledged. Returns the new mount, which [`leave`] ends.
    pub(super) async fn check(self, lab: &mut Lab, verdict: &mut Verdict, stakes: &mut Stakes) -> Result<PathBuf> {
        let written = self.writers.into_iter().map(Worker::finish).collect::<Result<Vec<Written>>>()?;
        lab.cluster.start_all().await?;
        lab.cluster.wait_ready(Duration::from_secs(60)).await?;
        let again = lab.mount(&[]).await?;
        drop_caches()?;
        for name in &self.acknowledged {
            let there = again.join(name).exists();
            verdict.check(there, || format!("round {}: {name} was acknowledged and is gone", self.number));
        }
        stakes.names += self.acknowledged.len();
        for file in written {
            stakes.blocks += file.ledger.synced_blocks();
            let path = again.join(file.path.file_name().unwrap_or_default());
            verdict.found(blocking(move || Ok(file.ledger.verify(file.id, &path))).await?);
        }
        Ok(again)
    }
}

/// The end of a round: the cluster is whole again.
pub(super) async fn leave(lab: &mut Lab, mount: &Path) -> Result<()> {
    healed(lab).await?;
    lab.cluster.unmount(mount)
}

fn make_folder(mount: &Path, round: usize, number: usize) -> Result<String> {
    let name = format!("round{round}-folder{number}");
    std::fs::create_dir(mount.join(&name))?;
    Ok(name)
}
