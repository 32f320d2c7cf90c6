//! A disk of a stopped chunk server is replaced by an empty one: the server comes back and the cluster notices what it lacks (R4), makes the
//! copies again, and no byte is lost. Nobody reads in between: a reader that complains would be a hint of its own.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use caribou_cli::local::{Options, Part};
use rustix::process::Signal;

use super::replicas::replicas_differ;
use super::{HEAL_PATIENCE, blocking};
use crate::args::Setting;
use crate::block;
use crate::lab::Lab;
use crate::report::Verdict;
use crate::workload::worker::drop_caches;

const BLOCKS: u64 = 32;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Files that are there before
    #[arg(long, default_value_t = 100)]
    pub files: u64,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("disk-swap");
    let data_of = |dir: &Path, part: Part, number: usize| {
        let folder = dir.join(format!("{}{number}", part.name()));
        if part == Part::Chunk { vec![folder.join("disk1"), folder.join("disk2")] } else { vec![folder] }
    };
    let mut lab = Lab::up(setting, &Options { data_of, ..Options::default() }).await?;
    let mount = lab.mount(&[]).await?;
    let (files, to) = (args.files, mount.clone());
    blocking(move || (0..files).try_for_each(|file| write(&to, file))).await?;
    verdict.violations.extend(replicas_differ(&lab).await?);

    lab.cluster.signal(Part::Chunk, 1, Signal::TERM)?;
    let node = lab.cluster.layout().chunk.iter().find(|n| n.number == 1).context("chunk server 1")?;
    let (disk, log) = (node.data[1].clone(), node.log.clone());
    let lost =
        walkdir::WalkDir::new(disk.join("chunks")).into_iter().flatten().filter(|e| e.file_type().is_file()).count();
    verdict.figure("replicas on the replaced disk", lost);
    verdict.check(lost > 0, || "nothing was on the disk: the run shows nothing".to_owned());
    std::fs::remove_dir_all(&disk)?;
    std::fs::create_dir(&disk)?;
    lab.cluster.start(Part::Chunk, 1).await?;
    let back = Instant::now();
    let wrong = loop {
        let wrong = replicas_differ(&lab).await?;
        if wrong.is_empty() || back.elapsed() > HEAL_PATIENCE {
            break wrong;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    verdict.violations.extend(wrong);
    let log = std::fs::read_to_string(&log)?;
    verdict.check(log.contains("replicas that the cluster counts on are not here"), || "nobody noticed".to_owned());
    verdict.figure("until every chunk had its copies again, s", format!("{:.1}", back.elapsed().as_secs_f64()));
    drop_caches()?;
    let read = blocking(move || (0..files).try_for_each(|file| check(&mount, file))).await;
    verdict.check(read.is_ok(), || format!("{read:?}"));
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

fn write(folder: &Path, file: u64) -> Result<()> {
    let mut out = std::fs::File::create(folder.join(format!("file{file}")))?;
    for place in 0..BLOCKS {
        out.write_all(&block::make(file, place, 1))?;
    }
    Ok(out.sync_all()?)
}

fn check(folder: &Path, file: u64) -> Result<()> {
    let path = folder.join(format!("file{file}"));
    let bytes = std::fs::read(&path).with_context(|| path.display().to_string())?;
    let expected: Vec<u8> = (0..BLOCKS).flat_map(|place| block::make(file, place, 1)).collect();
    if bytes != expected {
        bail!("{} has changed", path.display());
    }
    Ok(())
}
