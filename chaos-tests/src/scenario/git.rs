//! git on a mount: a real tree is committed, changed, packed, checked and cloned, and every file of the clones compared with the source.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use caribou_cli::local::Options;
use caribou_cli::tree::{self, Kind, Tree};

use super::{blocking, healed};
use crate::args::Setting;
use crate::lab::Lab;
use crate::nemesis::kills;
use crate::program;
use crate::report::Verdict;

/// How long one command may take before it counts as hung.
const PATIENCE: Duration = Duration::from_secs(1800);
/// Every so many-th file is changed, and in another commit removed.
const CHANGED: usize = 7;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Files that are committed
    #[arg(long, default_value_t = 10_000)]
    pub files: usize,
    /// Where files are taken from
    #[arg(long, default_value = "/usr/share")]
    pub source: PathBuf,
    /// Kill the leader and a chunk server in this rhythm
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub kill_every: Option<Duration>,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("git");
    program::version(Path::new("git"))?;
    let source = Tree::list(&args.source, args.files)?;
    if source.files < args.files {
        bail!("{} holds {} files only, {} are wanted", args.source.display(), source.files, args.files);
    }
    verdict.figure("files", source.files);
    verdict.figure("bytes", source.bytes);
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mount = lab.mount(&[]).await?;
    let work = story(&mount, &source);
    let steps = match args.kill_every {
        Some(every) => {
            let (steps, count) = kills::of_leader_and_chunk_server(&mut lab, every, work).await?;
            verdict.figure("kills of leader and chunk server", count);
            steps
        }
        None => work.await?,
    };
    for (name, took) in &steps.done {
        verdict.figure(name, format!("{:.1} s", took.as_secs_f64()));
    }
    verdict.violations.extend(steps.complaints);
    if verdict.is_passed() {
        lab.cluster.unmount(&mount)?;
        let again = lab.mount(&[]).await?;
        let steps = from_another_client(&again, &source).await?;
        verdict.violations.extend(steps.complaints.into_iter().map(|words| format!("from another client: {words}")));
        healed(&lab).await?;
    }
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// What was done, and what was wrong with it.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<(String, Duration)>,
    complaints: Vec<String>,
}

impl Steps {
    /// Runs git in a folder. A complaint of git's is a violation; what comes after one says nothing and is not run.
    async fn git(&mut self, folder: &Path, args: &[&str]) -> Result<String> {
        if !self.complaints.is_empty() {
            return Ok(String::new());
        }
        let mut command = Command::new("git");
        // Nothing of this machine's or person's settings; every object and reference is fsynced.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_SYSTEM", "/dev/null").env("LC_ALL", "C");
        command.arg("-C").arg(folder).args(["-c", "user.name=caribou", "-c", "user.email=caribou@localhost"]);
        command.args(["-c", "core.fsync=all", "-c", "gc.auto=0", "-c", "core.autocrlf=false"]).args(args);
        let ended = program::run(command, PATIENCE).await?;
        if !ended.is_success() {
            self.complaints.push(format!("git {}: {}", args.join(" "), ended.words()));
        }
        self.done.push((format!("git {}", args.join(" ")), ended.took));
        Ok(ended.stdout)
    }

    /// A folder that must hold exactly what was committed last.
    async fn is_clean(&mut self, folder: &Path) -> Result<()> {
        let status = self.git(folder, &["status", "--porcelain"]).await?;
        if !status.is_empty() {
            self.complaints.push(format!("{} differs from its commit: {status}", folder.display()));
        }
        Ok(())
    }

    async fn equals(&mut self, source: &Tree, folder: &Path) -> Result<()> {
        let (source, folder) = (source.clone(), folder.to_owned());
        if self.complaints.is_empty() {
            self.complaints.extend(blocking(move || differences(&source, &folder)).await?);
        }
        Ok(())
    }
}

async fn story(mount: &Path, source: &Tree) -> Result<Steps> {
    let mut steps = Steps::default();
    let work = mount.join("work");
    let (from, to) = (source.clone(), work.clone());
    blocking(move || tree::copy(&from, &to, 2, &tree::Progress::default(), &|| false)).await?;
    steps.git(&work, &["init", "--quiet", "--initial-branch=main"]).await?;
    steps.git(&work, &["add", "--all", "--force"]).await?;
    steps.git(&work, &["commit", "--quiet", "--message=all"]).await?;
    steps.is_clean(&work).await?;
    // A branch where files are changed and removed, so that a checkout has something to put back.
    steps.git(&work, &["checkout", "--quiet", "-b", "changed"]).await?;
    let (from, to) = (source.clone(), work.clone());
    blocking(move || change_some(&from, &to)).await?;
    steps.git(&work, &["commit", "--quiet", "--all", "--message=changed"]).await?;
    steps.git(&work, &["checkout", "--quiet", "main"]).await?;
    steps.equals(source, &work).await?;
    steps.git(&work, &["merge", "--quiet", "--no-ff", "--message=merged", "changed"]).await?;
    steps.git(&work, &["reset", "--quiet", "--hard", "main~1"]).await?;
    steps.equals(source, &work).await?;
    steps.git(&work, &["gc", "--quiet", "--prune=now"]).await?;
    steps.git(&work, &["fsck", "--full", "--strict"]).await?;
    // Once over pipes, once with hard links to the packs.
    let url = format!("file://{}", work.display());
    steps.git(mount, &["clone", "--quiet", &url, "cloned"]).await?;
    steps.git(mount, &["clone", "--quiet", "--local", "work", "linked"]).await?;
    for name in ["cloned", "linked"] {
        steps.equals(source, &mount.join(name)).await?;
    }
    Ok(steps)
}

async fn from_another_client(mount: &Path, source: &Tree) -> Result<Steps> {
    let mut steps = Steps::default();
    for name in ["work", "cloned", "linked"] {
        let folder = mount.join(name);
        steps.git(&folder, &["fsck", "--full", "--strict"]).await?;
        steps.is_clean(&folder).await?;
        steps.equals(source, &folder).await?;
    }
    Ok(steps)
}

/// Files of the source, of which git keeps bytes, links and whether they may be executed.
fn files(source: &Tree) -> impl Iterator<Item = &(PathBuf, Kind)> {
    source.entries.iter().filter(|(_, kind)| *kind != Kind::Directory)
}

fn change_some(source: &Tree, folder: &Path) -> Result<()> {
    for (number, (path, kind)) in files(source).enumerate() {
        let path = folder.join(path);
        match (number % CHANGED, kind) {
            (0, Kind::File) => fs::write(&path, format!("file {number} is changed\n")),
            (1, _) => fs::remove_file(&path),
            _ => Ok(()),
        }
        .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn differences(source: &Tree, folder: &Path) -> Result<Vec<String>> {
    use std::os::unix::fs::PermissionsExt as _;
    let mut wrong = Vec::new();
    for (path, kind) in files(source) {
        let (from, to) = (source.root.join(path), folder.join(path));
        let same = match (fs::symlink_metadata(&to), kind) {
            (Err(error), _) => {
                wrong.push(format!("{}: {error}", to.display()));
                continue;
            }
            (Ok(meta), Kind::Symlink) => meta.is_symlink() && fs::read_link(&from)? == fs::read_link(&to)?,
            (Ok(meta), _) => {
                let executable = |mode: u32| mode & 0o100 != 0;
                let mode = fs::metadata(&from)?.permissions().mode();
                let is_same_kind = meta.is_file() && executable(mode) == executable(meta.permissions().mode());
                is_same_kind && fs::read(&from)? == fs::read(&to)?
            }
        };
        if !same {
            wrong.push(format!("{} is not what {} is", to.display(), from.display()));
        }
    }
    Ok(wrong)
}
