//! What the full cluster is asked for: that the tree is there, memory, disk, snapshots, restarts; then the same as the small one.

use std::time::Duration;

use anyhow::{Context, Result};

use super::compared::{self, Compared, Rates, words};
use super::kernel::Memory;
use super::snapshots::{LOOK_EVERY, Watch};
use super::tree::{Loaded, Tree};
use super::{Args, disk, kernel, restart};
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::{Verdict, distribution_ms};

/// How it is called in figures.
const FULL: &str = "full";
/// A metadata node's own memory beyond what it is told to use.
const MORE_MEMORY_BYTES: u64 = 300_000_000;
const RESTART_LIMIT: Duration = Duration::from_secs(5);
/// How long nodes may take to have applied the same.
const EQUAL_PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn run(setting: &Setting, args: &Args, small: &Compared, verdict: &mut Verdict) -> Result<()> {
    let mut lab = Lab::up(setting, &args.options()).await?;
    let mut tree = load(&lab, args, verdict).await?;
    check_memory(&lab, args, "after loading", verdict)?;
    compared::settle(&lab, FULL, verdict).await?;
    report_disk(&lab, args, verdict)?;
    let rates = Rates::measure(&mut tree, FULL, args, verdict).await?;
    check_memory(&lab, args, "after stats and creates", verdict)?;
    restarts(&mut lab, &tree, args, verdict).await?;
    let gaps = compared::gaps(&mut lab, FULL, args.kills, verdict).await?;
    if !args.unjudged {
        compared::judge(small, &Compared { rates, gaps }, verdict);
    }
    lab.finish(!verdict.is_passed())
}

async fn load(lab: &Lab, args: &Args, verdict: &mut Verdict) -> Result<Tree> {
    let before = inodes(lab).await?;
    let watch = Watch::start(lab)?;
    let (tree, loaded) = args.load(lab, args.inodes).await?;
    report_loading(&loaded, args, verdict);
    report_snapshots(&watch.finish()?, verdict);
    let (after, expected) = (inodes(lab).await?, before + u64::from(args.folders) + tree.files());
    verdict.check(after == expected, || format!("{expected} inodes were made, the cluster says {after}"));
    Ok(tree)
}

/// As the leader counts them.
async fn inodes(lab: &Lab) -> Result<u64> {
    lab.leader().await?;
    Ok(lab.cluster.status().await.totals.context("the leader's totals")?.inodes)
}

fn report_loading(loaded: &Loaded, args: &Args, verdict: &mut Verdict) {
    let Loaded { creates, tenths } = loaded;
    let what = format!("loading: creates, {} in flight", args.in_flight);
    verdict.figure(&what, format!("{} in {:.0} s: {}", creates.operations, creates.seconds, words(creates)));
    if let Some(tenths) = tenths {
        let (first, last) = (tenths.first, tenths.last);
        verdict.figure("loading: first and last tenth", format!("{first:.0} and {last:.0} a second"));
    }
}

/// The times of each node's snapshots while it was loaded.
fn report_snapshots(nodes: &[Vec<Duration>], verdict: &mut Verdict) {
    let all = nodes.concat();
    if all.is_empty() {
        verdict.figure("snapshots", "none was seen: there was too little log, or they were too fast");
        return;
    }
    let (median, maximum) = distribution_ms(&all);
    let last: Vec<String> =
        nodes.iter().map(|times| times.last().map_or("none".to_owned(), |time| time.as_millis().to_string())).collect();
    let text = format!(
        "{} on all nodes: median {median} ms, maximum {maximum} ms; the last of each node {} ms (± {} ms)",
        all.len(),
        last.join(", "),
        LOOK_EVERY.as_millis()
    );
    verdict.figure("snapshots", text);
}

fn check_memory(lab: &Lab, args: &Args, when: &str, verdict: &mut Verdict) -> Result<()> {
    let limit = args.configured_bytes() + MORE_MEMORY_BYTES;
    let nodes = kernel::memory(lab)?;
    let texts: Vec<String> =
        nodes.iter().map(|m| format!("{} MB ({})", megabytes(m.own), megabytes(m.resident))).collect();
    let text = format!(
        "{}; configured: cache {} MiB, write buffer {} MiB",
        texts.join(", "),
        args.cache_mib,
        args.write_buffer_mib
    );
    verdict.figure(&format!("memory of each node {when}: its own (with mapped files)"), text);
    judge_memory(&nodes, limit, when, verdict);
    Ok(())
}

fn judge_memory(nodes: &[Memory], limit_bytes: u64, when: &str, verdict: &mut Verdict) {
    for (node, memory) in nodes.iter().enumerate() {
        verdict.check(memory.own <= limit_bytes, || {
            let (own, limit) = (megabytes(memory.own), megabytes(limit_bytes));
            format!("node {} has {own} MB of memory {when}, above its cache and 300 MB: {limit} MB", node + 1)
        });
    }
}

fn megabytes(bytes: u64) -> u64 {
    bytes / 1_000_000
}

fn report_disk(lab: &Lab, args: &Args, verdict: &mut Verdict) -> Result<()> {
    let inodes = args.inodes + u64::from(args.folders);
    for node in &lab.cluster.layout().meta {
        let disk = disk::disk(node.data.first().context("a node has a data folder")?)?;
        let part = |bytes: u64| format!("{} MB ({} bytes per inode)", megabytes(bytes), bytes / inodes);
        let (state, checkpoints, log) = (part(disk.state), part(disk.checkpoints), part(disk.log));
        let text = format!("state {state}, what only its checkpoint holds {checkpoints}, log {log}");
        verdict.figure(&format!("disk of node {}", node.number), text);
    }
    Ok(())
}

/// Each kind of restart, and that everything is there afterwards.
async fn restarts(lab: &mut Lab, tree: &Tree, args: &Args, verdict: &mut Verdict) -> Result<()> {
    let before = inodes(lab).await?;
    let follower = ("a follower that was killed until it has caught up", restart::of_a_follower(lab).await?);
    let all = ("all nodes that were killed at once until a client's stat", restart::of_all(lab, tree).await?);
    for (what, time) in [follower, all] {
        verdict.figure(&format!("restart of {what}"), format!("{:.2} s", time.as_secs_f64()));
        if !args.unjudged {
            judge_restart(what, time, verdict);
        }
    }
    lab.wait_equal_states(EQUAL_PATIENCE).await?;
    let after = inodes(lab).await?;
    verdict
        .check(after == before, || format!("{before} inodes were there before the restarts, {after} are afterwards"));
    Ok(())
}

fn judge_restart(what: &str, time: Duration, verdict: &mut Verdict) {
    verdict.check(time <= RESTART_LIMIT, || {
        format!("the restart of {what} took {:.1} s, above {RESTART_LIMIT:?}", time.as_secs_f64())
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_above_the_limit_is_named() {
        let node = |own| Memory { own, resident: 2 * own };
        let mut verdict = Verdict::new("scale");
        judge_memory(&[node(90), node(100)], 100, "now", &mut verdict);
        assert!(verdict.is_passed(), "mapped files do not count");
        judge_memory(&[node(90), node(101)], 100, "now", &mut verdict);
        assert!(verdict.violations.len() == 1 && verdict.violations[0].starts_with("node 2"), "{verdict:?}");
    }

    #[test]
    fn a_restart_takes_five_seconds_at_most() {
        let mut verdict = Verdict::new("scale");
        judge_restart("a node", RESTART_LIMIT, &mut verdict);
        assert!(verdict.is_passed());
        judge_restart("a node", RESTART_LIMIT + Duration::from_millis(1), &mut verdict);
        assert!(!verdict.is_passed());
    }
}
