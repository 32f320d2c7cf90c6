//! Trees that are copied as people do it: `cp -a` from the local disk to a mount, and `rm -rf` after some time; then the next one, from another
//! seed. What `cp` has not complained of is there, and what `rm` has not complained of is gone: another mount, which nobody harms, is asked.
//!
//! A mount that dies takes the copy under way with it: what is there of that is removed, and not looked at. Trees lie in a folder of the
//! mount, so that nothing is copied to the folder below while the mount is away.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, OpenOptions};
use std::io::{self, BufRead as _, BufReader, ErrorKind, Read as _};
use std::ops::Range;
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result, anyhow};
use caribou_cli::tree::{Kind, Tree};
use rand::RngExt as _;
use serde::{Deserialize, Serialize};

use super::source;
use super::worker::{AWAY, DEAD, PAUSE_AFTER_ERROR, choices, is_mounted};
use crate::check::copy;
use crate::check::finding::{Finding, Moment};

/// Each tree's choices are drawn from a number behind the ids of all workers.
const ID: u64 = 3_000_000;
/// Entries of a tree that are no folders.
const ENTRIES: Range<usize> = 150..350;
/// The same of one that is begun after the end has been told.
const LAST_ENTRIES: usize = 40;
/// What controls add to a tree.
const PLANTED: &str = "planted";

/// What was copied.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Copied {
    /// Where to.
    pub folder: PathBuf,
    /// Trees that were copied and compared, and what was in them.
    pub trees: u64,
    pub files: u64,
    pub bytes: u64,
    /// Trees that `cp` complained of.
    pub failed: u64,
    /// What the one was copied from that is there still; both have the same name.
    left: Option<PathBuf>,
    pub errors: Vec<Finding>,
    pub violations: Vec<Finding>,
}

pub(super) fn copy_until(
    stop: &AtomicBool,
    folder: PathBuf,
    other: &Path,
    sources: &Path,
    seed: u64,
) -> Result<Copied> {
    for made in [folder.as_path(), sources] {
        fs::create_dir(made).with_context(|| made.display().to_string())?;
    }
    let is_told = || stop.load(Ordering::Relaxed);
    let mut copier = Copier::new(folder, other)?;
    for number in 0.. {
        let source = sources.join(format!("tree{number}"));
        let mut random = choices(seed, ID + number);
        let entries = if is_told() { LAST_ENTRIES } else { random.random_range(ENTRIES) };
        source::make(&source, entries, &mut random)?;
        copier.copy(&source)?;
        // The last one stays.
        if is_told() {
            break;
        }
        copier.remove(&source, is_told)?;
        fs::remove_dir_all(&source).with_context(|| source.display().to_string())?;
    }
    Ok(copier.copied)
}

/// A worker.
struct Copier {
    /// The folder through the other mount.
    other: PathBuf,
    /// Entries copied, compared and removed so far.
    done: u64,
    copied: Copied,
}

impl Copier {
    fn new(folder: PathBuf, other: &Path) -> Result<Self> {
        let other = other.join(folder.file_name().context("a folder has a name")?);
        Ok(Self { other, done: 0, copied: Copied { folder, ..Copied::default() } })
    }

    fn tick(&mut self) {
        self.done += 1;
        println!("{}", self.done);
    }

    /// Copies a tree, and compares it if nothing went wrong.
    fn copy(&mut self, source: &Path) -> Result<()> {
        let began = Moment::now();
        let target = self.copied.folder.join(name_of(source));
        let complaints = self.run("cp", "-av", &[source, &target])?;
        if !complaints.is_empty() {
            self.copied.failed += 1;
            self.note(began, complaints);
            return Ok(());
        }
        let (tree, there) = (Tree::list(source, usize::MAX)?, self.other.join(name_of(source)));
        let wrong = copy::differences(&tree, &there, |_| self.tick());
        let wrong = wrong.unwrap_or_else(|error| vec![format!("{error:#}")]);
        let ended = Moment::now();
        let told = |wrong: String| Finding::between(began, ended, format!("{}: {wrong}", there.display()));
        let copied = &mut self.copied;
        copied.violations.extend(wrong.into_iter().map(told));
        copied.left = Some(source.to_owned());
        copied.trees += 1;
        copied.files += tree.files as u64;
        copied.bytes += tree.bytes;
        Ok(())
    }

    /// Removes a tree, however often that has to be begun, and looks whether anything is left of it.
    fn remove(&mut self, source: &Path, is_told: impl Fn() -> bool) -> Result<()> {
        self.copied.left = None;
        let target = self.copied.folder.join(name_of(source));
        loop {
            let (began, was_mounted) = (Moment::now(), is_mounted(&self.copied.folder));
            let complaints = self.run("rm", "-rfv", &[&target])?;
            // While the mount is away there is nothing, which `rm -f` is content with.
            if complaints.is_empty() && was_mounted && is_mounted(&self.copied.folder) {
                break;
            }
            self.note(began, complaints);
            if is_told() {
                return Ok(());
            }
        }
        self.copied.violations.extend(leftover(&self.other, name_of(source)).map(Finding::now));
        Ok(())
    }

    fn note(&mut self, began: Moment, complaints: Vec<String>) {
        let (told, ended) = (told(complaints, is_mounted(&self.copied.folder)), Moment::now());
        self.copied.errors.extend(told.into_iter().map(|text| Finding::between(began, ended, text)));
        std::thread::sleep(PAUSE_AFTER_ERROR);
    }

    /// Runs a program that names each entry that it comes to. Returns what it complains of: nothing, if all of it is done.
    fn run(&mut self, program: &str, options: &str, paths: &[&Path]) -> Result<Vec<String>> {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C").arg(options).arg("--").args(paths);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| program.to_owned())?;
        let mut complaints = child.stderr.take().context("a pipe")?;
        let complaints = std::thread::spawn(move || {
            let mut bytes = Vec::new();
            complaints.read_to_end(&mut bytes).map(|_| bytes)
        });
        for line in BufReader::new(child.stdout.take().context("a pipe")?).split(b'\n') {
            line?;
            self.tick();
        }
        let complaints = complaints.join().map_err(|_| anyhow!("a thread panicked"))??;
        let mut lines: Vec<String> = String::from_utf8_lossy(&complaints).lines().map(str::to_owned).collect();
        let status = child.wait()?;
        if !status.success() && lines.is_empty() {
            lines.push(format!("{program}: {status}"));
        }
        Ok(lines)
    }
}

/// A tree's name, that of its source and its copies.
fn name_of(source: &Path) -> &OsStr {
    source.file_name().unwrap_or_default()
}

/// What a program complained of, each kind of error once. What it says after the death of the mount is not of the mount.
pub(crate) fn told(complaints: Vec<String>, is_mounted: bool) -> Vec<String> {
    let died = |line: &String| DEAD.iter().any(|text| line.contains(text));
    let died_at = if is_mounted { complaints.iter().position(died).unwrap_or(complaints.len()) } else { 0 };
    let mut kinds: BTreeMap<(bool, String), (String, usize)> = BTreeMap::new();
    for (at, line) in complaints.into_iter().enumerate() {
        let error = line.rsplit(": ").next().unwrap_or_default().to_owned();
        kinds.entry((at >= died_at, error)).or_insert((line, 0)).1 += 1;
    }
    let in_words = |((is_away, _), (line, count)): ((bool, String), (String, usize))| {
        let away = if is_away { AWAY } else { "" };
        if count == 1 { format!("{away}{line}") } else { format!("{away}{line}, and {} like it", count - 1) }
    };
    kinds.into_iter().map(in_words).collect()
}

/// What a folder still shows of a tree that was removed.
fn leftover(folder: &Path, name: &OsStr) -> Option<String> {
    let path = folder.join(name);
    let wrong = |what: &str| Some(format!("{} {what}, though rm -rf has removed it", path.display()));
    match fs::symlink_metadata(&path) {
        Ok(_) => return wrong("is there"),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Some(format!("{}: {error}", path.display())),
    }
    let names = fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| entry.map(|entry| entry.file_name())).collect::<io::Result<Vec<_>>>());
    match names {
        Ok(names) if names.iter().any(|listed| listed == name) => wrong("is listed"),
        Ok(_) => None,
        Err(error) => Some(format!("{}: {error}", folder.display())),
    }
}

impl Copied {
    /// Compares the tree that is left with its source.
    pub fn verify(&self, folder: &Path) -> Vec<String> {
        let Some(source) = &self.left else { return Vec::new() };
        let there = folder.join(name_of(source));
        let wrong = Tree::list(source, usize::MAX).and_then(|tree| copy::differences(&tree, &there, |_| ()));
        let wrong = wrong.unwrap_or_else(|error| vec![format!("{error:#}")]);
        wrong.into_iter().map(|wrong| format!("{}: {wrong}", there.display())).collect()
    }

    /// The same after one byte of the source has been changed, and a file been added to it: what is said of either (controls).
    pub fn verify_planted(&self, folder: &Path) -> [Option<String>; 2] {
        let changed = self.left.as_deref().and_then(|source| plant(source).ok()).flatten();
        let Some(changed) = changed else { return [None, None] };
        let wrong = self.verify(folder);
        let said = |what: String| wrong.iter().find(|wrong| wrong.ends_with(&what)).cloned();
        [said(format!("{}: another SHA-256", changed.display())), said(format!("{PLANTED}: missing"))]
    }
}

/// Returns which file has another byte now; its time is as before.
fn plant(source: &Path) -> Result<Option<PathBuf>> {
    for (path, _) in Tree::list(source, usize::MAX)?.entries.into_iter().filter(|(_, kind)| *kind == Kind::File) {
        let meta = fs::symlink_metadata(source.join(&path))?;
        if meta.len() == 0 || meta.permissions().mode() & 0o200 == 0 {
            continue;
        }
        let (file, mut byte) = (OpenOptions::new().read(true).write(true).open(source.join(&path))?, [0]);
        file.read_exact_at(&mut byte, meta.len() / 2)?;
        file.write_all_at(&[byte[0] ^ 1], meta.len() / 2)?;
        file.set_times(FileTimes::new().set_modified(meta.modified()?))?;
        File::create_new(source.join(PLANTED))?;
        return Ok(Some(path));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that was copied within one folder, which stands for both mounts.
    fn copied(dir: &Path) -> (Copier, PathBuf) {
        let source = dir.join("sources/tree0");
        for folder in ["sources", "copied3"] {
            fs::create_dir(dir.join(folder)).expect("made");
        }
        source::make(&source, 60, &mut choices(1, ID)).expect("made");
        let mut copier = Copier::new(dir.join("copied3"), dir).expect("it has a name");
        copier.copy(&source).expect("copied");
        (copier, source)
    }

    #[test]
    fn what_cp_has_copied_is_equal_and_what_is_planted_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let (copier, _) = copied(dir.path());
        let Copier { other, done, copied } = copier;
        assert!(copied.violations.is_empty() && copied.errors.is_empty(), "{copied:?}");
        assert_eq!((copied.trees, copied.failed), (1, 0));
        assert!(done > 80 && copied.files > 40 && copied.bytes > 0, "{done} {copied:?}");
        assert_eq!(copied.verify(&other), Vec::<String>::new());
        let [byte, entry] = copied.verify_planted(&other);
        assert!(byte.is_some() && entry.is_some_and(|text| text.ends_with("tree0: planted: missing")), "{byte:?}");
        assert_eq!(Copied::default().verify_planted(&other), [None, None]);
    }

    #[test]
    fn a_copy_that_failed_is_told_and_not_compared() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut copier, source) = copied(dir.path());
        fs::remove_dir_all(&copier.other).expect("removed");
        copier.copy(&source).expect("run");
        let Copied { trees, failed, errors, violations, .. } = copier.copied;
        assert_eq!((trees, failed, errors.len(), violations.len()), (1, 1, 1, 0), "{errors:?}");
        assert!(errors[0].text.starts_with(AWAY) && errors[0].text.contains("No such file"), "{errors:?}");
    }

    #[test]
    fn what_is_left_of_a_tree_is_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let name = OsStr::new("tree0");
        assert_eq!(leftover(dir.path(), name), None);
        fs::create_dir(dir.path().join(name)).expect("made");
        assert!(leftover(dir.path(), name).is_some_and(|text| text.contains("tree0 is there, though")));
        assert!(leftover(&dir.path().join("nowhere"), name).is_some_and(|text| text.contains("nowhere: ")));
    }

    #[test]
    fn complaints_are_told_once_and_those_after_the_death_of_a_mount_are_none_of_it() {
        let line = |name: &str, error: &str| format!("cp: cannot create regular file '{name}': {error}");
        let lines = ["File exists", DEAD[0], DEAD[0], "No such file or directory"].map(|error| line("a", error));
        assert_eq!(
            told(lines.to_vec(), true),
            [
                line("a", "File exists"),
                format!("{AWAY}{}", line("a", "No such file or directory")),
                format!("{AWAY}{}, and 1 like it", line("a", DEAD[0])),
            ]
        );
        assert_eq!(told(vec![line("a", "File exists")], false), [format!("{AWAY}{}", line("a", "File exists"))]);
        assert_eq!(told(Vec::new(), false), Vec::<String>::new());
    }
}
