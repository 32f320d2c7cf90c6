//! The story itself: bring up, copy under kills, compare, tell, clean up.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use comfy_table::{Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use rustix::process::Signal;

use super::Args;
use crate::colour;
use crate::local::{Binaries, LocalCluster, Options, Part};
use crate::probe::Probe;
use crate::tree::{self, Difference, Progress, Tree};

/// Threads that copy.
const COPY_THREADS: usize = 4;
/// How long after a kill its gap is looked for; the killed node is started again then.
const SETTLE: Duration = Duration::from_millis(1500);
/// How often the progress is drawn.
const DRAW: Duration = Duration::from_millis(100);
/// Differences that are shown one by one.
const SHOWN: usize = 10;

/// What the summary says.
struct Outcome {
    files: usize,
    bytes: u64,
    kills: usize,
    gaps: Vec<Duration>,
    completions: u64,
    errors: Vec<String>,
    difference: Difference,
    copied_in: Duration,
}

pub(super) async fn tell(args: &Args, binaries: Binaries, tree: Tree) -> Result<ExitCode> {
    let folder = tempfile::Builder::new().prefix("caribou-demo-").tempdir().context("a temporary folder")?;
    let (dir, mount) = (folder.path().join("cluster"), folder.path().join("mnt"));
    std::fs::create_dir(&mount)?;
    let bar = spinner("starting 3 metadata nodes and 3 chunk servers");
    let mut cluster = LocalCluster::create(&dir, binaries, &Options::default()).await?;
    let result = tokio::select! {
        result = run(args, &mut cluster, &mount, tree, &bar) => result,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("stopped by Ctrl-C")),
    };
    bar.finish_and_clear();
    if let Ok(outcome) = &result {
        print(outcome);
    }
    if args.keep {
        let kept = folder.keep();
        println!(
            "The cluster still runs. Look at it:\n  ls {}/mnt\n  caribou local status --dir {}/cluster\n  caribou local kill leader --dir {}/cluster\nStop it:\n  caribou local down --dir {}/cluster && rm -rf {}",
            kept.display(),
            kept.display(),
            kept.display(),
            kept.display(),
            kept.display()
        );
    } else {
        let bar = spinner("cleaning up");
        let down = cluster.down();
        bar.finish_and_clear();
        if down.is_err() {
            cluster.kill_all();
        }
        down?;
    }
    Ok(if result?.is_right() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Outcome {
    fn is_right(&self) -> bool {
        self.difference.lost.is_empty() && self.difference.duplicated.is_empty() && self.errors.is_empty()
    }
}

async fn run(args: &Args, cluster: &mut LocalCluster, mount: &Path, tree: Tree, bar: &ProgressBar) -> Result<Outcome> {
    cluster.mount(mount, &[]).await?;
    bar.finish_and_clear();
    println!("mounted 3 metadata nodes and 3 chunk servers (2 copies of every chunk) at {}", mount.display());
    println!("copying {} files, {}, from {}", tree.files, ByteSize(tree.bytes), tree.root.display());

    let tree = Arc::new(tree);
    let (progress, stop) = (Arc::new(Progress::default()), Arc::new(AtomicBool::new(false)));
    let probe = Probe::start(mount)?;
    let target = mount.join("copy");
    let started = Instant::now();
    let mut copy = {
        let (tree, progress, stop, target) = (tree.clone(), progress.clone(), stop.clone(), target.clone());
        tokio::task::spawn_blocking(move || {
            tree::copy(&tree, &target, COPY_THREADS, &progress, &|| stop.load(Ordering::Relaxed))
                .map(|()| started.elapsed())
        })
    };
    // However this ends, the copying threads are told.
    let _stop = StopOnDrop(stop.clone());
    let bar = bytes_bar("copying", tree.bytes);
    let mut gaps = Vec::new();
    let mut copied_in = None;
    while copied_in.is_none() || gaps.len() < args.kills {
        let next = tokio::time::sleep(args.kill_every.saturating_sub(SETTLE));
        tokio::pin!(next);
        loop {
            tokio::select! {
                () = &mut next => break,
                done = &mut copy, if copied_in.is_none() => copied_in = Some(done??),
                () = tokio::time::sleep(DRAW) => bar.set_position(progress.bytes.load(Ordering::Relaxed)),
            }
            if copied_in.is_some() && gaps.len() >= args.kills {
                break;
            }
        }
        if copied_in.is_some() && gaps.len() >= args.kills {
            break;
        }
        let gap = kill_leader(cluster, &probe).await?;
        let told = format!("  kill {:>2}: longest gap {:>4} ms", gaps.len() + 1, gap.as_millis());
        // A bar that is not drawn (no terminal) prints nothing either.
        if bar.is_hidden() {
            println!("{told}")
        } else {
            bar.println(told)
        }
        gaps.push(gap);
    }
    bar.finish_and_clear();
    let probed = probe.stop()?;
    let difference = compare(&tree, target).await?;
    Ok(Outcome {
        files: tree.files,
        bytes: tree.bytes,
        kills: gaps.len(),
        gaps,
        completions: probed.completions,
        errors: probed.errors,
        difference,
        copied_in: copied_in.context("the copy has ended")?,
    })
}

/// kill -9 of the leader; the longest gap around it; the node is started again.
async fn kill_leader(cluster: &mut LocalCluster, probe: &Probe) -> Result<Duration> {
    let Some(leader) = cluster.leader().await else { bail!("nobody leads although nothing was killed") };
    probe.take_longest_gap();
    cluster.signal(Part::Meta, leader, Signal::KILL)?;
    tokio::time::sleep(SETTLE).await;
    let gap = probe.take_longest_gap();
    cluster.start(Part::Meta, leader).await?;
    Ok(gap)
}

async fn compare(tree: &Arc<Tree>, target: PathBuf) -> Result<Difference> {
    let bar = bytes_bar("comparing", tree.bytes);
    let (tree, shown) = (tree.clone(), bar.clone());
    let difference =
        tokio::task::spawn_blocking(move || tree::compare(&tree, &target, |bytes| shown.inc(bytes))).await?;
    bar.finish_and_clear();
    difference
}

struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn print(outcome: &Outcome) {
    let mut gaps = outcome.gaps.clone();
    gaps.sort();
    let longest = gaps.last().copied().unwrap_or_default();
    let median = gaps.get(gaps.len() / 2).copied().unwrap_or_default();
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY);
    table.add_row(["files", &outcome.files.to_string()]);
    table.add_row(["bytes", &ByteSize(outcome.bytes).to_string()]);
    table.add_row(["copied in", &format!("{:.1} s", outcome.copied_in.as_secs_f64())]);
    table.add_row(["other operations meanwhile", &outcome.completions.to_string()]);
    table.add_row(["leaders killed", &outcome.kills.to_string()]);
    table.add_row(["gap, median", &format!("{} ms", median.as_millis())]);
    table.add_row(["gap, longest", &format!("{} ms", longest.as_millis())]);
    table.add_row(["failed operations", &outcome.errors.len().to_string()]);
    table.add_row(["lost", &outcome.difference.lost.len().to_string()]);
    table.add_row(["duplicated", &outcome.difference.duplicated.len().to_string()]);
    println!("{table}");
    let all = outcome.errors.iter().chain(&outcome.difference.lost).chain(&outcome.difference.duplicated);
    for line in all.take(SHOWN) {
        println!("  {}", colour::red(line));
    }
    if outcome.is_right() {
        println!("{}", colour::green("every name and every byte is right"));
    } else {
        println!("{}", colour::red("this is a bug: please report it"));
    }
}

fn spinner(text: &'static str) -> ProgressBar {
    let bar = ProgressBar::new_spinner().with_message(text);
    bar.enable_steady_tick(DRAW);
    bar
}

fn bytes_bar(text: &'static str, bytes: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {bytes} of {total_bytes}, {bytes_per_sec}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style).with_message(text)
}
