//! The checks at the end of a run, each with what it has looked at.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;
use caribou_cli::local::Part;

use super::evidence::Scene;
use super::excuses::explains;
use super::load::Seen;
use super::report::Check;
use super::timeline::Timeline;
use crate::check::finding::{Finding, Moment};
use crate::check::logs::{self, Line};
use crate::check::names::{self, Answer, Event};
use crate::check::processes::Holding;
use crate::check::tree;
use crate::lab::Lab;
use crate::nemesis::Kind;
use crate::scenario::{replicas, strays};
use crate::workload::registers::Fought;
use crate::workload::storm::Storm;

/// How long nodes may take to be equal, and sessions of the dead to go.
const PATIENCE: Duration = Duration::from_secs(90);
/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);
/// How long a replica that nobody counts on may stay: it is asked about half a minute after it was made, and a new leader's servers have to be
/// attached for as long.
const STRAY_PATIENCE: Duration = Duration::from_secs(150);
/// Between two looks at all files and all disks.
const STRAY_LOOK: Duration = Duration::from_secs(5);

/// How long after its end a fault still explains an error or a complaint: what it did may be found only when somebody looks again.
const AFTERMATH: Duration = Duration::from_secs(60);

/// What metadata nodes say of their state, and what that is.
const SNAPSHOTS: [(&str, &str); 3] = [
    ("a checkpoint of the state has been made", "checkpoints made"),
    ("sending a snapshot", "snapshots sent"),
    ("a snapshot has been installed", "snapshots installed"),
];

/// What each server's process holds.
pub type Holdings = BTreeMap<String, Holding>;

pub fn holdings(lab: &Lab) -> Holdings {
    let layout = lab.cluster.layout();
    let named = [Part::Meta, Part::Chunk].into_iter().flat_map(|part| {
        layout.nodes(part).iter().map(move |node| (format!("{}{}", part.name(), node.number), node.process))
    });
    named.filter_map(|(name, process)| Some((name, Holding::of(process?.pid)?))).collect()
}

/// What one check has found, before it is known what else was going on.
#[derive(Debug)]
pub struct Examined {
    pub name: &'static str,
    /// What was compared, and how much of it.
    pub extent: String,
    pub findings: Vec<Finding>,
    /// What was planted, and what the check says to it: nothing means that it is blind.
    pub controls: Vec<(&'static str, Option<Finding>)>,
}

impl Examined {
    pub fn new(name: &'static str, extent: impl Into<String>) -> Self {
        Self { name, extent: extent.into(), findings: Vec::new(), controls: Vec::new() }
    }

    fn with(mut self, findings: impl IntoIterator<Item = Finding>) -> Self {
        self.findings.extend(findings);
        self
    }

    fn with_controls(mut self, planted: impl IntoIterator<Item = (&'static str, Option<Finding>)>) -> Self {
        self.controls.extend(planted);
        self
    }
}

/// Something that was waited for in vain until now.
fn in_vain(waited: Result<()>) -> Option<Finding> {
    waited.err().map(|error| Finding::now(format!("{error:#}")))
}

pub async fn judge(
    lab: &mut Lab,
    seen: Seen,
    broken: Vec<Finding>,
    observer: &Path,
    timeline: &Timeline,
    before: &Holdings,
) -> Result<Vec<Check>> {
    let extent = "servers come up and end only when told to, everything is whole and all loads end once the faults are lifted (P5)";
    let liveness = Examined::new("liveness", extent);
    let liveness = liveness.with(broken).with(seen.stuck.iter().cloned());
    let mut checks = vec![linearizable(&seen), registers(&seen), errors(&seen, timeline)];
    checks.extend(bytes(lab, seen).await);
    // Those whose mounts were killed are gone too after their time.
    let mounts = lab.cluster.layout().mounts.len();
    let sessions = lab.cluster.wait_for(PATIENCE, "sessions only of those who live", |s| s.clients.len() <= mounts);
    let sessions = in_vain(sessions.await);
    checks.push(Examined::new("sessions", format!("{mounts} mounts, and nobody else")).with(sessions));
    let equal = in_vain(lab.wait_equal_states(PATIENCE).await);
    checks.push(whole(lab, timeline).await);
    checks.push(nothing_left(lab).await);
    checks.push(leaks(lab, before));
    let scene = Scene::new(timeline, lab.cluster.dir(), Moment::now())?;
    let snapshots = SNAPSHOTS.map(|(said, what)| format!("{} {what}", scene.count(said))).join(", ");
    let extent = format!("equal hashes on all metadata nodes; {snapshots}");
    checks.push(Examined::new("states", extent).with(equal));
    checks.push(complaints(&scene, timeline));
    checks.insert(0, liveness.with(in_vain(lab.cluster.unmount(observer))));
    Ok(checks.into_iter().map(|examined| Check::of(examined, &scene)).collect())
}

fn linearizable(seen: &Seen) -> Examined {
    let outcome = &seen.universes;
    let extent = format!(
        "{} operations of {} clients in {} rounds, {} unknown; longest check {} ms",
        outcome.operations,
        crate::workload::universe::CLIENTS,
        outcome.rounds,
        outcome.unknown,
        outcome.longest_check.as_millis()
    );
    let found = with_a_wrong_answer(&outcome.sample).and_then(|history| names::check(&history));
    let check = Examined::new("names are linearizable, each change exactly once", extent);
    check.with(outcome.violations.iter().cloned()).with_controls([("a wrong answer in the longest history", found)])
}

/// Blocks that mounts fight over.
fn registers(seen: &Seen) -> Examined {
    let fought = Fought::new(&seen.registers);
    let extent = format!(
        "{} operations of {} mounts on {} registers, {} unknown",
        fought.operations(),
        seen.registers.len(),
        fought.registers(),
        fought.unknown()
    );
    let check = Examined::new("registers: every read gives what was closed before (close to open)", extent);
    let at_once = seen.registers.iter().flat_map(|history| history.violations.iter().cloned());
    check
        .with(at_once)
        .with(fought.check())
        .with_controls([("a read of a value of long ago", fought.with_a_stale_read())])
}

/// The history with one lookup that found another file than was there.
fn with_a_wrong_answer(history: &[Event]) -> Option<Vec<Event>> {
    let mut history = history.to_vec();
    let found = history.iter_mut().filter_map(|event| match (&event.op, &mut event.answer) {
        (names::Op::Lookup(_), Answer::File { inode, .. }) => Some((event.answered_at.since(event.called_at), inode)),
        _ => None,
    });
    // The one that took longest, since that is where something happened.
    let (_, inode) = found.max_by_key(|(took, _)| *took)?;
    *inode += 1_000_000;
    Some(history)
}

/// Errors that a fault at that time explains are none of Caribou's.
fn errors(seen: &Seen, timeline: &Timeline) -> Examined {
    let is_explained = |error: &Finding| {
        let Some((from, to)) = error.when else { return false };
        timeline.around(from, to, AFTERMATH).any(|band| explains(band, &error.text))
    };
    let all: Vec<&Finding> = seen.errors().collect();
    let unexplained: Vec<Finding> = all.iter().copied().filter(|error| !is_explained(error)).cloned().collect();
    let (count, explained) = (all.len(), all.len() - unexplained.len());
    let extent = format!("{count} errors that programs on mounts got, {explained} of them explained by faults");
    Examined::new("no unexplained error", extent).with(unexplained)
}

const BYTES: &str = "what was fsynced is there, nothing mixed, foreign or older than what was read";
const COPIES: &str = "what cp has copied is there entry by entry, what rm has removed is gone";

/// What was acknowledged, through a mount that has cached nothing.
async fn bytes(lab: &mut Lab, seen: Seen) -> [Examined; 2] {
    compare(lab, seen).await.unwrap_or_else(|error| [BYTES, COPIES].map(|name| unseen(name, &error)))
}

/// What could not be looked at, though everything should be whole.
fn unseen(name: &'static str, error: &anyhow::Error) -> Examined {
    Examined::new(name, "").with([Finding::now(format!("{error:#}"))])
}

async fn compare(lab: &mut Lab, seen: Seen) -> Result<[Examined; 2]> {
    let mount = lab.mount(&[]).await?;
    let place = mount.clone();
    let (seen, bytes, copies) = tokio::task::spawn_blocking(move || {
        let bytes = (seen.verify(&place), seen.verify_planted(&place));
        let copies = (seen.verify_copy(&place), seen.verify_planted_copy(&place));
        (seen, bytes, copies)
    })
    .await?;
    lab.cluster.unmount(&mount)?;
    let blocks: usize = seen.written.iter().map(|file| file.ledger.synced_blocks()).sum();
    let extent = format!(
        "{blocks} fsynced blocks of {} writers, {} fsynced records, {} of {} small files that remain; {} blocks read meanwhile",
        seen.written.len(),
        seen.appended.as_ref().map_or(0, |appended| appended.synced),
        seen.storm.as_ref().map_or(0, Storm::files),
        seen.storm.as_ref().map_or(0, |storm| storm.made),
        seen.read.as_ref().map_or(0, |read| read.reads)
    );
    let check = Examined::new(BYTES, extent);
    let read = seen.read.into_iter().flat_map(|read| read.violations);
    let appended = seen.appended.into_iter().flat_map(|appended| appended.violations);
    let check = check.with(bytes.0).with(read).with(appended).with_controls(bytes.1);
    let copied = seen.copied.unwrap_or_default();
    let extent = format!(
        "{} trees of {} files, {} MiB, compared through another mount; {} that cp complained of",
        copied.trees,
        copied.files,
        copied.bytes >> 20,
        copied.failed
    );
    let whole = Examined::new(COPIES, extent).with(copied.violations).with(copies.0).with_controls(copies.1);
    Ok([check, whole])
}

/// The tree, its links, and every chunk's replicas. What a server lacks that got an old disk is copied only once the others can vouch for
/// theirs, half a minute after a leader's election.
async fn whole(lab: &Lab, timeline: &Timeline) -> Examined {
    let waits = timeline.bands.iter().any(|band| band.kind == Kind::OldImageChunkServer);
    let end = Instant::now() + PATIENCE;
    loop {
        let examined = whole_now(lab).await;
        if examined.findings.is_empty() || !waits || Instant::now() >= end {
            return examined;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn whole_now(lab: &Lab) -> Examined {
    let name = "the tree is consistent, every chunk has equal replicas at its goal";
    let look = async {
        replicas::at_rest(lab).await?;
        let found = tree::check(&lab.cluster).await?;
        let (chunks, differ) = replicas::differ(lab, &found.files).await?;
        let extent = format!("{} inodes, {chunks} chunks", found.inodes);
        Ok(Examined::new(name, extent).with(found.violations.into_iter().chain(differ).map(Finding::from)))
    };
    look.await.unwrap_or_else(|error: anyhow::Error| unseen(name, &error))
}

/// R4: what recoveries, copies and old disks have left too many is deleted.
async fn nothing_left(lab: &Lab) -> Examined {
    let end = Instant::now() + STRAY_PATIENCE;
    loop {
        let examined = left_now(lab).await;
        if examined.findings.is_empty() || Instant::now() >= end {
            return examined;
        }
        tokio::time::sleep(STRAY_LOOK).await;
    }
}

async fn left_now(lab: &Lab) -> Examined {
    let name = "no disk has a replica that nobody counts on";
    let look = async {
        replicas::at_rest(lab).await?;
        let found = tree::check(&lab.cluster).await?;
        let (count, left) = strays::left(lab, &found.files).await?;
        let extent = format!("{count} replicas on the disks of all chunk servers");
        Ok(Examined::new(name, extent).with(left.into_iter().map(Finding::from)))
    };
    look.await.unwrap_or_else(|error: anyhow::Error| unseen(name, &error))
}

fn leaks(lab: &Lab, before: &Holdings) -> Examined {
    let now = holdings(lab);
    let most = now.values().map(|holding| holding.descriptors).max().unwrap_or(0);
    let memory = now.values().map(|holding| holding.resident_bytes).max().unwrap_or(0) >> 20;
    let extent = format!("at most {most} descriptors and {memory} MiB of each server at the end");
    let excess = now.iter().filter_map(|(name, holding)| holding.excess(name, before.get(name).copied()));
    Examined::new("no leak", extent).with(excess.map(Finding::from))
}

fn complaints(scene: &Scene, timeline: &Timeline) -> Examined {
    // A leader that is told to stop finds a successor, unless something else is broken too.
    let alone = timeline.overlapping().all(|band| band.kind != Kind::StopLeader);
    let is_explained = |line: &Line| {
        let mut faults = timeline.around(line.at, line.at, AFTERMATH);
        faults.any(|band| band.kind.complaints().iter().any(|complaint| line.text.contains(complaint)))
            || (!alone && line.text.contains("the leadership could not be handed over"))
    };
    let left: Vec<Line> = scene.lines().iter().filter(|line| !is_explained(line)).cloned().collect();
    let extent = "logs of all servers and mounts";
    Examined::new("no unlisted warning or error in any log", extent).with(logs::unexpected(&left))
}
