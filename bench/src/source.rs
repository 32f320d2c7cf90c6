//! The tree of files that the programs work on: packed once on the local disk, and the checksums that every copy of it must have.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use caribou_cli::tree::{Kind, Tree};

/// Prints name and SHA-256 of every file below the current folder, in an order that does not depend on the file system.
pub const CHECKSUMS: &str = "find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum";

/// A packed tree; empty by default, for groups that need none.
#[derive(Debug, Default)]
pub struct Source {
    pub archive: PathBuf,
    /// What [`CHECKSUMS`] prints in it.
    pub checksums: Vec<u8>,
    pub files: usize,
    pub bytes: u64,
}

impl Source {
    /// Packs at most `max_files` files of a tree, below `folder`.
    pub fn pack(tree: &Path, max_files: usize, folder: &Path) -> Result<Self> {
        let list = Tree::list(tree, max_files)?;
        if list.files == 0 {
            bail!("{} holds no files: name another tree with --source", tree.display());
        }
        let (archive, names) = (folder.join("source.tar"), folder.join("source.names"));
        let chosen = list.entries.iter().filter(|(_, kind)| *kind != Kind::Directory);
        let text: Vec<u8> =
            chosen.flat_map(|(path, _)| [path.as_os_str().as_encoded_bytes(), b"\0"].concat()).collect();
        std::fs::write(&names, text)?;
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(tree).arg("--null").arg("-T").arg(&names).arg("-cf").arg(&archive);
        if !tar.status().context("tar")?.success() {
            bail!("{} could not be packed", tree.display());
        }
        let checksums = unpacked_checksums(&archive, folder)?;
        Ok(Self { archive, checksums, files: list.files, bytes: list.bytes })
    }

    /// Reads the archive once, so that it comes from memory for every system.
    pub fn warm(&self) -> Result<()> {
        let mut file = File::open(&self.archive).with_context(|| self.archive.display().to_string())?;
        std::io::copy(&mut file, &mut std::io::sink())?;
        Ok(())
    }
}

/// Of the archive, not of the tree, which somebody may change meanwhile.
fn unpacked_checksums(archive: &Path, folder: &Path) -> Result<Vec<u8>> {
    let unpacked = tempfile::tempdir_in(folder)?;
    let tar = Command::new("tar").arg("-C").arg(unpacked.path()).arg("-xf").arg(archive).status();
    if !tar.context("tar")?.success() {
        bail!("{} could not be unpacked", archive.display());
    }
    let sums = Command::new("bash").args(["-c", CHECKSUMS]).current_dir(unpacked.path()).output().context("bash")?;
    if !sums.status.success() || sums.stdout.is_empty() {
        bail!("no checksums: {}", String::from_utf8_lossy(&sums.stderr));
    }
    Ok(sums.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_holds_the_chosen_files_and_its_checksums_are_theirs() {
        let (tree, folder) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(tree.path().join("d")).expect("made");
        for (name, text) in [("a", "one"), ("d/b", "two"), ("z", "three")] {
            std::fs::write(tree.path().join(name), text).expect("written");
        }
        let source = Source::pack(tree.path(), 2, folder.path()).expect("packed");
        assert_eq!(source.files, 2);
        let text = String::from_utf8(source.checksums).expect("text");
        let names: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
        assert_eq!(names, ["./a", "./d/b"]);
        assert!(Source::pack(folder.path(), 0, folder.path()).is_err());
    }
}
