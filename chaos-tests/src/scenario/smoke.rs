//! A short form of every scenario, for CI. `CARIBOU_TEST_WITHOUT=powercut,fuse` names what this machine cannot do.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail};

use super::*;
use crate::args::Setting;
use crate::report::Verdict;

/// The one variable that names what to leave out.
const WITHOUT: &str = "CARIBOU_TEST_WITHOUT";

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Run only this scenario's short form
    #[arg(long)]
    pub only: Option<String>,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Vec<Verdict>> {
    let without: Vec<String> = std::env::var(WITHOUT).unwrap_or_default().split(',').map(str::to_owned).collect();
    let leaves_out = |what: &str| without.iter().any(|w| w == what);
    if !leaves_out("fuse") && !std::path::Path::new("/dev/fuse").exists() {
        bail!(
            "/dev/fuse is missing, so nothing can be mounted: load the fuse module, or set {WITHOUT}=fuse to leave mounts out"
        );
    }
    let is_root = rustix::process::geteuid().is_root();
    if !leaves_out("powercut") && !is_root {
        bail!("power cuts need root (loop devices): run as root, or set {WITHOUT}=powercut to leave them out");
    }
    let wanted = |name: &str, needs: &[&str]| {
        args.only.as_deref().is_none_or(|only| only == name) && !needs.iter().any(|n| leaves_out(n))
    };
    let mut verdicts = Vec::new();
    let mut done = |verdict: Verdict| {
        verdict.print(false);
        verdicts.push(verdict);
    };
    if wanted("exactly-once", &[]) {
        let args = exactly_once::Args { kills: 5, kill_every: Duration::from_secs(3), from_table: 1, seed: 1 };
        done(exactly_once::run(setting, &args).await?);
    }
    if wanted("posix", &["fuse"]) {
        done(posix::run(setting, &posix::Args { entries: 5000 }).await?);
    }
    if wanted("failover", &["fuse"]) {
        done(failover::run(setting, &failover::Args { kills: 5, unjudged: true }).await?);
    }
    if wanted("copy", &["fuse"]) {
        let args = copy::Args {
            files: 1500,
            bytes: 200 << 20,
            kill_every: Duration::from_secs(4),
            kills: 3,
            source: PathBuf::from("/usr/share"),
        };
        done(copy::run(setting, &args).await?);
    }
    if wanted("kill-all", &["fuse"]) {
        done(kill_all::run(setting, &kill_all::Args { rounds: 1, load: Duration::from_secs(4) }).await?);
    }
    if wanted("chunk-kill", &["fuse"]) {
        done(chunk_kill::run(setting, &chunk_kill::Args { kills: 1, away: Duration::from_secs(6) }).await?);
    }
    if wanted("disk-swap", &["fuse"]) {
        done(disk_swap::run(setting, &disk_swap::Args { files: 24 }).await?);
    }
    if wanted("snapshot", &["fuse"]) {
        done(snapshot::run(setting, &snapshot::Args { folders: 3000 }).await?);
    }
    if wanted("no-quorum", &["fuse"]) {
        done(no_quorum::run(setting, &no_quorum::Args { wait: Duration::from_secs(2) }).await?);
    }
    if wanted("power-cut", &["fuse", "powercut"]) {
        done(power_cut::run(setting, &power_cut::Args { rounds: 1, load: Duration::from_secs(4) }).await?);
    }
    if wanted("live-power-cut", &["fuse", "powercut"]) {
        let args = live_power_cut::Args { cuts: 2, every: Duration::from_secs(4) };
        done(live_power_cut::run(setting, &args).await?);
    }
    if verdicts.is_empty() {
        bail!("nothing was run: {WITHOUT} leaves everything out, or --only names no scenario");
    }
    let failed = verdicts.iter().filter(|v| !v.is_passed()).count();
    // The closing line is on its own, as test runners write it.
    println!("{} passed, {failed} failed", verdicts.len() - failed);
    Ok(if failed == 0 { Vec::new() } else { verdicts.into_iter().filter(|v| !v.is_passed()).collect() })
}
