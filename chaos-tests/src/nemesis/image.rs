//! The disk of a chunk server is again what it was some seconds ago: an old image is put in the place of the one that its server has worked
//! on with. What was acknowledged in between is older there, or missing; the server must not serve it, and gets it from the others (V5).
//!
//! P1 needs another replica for that. A write may be acknowledged by one server alone if the others are away, so nobody else is harmed while
//! the server works on, and the image goes back only when every chunk has all its replicas. Afterwards the others have what is missing,
//! whatever comes over them.
//!
//! What shows that it took effect: replicas that the image has older, or not at all.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use caribou_cli::local::Part;
use rand::RngExt as _;
use rustix::process::Signal;

use super::harm::start;
use super::{Harm, Kind, Remedy, Server, Site, Whom, power};
use crate::lab::Lab;
use crate::wait;

/// How long the server works on with the disk that it is going to lose, in milliseconds.
const WORKS_MS: Range<u64> = 1000..4000;
/// How long every chunk has to have all its replicas: a new leader knows by then which have not.
const SETTLED: Duration = Duration::from_millis(500);
/// How long that is waited for before the disk is copied, and before it is put back.
const PATIENCE_BEFORE: Duration = Duration::from_secs(3);
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
const EVIDENCE: &str = "replicas that the old disk had older or not at all";

/// Replicas, and when each was written last.
type Replicas = BTreeMap<PathBuf, SystemTime>;

/// None: another fault has a chunk server, or not every chunk has all its replicas.
pub(super) async fn inflict(site: &mut Site<'_>) -> Result<Option<Harm>> {
    let is_taken = site.all(Part::Chunk).iter().any(|server| site.taken.contains(server));
    if is_taken || !is_whole(site.lab, PATIENCE_BEFORE).await {
        return Ok(None);
    }
    let Some(victims) = site.victims(Whom::ChunkServer).await else { return Ok(None) };
    let victim = victims[0];
    let harm = Harm::new(Kind::OldImageChunkServer, victims);
    let before = keep(site, victim).await?;
    let works = Duration::from_millis(site.rng.random_range(WORKS_MS));
    tokio::time::sleep(works).await;
    let older = match is_whole(site.lab, PATIENCE).await {
        true => put_back(site, victim, &before).await?,
        false => {
            power::forget(&site.lab.volume(victim.0, victim.1)?)?;
            0
        }
    };
    Ok(Some(harm.with([Remedy::Seen(older, EVIDENCE)])))
}

/// Copies the disk as it is, kills its server and starts it anew. Returns the replicas of the copy.
async fn keep(site: &mut Site<'_>, (part, number): Server) -> Result<Replicas> {
    let volume = site.lab.volume(part, number)?;
    let process = site.lab.cluster.layout().nodes(part)[number - 1].process;
    let process = process.with_context(|| format!("{} {number} is not running", part.name()))?;
    power::freeze(&volume)?;
    let frozen = volume.clone();
    let kept = tokio::task::spawn_blocking(move || copy(&frozen)).await;
    // Whoever waits for the disk dies as soon as it works again: nothing is acknowledged that the copy does not have.
    process.signal(Signal::KILL)?;
    power::thaw(&volume)?;
    let kept = kept??;
    site.lab.cluster.signal(part, number, Signal::KILL)?;
    start(site, (part, number)).await?;
    Ok(kept)
}

fn copy(volume: &Path) -> Result<Replicas> {
    let replicas = replicas(volume)?;
    power::keep(volume)?;
    Ok(replicas)
}

/// Returns how many replicas are older now, or gone.
async fn put_back(site: &mut Site<'_>, (part, number): Server, before: &Replicas) -> Result<u64> {
    let volume = site.lab.volume(part, number)?;
    site.lab.cluster.signal(part, number, Signal::KILL)?;
    let newer = replicas(&volume)?;
    power::put_back(&volume)?;
    start(site, (part, number)).await?;
    Ok(changed(before, &newer))
}

fn replicas(volume: &Path) -> Result<Replicas> {
    let mut replicas = Replicas::new();
    for entry in walkdir::WalkDir::new(volume.join("data").join("chunks")) {
        let entry = entry?;
        if entry.file_type().is_file() {
            replicas.insert(entry.path().to_owned(), entry.metadata()?.modified()?);
        }
    }
    Ok(replicas)
}

/// How many of the newer ones were written since, or are new.
fn changed(before: &Replicas, newer: &Replicas) -> u64 {
    newer.iter().filter(|(path, written)| before.get(*path) != Some(*written)).count() as u64
}

/// Whether every server is there, and every chunk has all its replicas.
async fn is_whole(lab: &Lab, patience: Duration) -> bool {
    let mut since: Option<Instant> = None;
    let is_settled = async || {
        let status = lab.cluster.status().await;
        let is_whole = status.leader().is_some()
            && status.totals.as_ref().is_some_and(|totals| totals.chunks_below_goal == 0)
            && status.chunk_servers.iter().all(|server| server.connected && server.failed_disks == 0);
        since = if is_whole { since.or_else(|| Some(Instant::now())) } else { None };
        since.is_some_and(|since| since.elapsed() >= SETTLED)
    };
    wait::until(patience, LOOK, is_settled).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_since_and_what_is_new_is_older_in_the_image() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let replicas = |all: &[(&str, u64)]| -> Replicas {
            all.iter().map(|(path, seconds)| (PathBuf::from(path), at(*seconds))).collect()
        };
        let before = replicas(&[("same", 1), ("written", 1), ("deleted", 1)]);
        assert_eq!(changed(&before, &replicas(&[("same", 1), ("written", 2), ("new", 2)])), 2);
        assert_eq!(changed(&before, &before), 0);
    }
}
