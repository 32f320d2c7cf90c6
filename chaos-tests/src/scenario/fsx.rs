//! The file system exerciser fsx on a mount: random reads, writes, mappings, truncations and copies within one file, each read compared
//! with what must be there. Several seeds work at once, each on its own file; afterwards another client must see the same bytes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::local::Options;
use futures::future::try_join_all;
use sha2::{Digest, Sha256};

use super::replicas::replicas_differ;
use super::{blocking, healed};
use crate::args::Setting;
use crate::lab::Lab;
use crate::nemesis::kills;
use crate::program::{self, Ended};
use crate::report::Verdict;

const CONFIG: &str = include_str!("../../fsx.toml");
/// How long one operation may take on average before a run counts as hung.
const PATIENCE_PER_OP: Duration = Duration::from_millis(60);
const PATIENCE_AT_LEAST: Duration = Duration::from_secs(300);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Operations of each seed
    #[arg(long, default_value_t = 1_000_000)]
    pub ops: u64,
    /// Seeds, which run at once
    #[arg(long, value_delimiter = ',', default_value = "1,2,3,4")]
    pub seeds: Vec<u64>,
    /// The files' greatest length in KiB: small files are written over and over, such of more than 65536 reach into a second chunk
    #[arg(long, default_value_t = 256)]
    pub file_kib: u32,
    /// Kill the leader and a chunk server in this rhythm
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub kill_every: Option<Duration>,
    /// The program, as `make smoke` installs it
    #[arg(long, default_value = "fsx")]
    pub program: PathBuf,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("fsx");
    program::require_release(&args.program, release()?)?;
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mount = lab.mount(&[]).await?;
    let (place, folder) = (mount.clone(), lab.folder().to_owned());
    let all =
        async { try_join_all(args.seeds.iter().map(|seed| Exercise::new(*seed, &place, &folder).run(args))).await };
    let results = match args.kill_every {
        Some(every) => {
            let (results, count) = kills::of_leader_and_chunk_server(&mut lab, every, all).await?;
            verdict.figure("kills of leader and chunk server", count);
            verdict.check(count > 0, || format!("all was over before the first kill after {every:?}: take more --ops"));
            results
        }
        None => all.await?,
    };
    for (seed, ended) in args.seeds.iter().zip(results) {
        let rate = args.ops as f64 / ended.took.as_secs_f64();
        verdict.figure(&format!("seed {seed}"), format!("{} operations, {rate:.0} a second", args.ops));
        verdict.check(ended.is_success(), || format!("fsx -N {} -S {seed}: {}", args.ops, ended.words()));
    }
    if verdict.is_passed() {
        compare_with_another_client(&mut lab, &mount, args, &mut verdict).await?;
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// The release that `fsx.toml` is for.
fn release() -> Result<&'static str> {
    CONFIG.lines().find_map(|line| line.strip_prefix("# release ")).context("fsx.toml names no release")
}

/// What the client that wrote the files reads from its caches, another one has to read from the chunk servers.
async fn compare_with_another_client(lab: &mut Lab, mount: &Path, args: &Args, verdict: &mut Verdict) -> Result<()> {
    let before = digests(mount, &args.seeds).await?;
    lab.cluster.unmount(mount)?;
    let again = lab.mount(&[]).await?;
    let after = digests(&again, &args.seeds).await?;
    for (seed, (before, after)) in args.seeds.iter().zip(before.iter().zip(&after)) {
        verdict.check(before == after, || format!("seed {seed}: another client reads other bytes or another length"));
    }
    healed(lab).await?;
    verdict.violations.extend(replicas_differ(lab).await?);
    Ok(())
}

/// Whether each write through a mapping is synced at once; else the kernel writes its pages back when it likes. The seed decides, so
/// that two in a row take both ways.
fn syncs_mappings(seed: u64) -> bool {
    !seed.is_multiple_of(2)
}

/// One seed on its file.
struct Exercise {
    seed: u64,
    file: PathBuf,
    /// Outside the mount: configuration, and what fsx leaves behind when it finds something.
    folder: PathBuf,
}

impl Exercise {
    fn new(seed: u64, mount: &Path, folder: &Path) -> Self {
        Self { seed, file: mount.join(file_of(seed)), folder: folder.join(format!("fsx-seed{seed}")) }
    }

    async fn run(self, args: &Args) -> Result<Ended> {
        fs::create_dir(&self.folder).with_context(|| self.folder.display().to_string())?;
        let config = self.folder.join("fsx.toml");
        let greatest_length = u64::from(args.file_kib) << 10;
        let head = format!("flen = {greatest_length}\nnomsyncafterwrite = {}\n\n", !syncs_mappings(self.seed));
        fs::write(&config, head + CONFIG).with_context(|| config.display().to_string())?;
        let mut command = Command::new(&args.program);
        command.args(["-N", &args.ops.to_string(), "-S", &self.seed.to_string()]);
        command.arg("-f").arg(config).arg("-P").arg(&self.folder).arg(&self.file);
        let patience = PATIENCE_PER_OP * u32::try_from(args.ops).unwrap_or(u32::MAX);
        let ended = program::run(command, patience.max(PATIENCE_AT_LEAST)).await?;
        // All operations that came before a failure; the verdict shows the ends only.
        fs::write(self.folder.join("log"), format!("{}{}", ended.stdout, ended.stderr))?;
        Ok(ended)
    }
}

fn file_of(seed: u64) -> String {
    format!("fsx-{seed}")
}

/// Length and SHA-256 of each seed's file.
async fn digests(mount: &Path, seeds: &[u64]) -> Result<Vec<(usize, Vec<u8>)>> {
    let paths: Vec<PathBuf> = seeds.iter().map(|seed| mount.join(file_of(*seed))).collect();
    let digest = |path: &PathBuf| {
        let bytes = fs::read(path).with_context(|| path.display().to_string())?;
        Ok((bytes.len(), Sha256::digest(&bytes).to_vec()))
    };
    blocking(move || paths.iter().map(digest).collect()).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_its_release() {
        assert_eq!(release().expect("a release").split('.').count(), 3);
    }
}
