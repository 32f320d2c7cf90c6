//! The stressors of stress-ng that are about files, each for a moment on a mount, with verification. `list.rs` reads which.
//!
//! What a mount fails is run on a local ext4: if that fails or skips it as well, the stressor and not Caribou is at fault.

mod list;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caribou_cli::local::Options;

use super::healed;
use crate::args::Setting;
use crate::lab::Lab;
use crate::program::{self, Ended};
use crate::report::Verdict;
use list::{Stressor, Stressors};

const LIST: &str = include_str!("../../../stress-ng.txt");
const PROGRAM: &str = "stress-ng";
/// Classes of which every stressor has to be listed.
const CLASSES: [&str; 2] = ["filesystem", "io"];
/// How long a stressor may take to stop and to remove its files, after its time is over.
const PATIENCE: Duration = Duration::from_secs(120);
/// The exit code for options that it does not understand. That would be the same on ext4, and no reason to let it pass.
const WRONG_USE: i32 = 1;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How long each stressor works
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    pub time: Duration,
    /// Processes of each stressor
    #[arg(long, default_value_t = 4)]
    pub processes: u32,
    /// Run these stressors only
    #[arg(long, value_delimiter = ',')]
    pub stressors: Vec<String>,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("stress-ng");
    program::version(Path::new(PROGRAM))?;
    let list = Stressors::parse(LIST)?;
    check_complete(&list, &mut verdict)?;
    let wanted = |s: &&Stressor| args.stressors.is_empty() || args.stressors.contains(&s.name);
    let chosen: Vec<&Stressor> = list.run.iter().filter(wanted).collect();
    verdict.check(!chosen.is_empty(), || "--stressors names none that the list has".to_owned());
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mount = lab.mount(&[]).await?;
    let mut failed = Vec::new();
    for stressor in &chosen {
        let ended = stress(stressor, args, &mount).await?;
        if let Some(words) = complaint(&ended) {
            failed.push((*stressor, words));
        }
    }
    verdict.figure("stressors run", chosen.len());
    verdict.figure("left out (stress-ng.txt says why)", list.out.len());
    let mut fail_on_ext4 = Vec::new();
    let ext4 = if failed.is_empty() { PathBuf::new() } else { lab.local_volume()? };
    for (stressor, words) in failed {
        if complaint(&stress(stressor, args, &ext4).await?).is_some() {
            fail_on_ext4.push(stressor.name.as_str());
        } else {
            verdict.violations.push(format!("{}: {words}", stressor.name));
        }
    }
    if !fail_on_ext4.is_empty() {
        verdict.figure("failed on ext4 too", fail_on_ext4.join(", "));
    }
    let left = std::fs::read_dir(&mount)?.count();
    verdict.check(left == 0, || format!("{left} entries are left though each stressor removes what it has made"));
    if verdict.is_passed() {
        healed(&lab).await?;
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// A release with more stressors must not run less of them than it could.
fn check_complete(list: &Stressors, verdict: &mut Verdict) -> Result<()> {
    for class in CLASSES {
        let output = Command::new(PROGRAM).args(["--class", &format!("{class}?")]).output().context(PROGRAM)?;
        for name in list.unlisted(&String::from_utf8_lossy(&output.stdout))? {
            verdict.violations.push(format!("stress-ng.txt does not name {name}, which this release has"));
        }
    }
    Ok(())
}

async fn stress(stressor: &Stressor, args: &Args, place: &Path) -> Result<Ended> {
    let mut command = Command::new(PROGRAM);
    command.args([&format!("--{}", stressor.name), &args.processes.to_string()]).args(&stressor.options);
    command.args(["--timeout", &format!("{}s", args.time.as_secs().max(1)), "--verify"]);
    command.arg("--temp-path").arg(place);
    let ended = program::run(command, args.time + PATIENCE).await?;
    if ended.status.and_then(|status| status.code()) == Some(WRONG_USE) {
        bail!("stress-ng does not take the options of {}: {}", stressor.name, ended.words());
    }
    Ok(ended)
}

/// What is wrong with a run. A stressor that skips itself ends like one that has passed: only its words tell.
fn complaint(ended: &Ended) -> Option<String> {
    let skipped = ended.stdout.contains("skipping") || ended.stderr.contains("skipping");
    (skipped || !ended.is_success()).then(|| ended.words())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_stressors_is_well_formed() {
        let list = Stressors::parse(LIST).expect("parses");
        assert!(list.run.len() > list.out.len());
    }
}
