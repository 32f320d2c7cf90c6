//! Rounds and turns: for each turn a fresh system is brought up, warmed up, measured and taken down; results are written after each round.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use caribou_cli::bench::figure::rounded;
use caribou_cli::bench::{Caches, Figure, Progress};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Setting;
use crate::folder::Folder;
use crate::machine::{self, Machine};
use crate::plan::{Group, Sizes, Turn};
use crate::report::Report;
use crate::rows::Runs;
use crate::source::Source;
use crate::system::{Running, System, moosefs};
use crate::{differences, turn::Work};

/// Above this share of busy processors before a turn, somebody else is at work.
const QUIET_PERCENT: f64 = 5.0;
/// What shells say of a program that Ctrl-C ended.
const EXIT_SIGNALLED: i32 = 130;

/// Measures everything and writes the results.
///
/// # Errors
/// If a system did not come up or a workload had an error: the results of the rounds before are kept.
pub fn run(setting: &Setting) -> Result<()> {
    let plan = &setting.plan;
    let turns = plan.turns();
    let needs_moosefs = plan.systems.iter().any(|system| System::RIVALS.contains(system));
    let moosefs = needs_moosefs.then(moosefs::version).transpose()?;
    let folder = Folder::make(&setting.dir, setting.binaries.as_ref())?;
    std::fs::create_dir_all(&setting.out).with_context(|| setting.out.display().to_string())?;
    announce(setting, plan.estimate(&turns));
    let source = pack_source(setting, &folder)?;

    let progress = Arc::new(Progress::default());
    end_at_signal(progress.clone())?;
    let mut report = Report::new(setting, Machine::look(&setting.dir)?, moosefs, &source);
    let mut runs = Runs::default();
    let started = Instant::now();
    for (done, turn) in turns.iter().enumerate() {
        tell_turn(done, &turns, started, plan.estimate(&turns[..done]), plan.estimate(&turns[done..]));
        match take(turn, setting, &folder, &source, &progress) {
            Ok((figures, busy)) => {
                tell_figures(&figures);
                runs.add(turn.group, turn.system, figures);
                report.note_busy(busy);
            }
            Err(error) => return Err(failed(error, turn, setting, folder)),
        }
        let is_last_of_round = turns.get(done + 1).is_none_or(|next| next.round != turn.round);
        if is_last_of_round {
            report.finish_round(turn.round, started.elapsed(), runs.rows());
            report.write(&setting.out)?;
        }
    }
    drop(folder);
    report.tell(&setting.out);
    Ok(())
}

/// One turn; the figures, and how busy the machine was before, in percent.
fn take(
    turn: &Turn,
    setting: &Setting,
    folder: &Folder,
    source: &Source,
    progress: &Progress,
) -> Result<(Vec<Figure>, f64)> {
    if progress.is_stopped() {
        bail!("stopped by a signal");
    }
    // What the turn before has left to write must not be written in this one.
    Caches::Dropped.drop_now().context("the kernel's caches cannot be dropped")?;
    let busy = machine::busy_percent()?;
    if busy > QUIET_PERCENT {
        eprintln!(
            "  the processors are {busy:.0} % busy although nothing of this run is up: somebody else is at work here"
        );
    }
    let place = folder.turn()?;
    let running = Running::up(turn.system, &place, turn.group.copies(), setting.binaries.as_ref())?;
    let (root, sizes, caches) = (running.root(), &setting.plan.sizes, Caches::Dropped);
    let work = Work { root, sizes, source, caches, progress };
    work.warm_up().context("warm-up")?;
    let figures = work.measure(turn.group)?;
    running.down()?;
    std::fs::remove_dir_all(&place).with_context(|| place.display().to_string())?;
    Ok((figures, busy))
}

fn failed(error: anyhow::Error, turn: &Turn, setting: &Setting, folder: Folder) -> anyhow::Error {
    if setting.keep {
        eprintln!("kept: {}", folder.keep().display());
    }
    let (round, system, group) = (turn.round, turn.system.title(), turn.group.title());
    error.context(format!("round {round}, {system}, {group}: the run is not whole"))
}

/// Unpacked, copied and committed only if that is asked for.
fn pack_source(setting: &Setting, folder: &Folder) -> Result<Source> {
    if !setting.plan.groups.contains(&Group::Programs) {
        return Ok(Source::default());
    }
    Source::pack(&setting.source, setting.plan.sizes.tree_files, folder.path())
}

fn announce(setting: &Setting, estimate: Duration) {
    let plan = &setting.plan;
    let systems: Vec<&str> = plan.systems.iter().map(|system| system.title()).collect();
    println!("{} rounds of {} groups of workloads on: {}", plan.rounds, plan.groups.len(), systems.join(", "));
    println!("this takes about {} minutes", minutes(estimate));
    if plan.sizes == Sizes::QUICK {
        println!("--quick: everything is run, but the figures mean little");
    }
    for sentence in differences::sentences() {
        println!("- {sentence}");
    }
}

/// Where the run is; what is left is estimated from how the turns so far compare with their estimate.
fn tell_turn(done: usize, turns: &[Turn], started: Instant, expected: Duration, left: Duration) {
    let elapsed = started.elapsed();
    let pace = if done == 0 { 1.0 } else { elapsed.as_secs_f64() / expected.as_secs_f64().max(1.0) };
    let Turn { round, group, system } = turns[done];
    println!(
        "[{}/{}, {} min, about {} left] round {round}: {}: {}",
        done + 1,
        turns.len(),
        minutes(elapsed),
        minutes(left.mul_f64(pace)),
        group.title(),
        system.title()
    );
}

fn tell_figures(figures: &[Figure]) {
    for figure in figures {
        let folder = figure.placement.map_or("", |placement| placement.name());
        println!(
            "  {:28} {:>3} {folder:8} {:>10} {}",
            figure.workload,
            figure.threads,
            rounded(figure.value),
            figure.unit.name()
        );
    }
}

fn minutes(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() / 60.0)
}

/// The first Ctrl-C or SIGTERM ends the workload and takes everything down, the second ends the program as it is; the next run cleans up.
fn end_at_signal(progress: Arc<Progress>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async {
            let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
            for is_first in [true, false] {
                tokio::select! {
                    _ = tokio::signal::ctrl_c() => {}
                    _ = terminate.recv() => {}
                }
                if is_first { progress.stop() } else { std::process::exit(EXIT_SIGNALLED) }
            }
        });
    });
    Ok(())
}
