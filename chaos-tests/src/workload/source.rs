//! A tree of files on the local disk, made from a seed to be copied: nested folders, files of nothing to three MiB, links of both kinds, odd
//! names, modes and times.

use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

/// For so many entries there is one folder.
const ENTRIES_PER_FOLDER: usize = 12;
/// Their owner can read all of them, and change folders, or only root could copy and remove them.
const FILE_MODES: [u32; 6] = [0o644, 0o644, 0o755, 0o600, 0o444, 0o400];
const FOLDER_MODES: [u32; 4] = [0o755, 0o700, 0o775, 0o1777];
/// Seconds after 1970: until 2096.
const SECONDS: u64 = 4_000_000_000;

/// Makes it with so many entries that are no folders.
pub(super) fn make(root: &Path, entries: usize, random: &mut StdRng) -> Result<()> {
    fs::create_dir(root).with_context(|| root.display().to_string())?;
    let mut folders = vec![root.to_owned()];
    for number in 0..entries / ENTRIES_PER_FOLDER {
        let folder = choose(&folders, random).join(format!("d{number}"));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        folders.push(folder);
    }
    let mut files: Vec<PathBuf> = Vec::new();
    for number in 0..entries {
        let path = choose(&folders, random).join(name(number, random));
        let made = match random.random_range(0..100) {
            0..6 if !files.is_empty() => fs::hard_link(choose(&files, random), &path),
            6..12 => symlink(format!("../somewhere/{number}"), &path),
            _ => {
                files.push(path.clone());
                fs::write(&path, content(random)).and_then(|()| dress(&path, &FILE_MODES, random))
            }
        };
        made.with_context(|| path.display().to_string())?;
    }
    // Last: what is made in a folder changes its time.
    for folder in &folders {
        dress(folder, &FOLDER_MODES, random).with_context(|| folder.display().to_string())?;
    }
    Ok(())
}

fn choose<'a>(paths: &'a [PathBuf], random: &mut StdRng) -> &'a Path {
    paths.choose(random).expect("there is one")
}

fn name(number: usize, random: &mut StdRng) -> String {
    match random.random_range(0..20) {
        0 => format!("a name with spaces {number}"),
        1 => format!("-{number}"),
        2 => format!("näme 名 {number}"),
        3 => format!("{number}-{}", "long".repeat(50)),
        _ => format!("f{number}"),
    }
}

/// Most are small, some lie about what is kept with the metadata (16 KiB), few are large.
fn content(random: &mut StdRng) -> Vec<u8> {
    let most: usize = match random.random_range(0..1000) {
        0..100 => 0,
        100..650 => 4 << 10,
        650..850 => 20 << 10,
        850..980 => 256 << 10,
        _ => 3 << 20,
    };
    let mut bytes = vec![0; random.random_range(most.min(1)..=most)];
    random.fill(&mut bytes[..]);
    bytes
}

fn dress(path: &Path, modes: &[u32], random: &mut StdRng) -> std::io::Result<()> {
    let since = Duration::new(random.random_range(0..SECONDS), random.random_range(0..1_000_000_000));
    File::open(path)?.set_times(FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + since))?;
    fs::set_permissions(path, Permissions::from_mode(*modes.choose(random).expect("some are listed")))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use caribou_cli::tree::{Kind, Tree};

    use super::super::worker::choices;
    use super::*;
    use crate::check::copy;

    #[test]
    fn a_seed_makes_the_same_tree_again_with_everything_in_it() {
        let dir = tempfile::tempdir().expect("a folder");
        let [first, second, other] = ["first", "second", "other"].map(|name| dir.path().join(name));
        for (root, seed) in [(&first, 1), (&second, 1), (&other, 2)] {
            make(root, 300, &mut choices(seed, 7)).expect("made");
        }
        let tree = Tree::list(&first, usize::MAX).expect("listed");
        assert_eq!(copy::differences(&tree, &second, |_| ()).expect("read"), Vec::<String>::new());
        assert!(copy::differences(&tree, &other, |_| ()).expect("read").len() > 100);
        let of = |wanted: Kind| tree.entries.iter().filter(move |(_, kind)| *kind == wanted);
        assert!(of(Kind::Symlink).count() > 3 && of(Kind::Directory).count() == 25);
        let files: Vec<fs::Metadata> =
            of(Kind::File).map(|(path, _)| fs::symlink_metadata(first.join(path)).expect("there")).collect();
        assert!(files.iter().any(|file| file.nlink() > 1) && files.iter().any(|file| file.len() == 0));
        assert!(
            files.iter().any(|file| file.len() > 20 << 10) && files.iter().any(|file| file.mode() & 0o777 == 0o400)
        );
    }
}
