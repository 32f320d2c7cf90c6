//! Trees of files: listing one, copying it with several threads, and comparing two entry by entry (kind, mode, times, link targets,
//! SHA-256 of contents).

use std::collections::BTreeMap;
use std::fs::{self, File, FileTimes};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

/// Bytes read at once when files are compared.
const READ_BYTES: usize = 1 << 20;

/// What an entry is, for copying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    File,
    Symlink,
}

/// Entries of a tree, parents before children.
#[derive(Debug, Clone)]
pub struct Tree {
    pub root: PathBuf,
    pub entries: Vec<(PathBuf, Kind)>,
    pub files: usize,
    pub bytes: u64,
}

impl Tree {
    /// Lists `root` in name order, up to about `max_files` files; sockets and devices are left out.
    pub fn list(root: &Path, max_files: usize) -> Result<Self> {
        let mut tree = Self { root: root.to_owned(), entries: Vec::new(), files: 0, bytes: 0 };
        for entry in WalkDir::new(root).sort_by_file_name().min_depth(1) {
            let entry = entry?;
            let kind = match entry.file_type() {
                t if t.is_dir() => Kind::Directory,
                t if t.is_symlink() => Kind::Symlink,
                t if t.is_file() => Kind::File,
                _ => continue,
            };
            if kind == Kind::File {
                if tree.files >= max_files {
                    break;
                }
                tree.files += 1;
                tree.bytes += entry.metadata()?.len();
            }
            let path = entry.path().strip_prefix(root).context("an entry lies below its root")?;
            tree.entries.push((path.to_owned(), kind));
        }
        Ok(tree)
    }
}

/// How far a copy is.
#[derive(Debug, Default)]
pub struct Progress {
    pub files: AtomicUsize,
    pub bytes: AtomicU64,
}

/// Copies `tree` below `target` with `threads` threads: contents, modes, times, symbolic links. `stop` ends it early.
pub fn copy(
    tree: &Tree,
    target: &Path,
    threads: usize,
    progress: &Progress,
    stop: &(dyn Fn() -> bool + Sync),
) -> Result<()> {
    fs::create_dir_all(target).with_context(|| target.display().to_string())?;
    for (path, kind) in &tree.entries {
        if *kind == Kind::Directory && !stop() {
            let to = target.join(path);
            fs::create_dir(&to).with_context(|| to.display().to_string())?;
        }
    }
    let rest: Vec<&(PathBuf, Kind)> = tree.entries.iter().filter(|(_, k)| *k != Kind::Directory).collect();
    let next = AtomicUsize::new(0);
    let work = || -> Result<()> {
        while let Some((path, kind)) = rest.get(next.fetch_add(1, Ordering::Relaxed)) {
            if stop() {
                break;
            }
            let (from, to) = (tree.root.join(path), target.join(path));
            copy_one(&from, &to, *kind, progress).with_context(|| to.display().to_string())?;
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a copying thread panicked"))?)
    })?;
    // Folders last and deepest first: what is made in them changes their times.
    for (path, kind) in tree.entries.iter().rev() {
        if *kind == Kind::Directory && !stop() {
            let (from, to) = (tree.root.join(path), target.join(path));
            let meta = fs::metadata(&from)?;
            fs::set_permissions(&to, fs::Permissions::from_mode(meta.mode() & 0o7777))?;
            File::open(&to)?
                .set_times(FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?))?;
        }
    }
    Ok(())
}

fn copy_one(from: &Path, to: &Path, kind: Kind, progress: &Progress) -> Result<()> {
    if kind == Kind::Symlink {
        std::os::unix::fs::symlink(fs::read_link(from)?, to)?;
        return Ok(());
    }
    let meta = fs::metadata(from)?;
    let mut target = File::create_new(to)?;
    let bytes = std::io::copy(&mut File::open(from)?, &mut target)?;
    target.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o7777))?;
    target.set_times(FileTimes::new().set_accessed(meta.accessed()?).set_modified(meta.modified()?))?;
    progress.files.fetch_add(1, Ordering::Relaxed);
    progress.bytes.fetch_add(bytes, Ordering::Relaxed);
    Ok(())
}

/// Where two trees differ.
#[derive(Debug, Default)]
pub struct Difference {
    /// Entries of the source that are missing or not the same in the copy, with what is wrong.
    pub lost: Vec<String>,
    /// Entries of the copy that are not in the source, or listed twice.
    pub duplicated: Vec<String>,
}

/// Compares the copy with the source, contents by SHA-256; `seen` is called for each file.
pub fn compare(tree: &Tree, copy: &Path, mut seen: impl FnMut(u64)) -> Result<Difference> {
    let mut difference = Difference::default();
    let mut found: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for entry in WalkDir::new(copy).min_depth(1) {
        let entry = entry?;
        *found.entry(entry.path().strip_prefix(copy)?.to_owned()).or_default() += 1;
    }
    for (path, kind) in &tree.entries {
        match found.remove(path) {
            None => difference.lost.push(format!("{}: missing", path.display())),
            Some(times) => {
                if times > 1 {
                    difference.duplicated.push(format!("{}: listed {times} times", path.display()));
                }
                let (a, b) = (tree.root.join(path), copy.join(path));
                if let Some(what) = differs(&a, &b, *kind).with_context(|| b.display().to_string())? {
                    difference.lost.push(format!("{}: {what}", path.display()));
                }
                if *kind == Kind::File {
                    seen(fs::symlink_metadata(&a)?.len());
                }
            }
        }
    }
    difference.duplicated.extend(found.keys().map(|path| format!("{}: not in the source", path.display())));
    Ok(difference)
}

fn differs(a: &Path, b: &Path, kind: Kind) -> Result<Option<String>> {
    let (x, y) = (fs::symlink_metadata(a)?, fs::symlink_metadata(b)?);
    if x.file_type() != y.file_type() {
        return Ok(Some("another kind of file".to_owned()));
    }
    if kind == Kind::Symlink {
        let same = fs::read_link(a)? == fs::read_link(b)?;
        return Ok((!same).then(|| "another link target".to_owned()));
    }
    if x.mode() != y.mode() {
        return Ok(Some(format!("mode {:o} became {:o}", x.mode(), y.mode())));
    }
    if (x.mtime(), x.mtime_nsec()) != (y.mtime(), y.mtime_nsec()) {
        return Ok(Some(format!(
            "modified at {}.{:09} became {}.{:09}",
            x.mtime(),
            x.mtime_nsec(),
            y.mtime(),
            y.mtime_nsec()
        )));
    }
    if kind == Kind::File {
        if x.len() != y.len() {
            return Ok(Some(format!("{} bytes became {}", x.len(), y.len())));
        }
        if sha256(a)? != sha256(b)? {
            return Ok(Some("another SHA-256".to_owned()));
        }
    }
    Ok(None)
}

/// The SHA-256 of a file's content.
pub fn sha256(path: &Path) -> Result<[u8; 32]> {
    let mut file = File::open(path).with_context(|| path.display().to_string())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let n = file.read(&mut buffer)?;
        if n == 0 {
            return Ok(hash.finalize().into());
        }
        hash.update(&buffer[..n]);
    }
}
