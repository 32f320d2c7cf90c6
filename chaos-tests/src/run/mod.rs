//! `caribou-chaos run`: breaks a cluster for some minutes under several loads, records everything, and says whether a promise was broken.
//!
//! A run is calm, then full of faults, then calm again. It is *violated* if a check found something, *invalid* if it proves nothing (the
//! loads stood still without a fault, or a planted violation was not found), and *passed* otherwise.

mod evidence;
mod excuses;
mod judge;
mod load;
mod page;
mod plot;
mod profile;
mod report;
mod timeline;
mod violation;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use caribou_cli::local::{self, Options, Part, ProcessId};
use rand::SeedableRng as _;
use rand::rngs::StdRng;

pub use profile::Profile;
pub use report::{Outcome, Report};

use crate::args::Setting;
use crate::check::finding::Finding;
use crate::lab::Lab;
use crate::nemesis::{self, Broken, Harm, Kind, Site};
use crate::scenario::{healed, snapshot};
use load::Loads;
use profile::{Room, Schedule};
use report::Windows;
use timeline::{Band, Recorder};

/// How long the loads work before the first fault and after the last.
const CALM: Duration = Duration::from_secs(5);
/// Lines of the log of one that has ended by itself.
const TAIL_LINES: usize = 10;
/// The loads delete more than small disks keep for a day.
const QUARANTINE: &str = "[store]\nquarantine = \"1m\"\nquarantine_scan = \"10s\"\n";
/// How long a load may take to end what it has begun, once everything is whole again.
const FINISH_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Decides faults, their order and times, and what the loads do
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How long faults are inflicted
    #[arg(long, default_value_t = 2.0)]
    pub minutes: f64,
    #[arg(long, value_enum, default_value_t = Profile::Everything)]
    pub profile: Profile,
    /// Only these kinds of faults
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Kind>,
    /// Without hosts and file systems of their own, which need root: loopback and folders, and fewer kinds of faults
    #[arg(long)]
    pub plain: bool,
    /// Metadata nodes: 3 or 5
    #[arg(long, default_value_t = 3, value_parser = meta_nodes)]
    pub meta: usize,
    /// Chunk servers, at least 3
    #[arg(long, default_value_t = 3, value_parser = chunk_servers)]
    pub chunk: usize,
    /// Where the report goes: a page, and JSON beside it
    #[arg(long, default_value = "caribou-chaos.html")]
    pub report: PathBuf,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Report> {
    let kinds = kinds(args)?;
    let options = Options {
        meta: args.meta,
        chunk: args.chunk,
        // Checkpoints are made, sent, damaged and cut short within minutes.
        meta_config: snapshot::META_CONFIG.to_owned(),
        chunk_config: QUARANTINE.to_owned(),
        ..Options::default()
    };
    let mut lab = match args.plain {
        true => Lab::up(setting, &options).await?,
        false => Lab::up_on_hosts(setting, &options).await?,
    };
    println!("{}", report::command(args));
    let before = judge::holdings(&lab);
    let loads = Loads::start(&mut lab, args.seed).await?;
    let recorder = Recorder::start(loads.counters(), lab.cluster.meta_addresses());
    tokio::time::sleep(CALM).await;
    let calm_until_ms = recorder.now_ms();
    let mut storm = Faults {
        rng: StdRng::seed_from_u64(args.seed),
        schedule: Schedule::new(kinds),
        taken: BTreeSet::new(),
        mounts: loads.mounts.clone(),
        lasting: Vec::new(),
        broken: Vec::new(),
    };
    storm.inflict(&mut lab, &recorder, Duration::from_secs_f64(args.minutes * 60.0)).await?;
    storm.look_for_the_dead(&lab);
    let mut broken = storm.broken;
    let faults_until_ms = recorder.now_ms();
    let healing = Instant::now();
    broken.extend(heal(&mut lab).await.err().map(|error| Finding::now(format!("{error:#}"))));
    let healed_ms = recorder.now_ms();
    println!("healed after {:.1} s", healing.elapsed().as_secs_f64());
    tokio::time::sleep(CALM).await;
    let windows = Windows { calm_until_ms, faults_until_ms, healed_ms, end_ms: recorder.now_ms() };
    let timeline = recorder.finish();
    let observer = loads.observer.clone();
    let seen = loads.finish(FINISH_PATIENCE).await?;
    let checks = judge::judge(&mut lab, seen, broken, &observer, &timeline, &before).await?;
    let report = Report::new(args, windows, timeline, checks);
    report.write(&args.report)?;
    lab.finish(report.outcome() == Outcome::Violated)?;
    Ok(report)
}

fn meta_nodes(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count @ (3 | 5)) => Ok(count),
        _ => Err("a run has 3 or 5 metadata nodes: fewer bear no fault, and 4 no more than 3".to_owned()),
    }
}

fn chunk_servers(text: &str) -> Result<usize, String> {
    match text.parse::<usize>() {
        Ok(count @ 3..) => Ok(count),
        _ => Err("a run has at least 3 chunk servers: two copies of each chunk, and a place for a third".to_owned()),
    }
}

/// The kinds of faults that it is about.
fn wanted(args: &Args) -> Vec<Kind> {
    let mut kinds = args.profile.kinds(!args.plain);
    if !args.only.is_empty() {
        kinds.retain(|kind| args.only.contains(kind));
    }
    kinds
}

fn kinds(args: &Args) -> Result<Vec<Kind>> {
    let kinds = wanted(args);
    if kinds.is_empty() {
        bail!("nothing to inflict: the profile {} has none of these kinds of faults here", args.profile.name());
    }
    if !args.plain && !rustix::process::geteuid().is_root() {
        bail!("hosts and file systems of their own need root: run as root, or with --plain");
    }
    Ok(kinds)
}

async fn heal(lab: &mut Lab) -> Result<()> {
    lab.cluster.start_all().await?;
    healed(lab).await
}

/// Inflicts faults, one or two at a time, beside those that last, until a promise is broken by one.
struct Faults {
    rng: StdRng,
    schedule: Schedule,
    taken: BTreeSet<nemesis::Server>,
    mounts: Vec<PathBuf>,
    lasting: Vec<Lasting>,
    /// What was found meanwhile.
    broken: Vec<Finding>,
}

/// A fault that outlasts others.
struct Lasting {
    harm: Harm,
    from_ms: u64,
    until: Instant,
}

impl Faults {
    async fn inflict(&mut self, lab: &mut Lab, recorder: &Recorder, time: Duration) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end && self.broken.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            let room = Room { left, lasting: !self.lasting.is_empty() };
            let blow = self.schedule.next(&mut self.rng, room);
            tokio::time::sleep(blow.pause).await;
            let mut harms: Vec<(Harm, u64)> = Vec::new();
            let mut told = Vec::new();
            for kind in blow.kinds {
                let from_ms = recorder.now_ms();
                let harm = nemesis::inflict(kind, &mut self.site(lab)).await.with_context(|| kind.name());
                let Some(harm) = self.noted(harm)? else {
                    self.schedule.put_back(kind);
                    continue;
                };
                self.schedule.inflicted(kind);
                let lasts = kind.lasts().unwrap_or(blow.lasts);
                told.push(format!("{:.1} s of {}", lasts.as_secs_f64(), harm.told()));
                match kind.lasts() {
                    Some(lasts) => self.lasting.push(Lasting { harm, from_ms, until: Instant::now() + lasts }),
                    None => harms.push((harm, from_ms)),
                }
            }
            if !told.is_empty() {
                println!("{:6.1} s  {}", recorder.now_ms() as f64 / 1e3, told.join(" and "));
            }
            if !harms.is_empty() {
                tokio::time::sleep(blow.lasts).await;
            }
            // Lines first, mounts last.
            harms.sort_by_key(|(harm, _)| harm.kind.class());
            for (harm, from_ms) in harms {
                self.lift(harm, from_ms, lab, recorder).await?;
            }
            self.lift_lasting(Instant::now(), lab, recorder).await?;
            self.look_for_the_dead(lab);
        }
        let last = self.lasting.iter().map(|lasting| lasting.until).max();
        if let Some(last) = last {
            tokio::time::sleep_until(last.into()).await;
            self.lift_lasting(last, lab, recorder).await?;
        }
        Ok(())
    }

    /// Lifts those whose time is over.
    async fn lift_lasting(&mut self, now: Instant, lab: &mut Lab, recorder: &Recorder) -> Result<()> {
        while let Some(at) = self.lasting.iter().position(|lasting| lasting.until <= now) {
            let Lasting { harm, from_ms, .. } = self.lasting.remove(at);
            self.lift(harm, from_ms, lab, recorder).await?;
        }
        Ok(())
    }

    async fn lift(&mut self, harm: Harm, from_ms: u64, lab: &mut Lab, recorder: &Recorder) -> Result<()> {
        let (kind, victims) = (harm.kind, harm.victims.clone());
        let effect = harm.lift(&mut self.site(lab)).await.with_context(|| kind.name());
        let effect = self.noted(effect)?;
        recorder.band(Band { kind, victims, from_ms, to_ms: recorder.now_ms(), effect });
        Ok(())
    }

    /// What it gave; nothing if it found a broken promise, which is noted.
    fn noted<T>(&mut self, result: Result<Option<T>>) -> Result<Option<T>> {
        result.or_else(|error| {
            self.broken.push(Finding::now(Broken::told(error)?));
            Ok(None)
        })
    }

    /// Whoever is gone, though no fault has it, has ended by itself.
    fn look_for_the_dead(&mut self, lab: &Lab) {
        let layout = lab.cluster.layout();
        let servers = [Part::Meta, Part::Chunk]
            .into_iter()
            .flat_map(|part| layout.nodes(part).iter().map(move |node| ((part, node.number), node.process, &node.log)));
        let free = servers.filter(|(server, ..)| !self.taken.contains(server));
        let dead = free.filter(|(_, process, _)| !process.is_some_and(ProcessId::is_alive));
        let servers = dead.map(|((part, number), _, log)| (format!("{}{number}", part.name()), log));
        let mounts = layout.mounts.iter().filter(|mount| !mount.process.is_some_and(ProcessId::is_alive));
        let mounts = mounts.map(|mount| (mount.path.display().to_string(), &mount.log));
        for (who, log) in servers.chain(mounts) {
            let end = local::tail(log, TAIL_LINES);
            self.broken.push(Finding::now(format!("{who} has ended by itself; the end of its log:\n{end}")));
        }
    }

    fn site<'a>(&'a mut self, lab: &'a mut Lab) -> Site<'a> {
        Site { lab, rng: &mut self.rng, taken: &mut self.taken, mounts: &mut self.mounts }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_clusters_that_bear_a_fault_are_broken() {
        assert_eq!((meta_nodes("3"), meta_nodes("5")), (Ok(3), Ok(5)));
        assert_eq!((chunk_servers("3"), chunk_servers("7")), (Ok(3), Ok(7)));
        for text in ["0", "1", "2", "4", "7", "-3", "three"] {
            assert!(meta_nodes(text).is_err_and(|error| error.contains("3 or 5 metadata nodes")), "{text}");
        }
        assert!(chunk_servers("2").is_err_and(|error| error.contains("at least 3 chunk servers")));
    }
}
