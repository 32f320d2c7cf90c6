//! A short form of every scenario, for CI. `CARIBOU_TEST_WITHOUT=powercut,fuse` names what this machine cannot do.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::*;
use crate::args::Setting;
use crate::program;
use crate::report::Verdict;
use crate::run;

/// The one variable that names what to leave out.
const WITHOUT: &str = "CARIBOU_TEST_WITHOUT";
/// Programs of others that are run on a mount; each can be left out by its name.
const PROGRAMS: [&str; 6] = ["pjdfstest", "fsx", "fio", "stress-ng", "sqlite3", "git"];

/// What the short form of `run` has to inflict.
const LEAST_FAULTS: usize = 12;
const LEAST_KINDS: usize = 6;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Run only this scenario's short form
    #[arg(long)]
    pub only: Option<String>,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Vec<Verdict>> {
    let mut smoke = Smoke::new(setting, args.only.clone(), &std::env::var(WITHOUT).unwrap_or_default())?;
    smoke.check_machine()?;
    metadata(&mut smoke).await?;
    data(&mut smoke).await?;
    chaos(&mut smoke).await?;
    suites(&mut smoke).await?;
    smoke.finish()
}

/// What is run, and what has come out so far.
struct Smoke<'a> {
    setting: &'a Setting,
    only: Option<String>,
    without: Vec<String>,
    /// Scenarios that were wanted and left out.
    left_out: Vec<&'static str>,
    verdicts: Vec<Verdict>,
}

impl<'a> Smoke<'a> {
    fn new(setting: &'a Setting, only: Option<String>, without: &str) -> Result<Self> {
        let without: Vec<String> = without.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect();
        let known = |word: &str| word == "fuse" || word == "powercut" || PROGRAMS.contains(&word);
        if let Some(word) = without.iter().find(|word| !known(word)) {
            bail!("{WITHOUT} names {word:?}, which is none of fuse, powercut, {}", PROGRAMS.join(", "));
        }
        Ok(Self { setting, only, without, left_out: Vec::new(), verdicts: Vec::new() })
    }

    fn leaves_out(&self, what: &str) -> bool {
        self.without.iter().any(|word| word == what)
    }

    /// What is missing is said before anything is run.
    fn check_machine(&self) -> Result<()> {
        if self.leaves_out("fuse") {
            return Ok(());
        }
        if !Path::new("/dev/fuse").exists() {
            bail!(
                "/dev/fuse is missing, so nothing can be mounted: load the fuse module, or set {WITHOUT}=fuse to leave mounts out"
            );
        }
        if !self.leaves_out("powercut") && !rustix::process::geteuid().is_root() {
            bail!("power cuts need root (loop devices): run as root, or set {WITHOUT}=powercut to leave them out");
        }
        if self.only.is_none() {
            for name in PROGRAMS.into_iter().filter(|name| !self.leaves_out(name)) {
                program::version(Path::new(name)).with_context(|| format!("{WITHOUT}={name} would leave it out"))?;
            }
        }
        Ok(())
    }

    /// Whether to run a scenario that needs all this.
    fn wants(&mut self, name: &'static str, needs: &[&str]) -> bool {
        if self.only.as_deref().is_some_and(|only| only != name) {
            return false;
        }
        let can = !needs.iter().any(|need| self.leaves_out(need));
        if !can {
            self.left_out.push(name);
        }
        can
    }

    fn done(&mut self, verdict: Verdict) {
        verdict.print(false);
        self.verdicts.push(verdict);
    }

    fn finish(self) -> Result<Vec<Verdict>> {
        if self.verdicts.is_empty() {
            bail!("nothing was run: {WITHOUT} leaves everything out, or --only names no scenario");
        }
        if !self.left_out.is_empty() {
            println!("left out because of {WITHOUT}: {}", self.left_out.join(", "));
        }
        let (all, failed): (usize, Vec<Verdict>) =
            (self.verdicts.len(), self.verdicts.into_iter().filter(|v| !v.is_passed()).collect());
        // The closing line is on its own, as test runners write it.
        println!("{} passed, {} failed", all - failed.len(), failed.len());
        Ok(failed)
    }
}

/// Leaders, names, failover.
async fn metadata(smoke: &mut Smoke<'_>) -> Result<()> {
    let setting = smoke.setting;
    if smoke.wants("exactly-once", &[]) {
        let args = exactly_once::Args { kills: 5, kill_every: Duration::from_secs(3), from_table: 1, seed: 1 };
        smoke.done(exactly_once::run(setting, &args).await?);
    }
    if smoke.wants("posix", &["fuse"]) {
        smoke.done(posix::run(setting, &posix::Args { entries: 5000 }).await?);
    }
    if smoke.wants("failover", &["fuse"]) {
        let kills = failover::Args { kills: 5, hand_over: false, unjudged: true, report: None };
        smoke.done(failover::run(setting, &kills).await?);
        smoke.done(failover::run(setting, &failover::Args { hand_over: true, ..kills }).await?);
    }
    if smoke.wants("snapshot", &["fuse"]) {
        smoke.done(snapshot::run(setting, &snapshot::Args { folders: 3000 }).await?);
    }
    if smoke.wants("scale", &[]) {
        smoke.done(scale::run(setting, &small_scale()).await?);
    }
    if smoke.wants("no-quorum", &["fuse"]) {
        smoke.done(no_quorum::run(setting, &no_quorum::Args { wait: Duration::from_secs(2) }).await?);
    }
    Ok(())
}

/// A state above the cache that it is given here. How times and rates of so few inodes compare says nothing, and gaps have a scenario of
/// their own.
fn small_scale() -> scale::Args {
    scale::Args {
        inodes: 20_000,
        folders: 50,
        in_flight: 256,
        time: Duration::from_secs(1),
        warm: Duration::ZERO,
        kills: 0,
        cache_mib: 1,
        write_buffer_mib: 4,
        snapshot_after_mib: 1,
        unjudged: true,
    }
}

/// Bytes, chunk servers, power.
async fn data(smoke: &mut Smoke<'_>) -> Result<()> {
    let setting = smoke.setting;
    if smoke.wants("copy", &["fuse"]) {
        let args = copy::Args {
            files: 1500,
            bytes: 200 << 20,
            kill_every: Duration::from_secs(4),
            kills: 3,
            source: PathBuf::from("/usr/share"),
        };
        smoke.done(copy::run(setting, &args).await?);
    }
    if smoke.wants("kill-all", &["fuse"]) {
        smoke.done(kill_all::run(setting, &kill_all::Args { rounds: 1, load: Duration::from_secs(4) }).await?);
    }
    if smoke.wants("chunk-kill", &["fuse"]) {
        smoke.done(chunk_kill::run(setting, &chunk_kill::Args { kills: 1, away: Duration::from_secs(6) }).await?);
    }
    if smoke.wants("disk-swap", &["fuse"]) {
        smoke.done(disk_swap::run(setting, &disk_swap::Args { files: 24 }).await?);
    }
    if smoke.wants("power-cut", &["fuse", "powercut"]) {
        smoke.done(power_cut::run(setting, &power_cut::Args { rounds: 1, load: Duration::from_secs(4) }).await?);
    }
    if smoke.wants("live-power-cut", &["fuse", "powercut"]) {
        let args = live_power_cut::Args { cuts: 2, every: Duration::from_secs(4) };
        smoke.done(live_power_cut::run(setting, &args).await?);
    }
    Ok(())
}

/// Faults of all kinds under loads.
async fn chaos(smoke: &mut Smoke<'_>) -> Result<()> {
    if !smoke.wants("run", &["fuse", "powercut"]) {
        return Ok(());
    }
    let folder = tempfile::tempdir()?;
    let args = run::Args {
        seed: 1,
        minutes: 1.0,
        profile: run::Profile::Smoke,
        only: Vec::new(),
        plain: false,
        meta: 3,
        chunk: 3,
        report: folder.path().join("report.html"),
    };
    let report = run::run(smoke.setting, &args).await?;
    let mut verdict = report.verdict();
    let (faults, kinds) = (report.injections(), report.kinds());
    verdict.check(faults >= LEAST_FAULTS && kinds >= LEAST_KINDS, || {
        format!(
            "only {faults} faults of {kinds} kinds took effect, at least {LEAST_FAULTS} of {LEAST_KINDS} are wanted"
        )
    });
    if !verdict.is_passed() {
        let kept = folder.keep();
        report.print(&kept.join("report.html"));
    }
    smoke.done(verdict);
    Ok(())
}

/// The suites and programs of others.
async fn suites(smoke: &mut Smoke<'_>) -> Result<()> {
    let setting = smoke.setting;
    if smoke.wants("pjdfstest", &["fuse", "pjdfstest"]) {
        let args = pjdfstest::Args { program: PathBuf::from("pjdfstest"), ext4: false };
        smoke.done(pjdfstest::run(setting, &args).await?);
    }
    if smoke.wants("fsx", &["fuse", "fsx"]) {
        let program = PathBuf::from("fsx");
        let short = fsx::Args { ops: 5000, seeds: vec![1, 2], file_kib: 256, kill_every: None, program };
        smoke.done(fsx::run(setting, &short).await?);
        let two_chunks = fsx::Args { ops: 1000, file_kib: 72 << 10, ..short.clone() };
        smoke.done(fsx::run(setting, &two_chunks).await?);
        let kill_every = Some(Duration::from_secs(6));
        smoke.done(fsx::run(setting, &fsx::Args { ops: 10_000, seeds: vec![3, 4], kill_every, ..short }).await?);
    }
    if smoke.wants("fio", &["fuse", "fio"]) {
        smoke.done(fio::run(setting, &fio::Args { small_mib: 4, kill_every: None }).await?);
    }
    if smoke.wants("stress-ng", &["fuse", "stress-ng"]) {
        let args = stress_ng::Args { time: Duration::from_secs(1), processes: 2, stressors: Vec::new() };
        smoke.done(stress_ng::run(setting, &args).await?);
    }
    if smoke.wants("sqlite", &["fuse", "sqlite3"]) {
        let args = sqlite::Args { rounds: 1, work: Duration::from_secs(3), kill_every: Duration::from_secs(4) };
        smoke.done(sqlite::run(setting, &args).await?);
    }
    if smoke.wants("git", &["fuse", "git"]) {
        let args = git::Args { files: 500, source: PathBuf::from("/usr/share"), kill_every: None };
        smoke.done(git::run(setting, &args).await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use caribou_cli::local::Binaries;

    #[test]
    fn what_is_left_out_has_a_known_name() {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["caribou-meta", "caribou-chunkd", "caribou-mount"] {
            std::fs::write(folder.path().join(name), "").expect("written");
        }
        let binaries = Binaries::find(Some(folder.path())).expect("three programs");
        let setting = Setting { binaries, dir: folder.path().to_owned(), keep: false };
        let mut smoke = Smoke::new(&setting, None, "fio,powercut").expect("known words");
        assert!(!smoke.wants("fio", &["fuse", "fio"]) && smoke.wants("git", &["fuse", "git"]));
        assert_eq!(smoke.left_out, ["fio"]);
        assert!(Smoke::new(&setting, None, "fuse,fsxx").is_err_and(|error| error.to_string().contains("\"fsxx\"")));
    }
}
