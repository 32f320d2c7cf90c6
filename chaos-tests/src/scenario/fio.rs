//! fio writes files in several ways and verifies every block by its CRC-32C: right after writing, and again from another client, whose
//! kernel has none of it cached, so that the bytes come from the chunk servers. The jobs are in `chaos-tests/fio`.

use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::local::Options;

use super::healed;
use super::replicas::replicas_differ;
use crate::args::Setting;
use crate::lab::Lab;
use crate::nemesis::kills;
use crate::program::{self, Ended};
use crate::report::Verdict;

const JOBS: [(&str, &str); 5] = [
    ("sequential", include_str!("../../fio/sequential.fio")),
    ("random", include_str!("../../fio/random.fio")),
    ("direct", include_str!("../../fio/direct.fio")),
    ("mapped", include_str!("../../fio/mapped.fio")),
    ("overwrite", include_str!("../../fio/overwrite.fio")),
];
/// A file that a job leaves behind, and a place in it, for the proof that a wrong byte is found.
const CONTROL: (&str, &str, u64) = ("sequential", "sequential.large-blocks", 1_000_020);
/// How long one job file may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(1800);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// MiB of files that are written in small pieces; the others are eight times as long
    #[arg(long, default_value_t = 64)]
    pub small_mib: u64,
    /// Kill the leader and a chunk server in this rhythm while files are written
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub kill_every: Option<Duration>,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("fio");
    program::version(Path::new("fio"))?;
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mount = lab.mount(&[]).await?;
    for (name, text) in JOBS {
        fs::write(lab.folder().join(format!("{name}.fio")), text)?;
    }
    let folder = lab.folder().to_owned();
    let writes = async {
        let mut results = Vec::new();
        for (name, _) in JOBS {
            results.push((name, fio(&folder, &mount, name, args, &[]).await?));
        }
        Ok(results)
    };
    let results = match args.kill_every {
        Some(every) => {
            let (results, count) = kills::of_leader_and_chunk_server(&mut lab, every, writes).await?;
            verdict.figure("kills of leader and chunk server", count);
            results
        }
        None => writes.await?,
    };
    for (name, ended) in results {
        verdict.figure(&format!("{name}: write and verify, s"), format!("{:.1}", ended.took.as_secs_f64()));
        verdict.check(ended.is_success(), || format!("{name}: {}", ended.words()));
    }
    if verdict.is_passed() {
        verify_from_another_client(&mut lab, &mount, args, &mut verdict).await?;
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

async fn verify_from_another_client(lab: &mut Lab, mount: &Path, args: &Args, verdict: &mut Verdict) -> Result<()> {
    lab.cluster.unmount(mount)?;
    let again = lab.mount(&[]).await?;
    let folder = lab.folder().to_owned();
    for (name, _) in JOBS {
        let ended = fio(&folder, &again, name, args, &["--verify_only"]).await?;
        verdict.figure(&format!("{name}: verify from another client, s"), format!("{:.1}", ended.took.as_secs_f64()));
        verdict.check(ended.is_success(), || format!("{name}, from another client: {}", ended.words()));
    }
    // The proof that this finds anything at all.
    let (name, file, place) = CONTROL;
    let path = again.join(file);
    let damaged = fs::OpenOptions::new().write(true).open(&path).with_context(|| path.display().to_string())?;
    damaged.write_all_at(b"other bytes", place)?;
    drop(damaged);
    let ended = fio(&folder, &again, name, args, &["--verify_only"]).await?;
    verdict.check(!ended.is_success(), || format!("{name}: fio does not see that bytes of {file} were changed"));
    healed(lab).await?;
    verdict.violations.extend(replicas_differ(lab).await?);
    Ok(())
}

async fn fio(folder: &Path, mount: &Path, name: &str, args: &Args, more: &[&str]) -> Result<Ended> {
    let mut command = Command::new("fio");
    command.env("SMALL", format!("{}m", args.small_mib)).env("LARGE", format!("{}m", args.small_mib * 8));
    command.args(["--verify=crc32c", "--verify_fatal=1", "--randrepeat=1"]).args(more);
    command.arg(format!("--filename_format={name}.$jobname"));
    command.arg("--directory").arg(mount).arg(folder.join(format!("{name}.fio")));
    // fio leaves a state of its verification behind, in the folder that it is started in.
    command.current_dir(folder);
    program::run(command, PATIENCE).await
}
