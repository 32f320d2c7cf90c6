//! A copy of a tree, entry by entry: what `caribou_cli::tree` compares (kinds, modes, times, targets, SHA-256), and names that share a file.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use caribou_cli::tree::{self, Kind, Tree};

/// What is wrong with the copy; `seen` is called for each file with its size.
pub fn differences(source: &Tree, copy: &Path, seen: impl FnMut(u64)) -> Result<Vec<String>> {
    let found = tree::compare(source, copy, seen)?;
    let links = links(source, copy)?;
    Ok([found.lost, found.duplicated, links].concat())
}

/// Names that share a file in the source have to share one in the copy, and no others.
fn links(source: &Tree, copy: &Path) -> Result<Vec<String>> {
    let (mut wrong, mut files) = (Vec::new(), BTreeMap::new());
    for (path, _) in source.entries.iter().filter(|(_, kind)| *kind == Kind::File) {
        let (from, to) = (source.root.join(path), copy.join(path));
        let there = fs::symlink_metadata(&from).with_context(|| from.display().to_string())?;
        let here = match fs::symlink_metadata(&to) {
            // That has been told already.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            found => found.with_context(|| to.display().to_string())?,
        };
        if there.nlink() != here.nlink() {
            wrong.push(format!("{}: {} links became {}", path.display(), there.nlink(), here.nlink()));
        } else if *files.entry(there.ino()).or_insert(here.ino()) != here.ino() {
            wrong.push(format!("{}: it is no longer the same file as its other names", path.display()));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_no_longer_share_a_file_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let (source, copy) = (dir.path().join("source"), dir.path().join("copy"));
        for folder in [&source, &copy] {
            fs::create_dir(folder).expect("made");
            for (name, other) in [("a", "b"), ("c", "d")] {
                fs::write(folder.join(name), "same").expect("written");
                fs::hard_link(folder.join(name), folder.join(other)).expect("linked");
            }
        }
        let tree = Tree::list(&source, usize::MAX).expect("listed");
        assert_eq!(links(&tree, &copy).expect("read"), Vec::<String>::new());
        for (other, name) in [("b", "c"), ("d", "a")] {
            fs::remove_file(copy.join(other)).expect("removed");
            fs::hard_link(copy.join(name), copy.join(other)).expect("linked");
        }
        // Both have two names still, but not those.
        assert_eq!(links(&tree, &copy).expect("read").len(), 2);
        fs::remove_file(copy.join("b")).expect("removed");
        fs::write(copy.join("b"), "same").expect("written");
        let wrong = links(&tree, &copy).expect("read");
        assert!(wrong.contains(&"b: 2 links became 1".to_owned()), "{wrong:?}");
        fs::remove_file(copy.join("b")).expect("removed");
        let wrong = differences(&tree, &copy, |_| ()).expect("read");
        assert!(wrong.contains(&"b: missing".to_owned()), "{wrong:?}");
    }
}
