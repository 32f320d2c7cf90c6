//! The checks at the end of a run, each with what it has looked at.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use caribou_cli::local::Part;

use super::load::Seen;
use super::report::Check;
use super::timeline::Timeline;
use crate::check::names::{self, Answer, Event};
use crate::check::processes::Holding;
use crate::check::{logs, tree};
use crate::lab::Lab;
use crate::nemesis::Kind;
use crate::scenario::replicas;
use crate::workload::worker::AWAY;

/// How long nodes may take to be equal, and sessions of the dead to go.
const PATIENCE: Duration = Duration::from_secs(90);

/// What each server's process holds.
pub type Holdings = BTreeMap<String, Holding>;

pub fn holdings(lab: &Lab) -> Holdings {
    let layout = lab.cluster.layout();
    let named = [Part::Meta, Part::Chunk].into_iter().flat_map(|part| {
        layout.nodes(part).iter().map(move |node| (format!("{}{}", part.name(), node.number), node.process))
    });
    named.filter_map(|(name, process)| Some((name, Holding::of(process?.pid)?))).collect()
}

pub async fn judge(
    lab: &mut Lab,
    seen: Seen,
    healed: Result<()>,
    observer: &Path,
    timeline: &Timeline,
    before: &Holdings,
) -> Result<Vec<Check>> {
    let liveness = Check::new("liveness", "everything is whole again once the faults are lifted (P5)");
    let mut checks = vec![liveness.with(healed.err().map(|error| format!("{error:#}")))];
    checks.push(linearizable(&seen));
    checks.push(errors(&seen, timeline));
    checks.push(bytes(lab, seen).await?);
    // Those whose mounts were killed are gone too after their time.
    let mounts = lab.cluster.layout().mounts.len();
    let sessions = lab.cluster.wait_for(PATIENCE, "sessions only of those who live", |s| s.clients.len() <= mounts);
    let sessions = sessions.await.err().map(|error| format!("{error:#}"));
    checks.push(Check::new("sessions", format!("{mounts} mounts, and nobody else")).with(sessions));
    let equal = lab.wait_equal_states(PATIENCE).await.err().map(|error| format!("{error:#}"));
    checks.push(Check::new("states", "equal hashes on all metadata nodes").with(equal));
    checks.push(whole(lab).await?);
    checks.push(leaks(lab, before));
    checks.push(complaints(lab, timeline)?);
    lab.cluster.unmount(observer)?;
    Ok(checks)
}

fn linearizable(seen: &Seen) -> Check {
    let outcome = &seen.universes;
    let extent = format!(
        "{} operations of {} clients in {} rounds, {} unknown; longest check {} ms",
        outcome.operations,
        crate::workload::universe::CLIENTS,
        outcome.rounds,
        outcome.unknown,
        outcome.longest_check.as_millis()
    );
    let is_found = with_a_wrong_answer(&outcome.sample).is_some_and(|history| names::check(&history).is_some());
    let check = Check::new("names are linearizable, each change exactly once", extent);
    check.with(outcome.violations.iter().cloned()).with_control(is_found, "a wrong answer in the longest history")
}

/// The history with one lookup that found another file than was there.
fn with_a_wrong_answer(history: &[Event]) -> Option<Vec<Event>> {
    let mut history = history.to_vec();
    let found = history.iter_mut().find_map(|event| match (&event.op, &mut event.answer) {
        (names::Op::Lookup(_), Answer::File { inode, .. }) => Some(inode),
        _ => None,
    })?;
    *found = u64::MAX;
    Some(history)
}

/// Errors that a fault explains are none of Caribou's.
fn errors(seen: &Seen, timeline: &Timeline) -> Check {
    let had = |kinds: &[Kind]| timeline.bands.iter().any(|band| kinds.contains(&band.kind));
    let killed = had(&[Kind::KillMount]);
    let may_lose = killed || timeline.bands.iter().any(|band| band.kind.cuts_chunk_power());
    let is_explained = |error: &str| {
        let dead = ["Transport endpoint is not connected", "Software caused connection abort"];
        (killed && (error.starts_with(AWAY) || dead.iter().any(|text| error.contains(text))))
            || (may_lose && error.contains("Input/output error"))
    };
    let all: Vec<&String> = seen.errors().collect();
    let unexplained = all.iter().filter(|error| !is_explained(error)).map(|error| (*error).clone());
    let extent = format!("{} errors that programs on mounts got, all of them explained by faults", all.len());
    Check::new("no unexplained error", extent).with(unexplained)
}

/// What was acknowledged, through a mount that has cached nothing.
async fn bytes(lab: &mut Lab, seen: Seen) -> Result<Check> {
    let mount = lab.mount(&[]).await?;
    let place = mount.clone();
    let (seen, wrong, is_found) = tokio::task::spawn_blocking(move || {
        let wrong = seen.verify(&place);
        let is_found = seen.written.first().is_some_and(|file| {
            let path = place.join(file.path.file_name().unwrap_or_default());
            !file.ledger.with_a_lost_write().verify(file.id, &path).is_empty()
        });
        (seen, wrong, is_found)
    })
    .await?;
    lab.cluster.unmount(&mount)?;
    let blocks: usize = seen.written.iter().map(|file| file.ledger.synced_blocks()).sum();
    let extent = format!(
        "{blocks} fsynced blocks of {} files, {} fsynced records, {} of {} small files that remain; {} blocks read meanwhile",
        seen.written.len(),
        seen.appended.synced,
        seen.storm.files(),
        seen.storm.made,
        seen.read.reads
    );
    let check = Check::new("what was fsynced is there, nothing mixed, foreign or older than what was read", extent);
    let violations = wrong.into_iter().chain(seen.read.violations).chain(seen.appended.violations);
    Ok(check.with(violations).with_control(is_found, "a lost fsync in a ledger"))
}

/// The tree, its links, and every chunk's replicas.
async fn whole(lab: &Lab) -> Result<Check> {
    let name = "the tree is consistent, every chunk has equal replicas at its goal";
    if let Err(error) = replicas::at_rest(lab).await {
        return Ok(Check::new(name, "").with([format!("{error:#}")]));
    }
    let found = tree::check(&lab.cluster).await?;
    let (chunks, differ) = replicas::differ(lab, &found.files).await?;
    let extent = format!("{} inodes, {chunks} chunks", found.inodes);
    Ok(Check::new(name, extent).with(found.violations).with(differ))
}

fn leaks(lab: &Lab, before: &Holdings) -> Check {
    let now = holdings(lab);
    let most = now.values().map(|holding| holding.descriptors).max().unwrap_or(0);
    let memory = now.values().map(|holding| holding.resident_bytes).max().unwrap_or(0) >> 20;
    let extent = format!("at most {most} descriptors and {memory} MiB of each server at the end");
    let excess = now.iter().filter_map(|(name, holding)| holding.excess(name, before.get(name).copied()));
    Check::new("no leak", extent).with(excess)
}

fn complaints(lab: &Lab, timeline: &Timeline) -> Result<Check> {
    let had = |kinds: &[Kind]| timeline.bands.iter().any(|band| kinds.contains(&band.kind));
    let full = had(&[Kind::FullLeader, Kind::FullFollower, Kind::FullChunkServer]);
    // A leader that is told to stop finds a successor, unless something else is broken too.
    let alone = timeline.overlapping().all(|band| band.kind != Kind::StopLeader);
    let is_explained = |line: &str| {
        (full && line.contains("No space left on device"))
            || (!alone && line.contains("the leadership could not be handed over"))
    };
    let found = logs::unexpected(lab.cluster.dir())?;
    let told = found.into_iter().filter(|complaint| !is_explained(&complaint.line)).map(|complaint| {
        let log = complaint.log.file_name().unwrap_or_default().to_string_lossy().into_owned();
        format!("{log}, {} times: {}", complaint.count, complaint.line)
    });
    Ok(Check::new("no unlisted warning or error in any log", "logs of all servers and mounts").with(told))
}
