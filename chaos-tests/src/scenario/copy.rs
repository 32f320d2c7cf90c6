//! The main job: `cp -a` of a real tree while the leader is killed again and again; then `rm -rf` under the same kills.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caribou_cli::local::Options;
use caribou_cli::tree::{self, Tree};

use super::blocking;
use crate::args::Setting;
use crate::check::copy::differences;
use crate::lab::Lab;
use crate::nemesis::kills;
use crate::program;
use crate::report::Verdict;

/// How long `cp` or `rm` may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(3600);

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Files to copy; made from the source tree, repeated as often as needed
    #[arg(long, default_value_t = 20_000)]
    pub files: usize,
    /// Bytes to copy at least; big files are added until it is reached
    #[arg(long, default_value_t = 1 << 30)]
    pub bytes: u64,
    /// Time between two kills
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub kill_every: Duration,
    /// Kills at least, in each of the two parts
    #[arg(long, default_value_t = 12)]
    pub kills: usize,
    /// Where files are taken from
    #[arg(long, default_value = "/usr/share")]
    pub source: PathBuf,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let source = tempfile::Builder::new().prefix("caribou-source-").tempdir_in(&setting.dir)?;
    let (root, shape) = (source.path().to_owned(), args.clone());
    let tree = blocking(move || make_source(&root, &shape)).await?;
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mount = lab.mount(&[]).await?;
    let target = mount.join("copy");
    let mut verdict = Verdict::new("copy");
    verdict.figure("files", tree.files);
    verdict.figure("bytes", tree.bytes);

    let copy = command("cp", vec!["-a".into(), source.path().into(), target.clone()]);
    let ((took, complaints), copy_kills) = kills::while_running(&mut lab, args.kill_every, args.kills, copy).await?;
    verdict.figure("cp -a, s", format!("{:.1}", took.as_secs_f64()));
    verdict.figure("kills meanwhile", copy_kills);
    verdict.violations.extend(complaints);
    let compared = target.clone();
    verdict.violations.extend(blocking(move || differences(&tree, &compared, |_| ())).await?);

    let remove = command("rm", vec!["-rf".into(), target.clone()]);
    let ((took, complaints), remove_kills) =
        kills::while_running(&mut lab, args.kill_every, args.kills.min(4), remove).await?;
    verdict.figure("rm -rf, s", format!("{:.1}", took.as_secs_f64()));
    verdict.figure("kills meanwhile ", remove_kills);
    verdict.violations.extend(complaints);
    let left = std::fs::read_dir(&mount)?.count();
    verdict.check(left == 0, || format!("{left} entries are left after rm -rf"));
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// Runs a program; its time and what it complained of.
async fn command(program: &str, args: Vec<PathBuf>) -> Result<(Duration, Vec<String>)> {
    let mut command = Command::new(program);
    command.args(args);
    let ended = program::run(command, PATIENCE).await?;
    let mut complaints: Vec<String> = ended.stderr.lines().map(str::to_owned).collect();
    if !ended.is_success() {
        complaints.push(format!("{program}: {}", ended.words()));
    }
    Ok((ended.took, complaints))
}

/// A tree of `files` files and at least `bytes` bytes, with links of both kinds and odd modes.
fn make_source(root: &Path, args: &Args) -> Result<Tree> {
    let from = Tree::list(&args.source, args.files)?;
    if from.files == 0 {
        bail!("{} holds no files", args.source.display());
    }
    let mut made = 0;
    let mut bytes = 0;
    for round in 0.. {
        let part = Tree { entries: from.entries.clone(), ..from.clone() };
        let needed = args.files - made;
        let part = if part.files > needed { Tree::list(&args.source, needed)? } else { part };
        tree::copy(&part, &root.join(format!("part{round}")), 2, &tree::Progress::default(), &|| false)?;
        (made, bytes) = (made + part.files, bytes + part.bytes);
        if made >= args.files {
            break;
        }
    }
    let block: Vec<u8> = (0..1 << 20).map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for number in 0.. {
        if bytes >= args.bytes {
            break;
        }
        let path = root.join(format!("big{number}"));
        let mut content = Vec::new();
        for piece in 0..(150_u64.min((args.bytes - bytes).div_ceil(1 << 20))) {
            content.extend(block.iter().map(|b| b.wrapping_add((piece + number) as u8)));
        }
        bytes += content.len() as u64;
        std::fs::write(path, content)?;
    }
    std::fs::hard_link(
        if root.join("big0").exists() { root.join("big0") } else { first_file(root)? },
        root.join("hardlink"),
    )?;
    std::os::unix::fs::symlink("part0", root.join("symlink"))?;
    Tree::list(root, usize::MAX)
}

fn first_file(root: &Path) -> Result<PathBuf> {
    let tree = Tree::list(root, 1)?;
    let file = tree.entries.iter().find(|(_, k)| *k == tree::Kind::File).context("a file was copied")?;
    Ok(root.join(&file.0))
}
