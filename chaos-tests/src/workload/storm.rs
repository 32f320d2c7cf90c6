//! A storm of small files, made as careful programs do: written under another name, synced, renamed; some are removed again. Each must be
//! there with its bytes, or gone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rand::{RngExt as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use super::worker::{PAUSE_AFTER_ERROR, choices, told};
use crate::check::finding::Finding;

/// From a few bytes to more than what is kept with the metadata.
const SIZES: std::ops::Range<usize> = 1..40_000;
/// Files that are there at a time, about.
const FILES: usize = 200;

/// What must be in the folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Storm {
    pub id: u64,
    pub folder: PathBuf,
    /// Files and their sizes.
    present: BTreeMap<u64, usize>,
    /// Files whose last change failed: nobody knows.
    unknown: BTreeSet<u64>,
    /// Files made so far.
    pub made: u64,
    pub errors: Vec<Finding>,
}

pub(super) fn storm_until(stop: &AtomicBool, id: u64, folder: PathBuf, seed: u64) -> Result<Storm> {
    fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
    let mut random = choices(seed, id);
    let mut storm = Storm { id, folder, ..Storm::default() };
    while !stop.load(Ordering::Relaxed) {
        match storm.step(&mut random) {
            Ok(()) => println!("{}", storm.made),
            Err(error) => {
                storm.errors.push(told(&storm.folder, "a small file", &error));
                std::thread::sleep(PAUSE_AFTER_ERROR);
            }
        }
    }
    Ok(storm)
}

fn content(id: u64, number: u64, size: usize) -> Vec<u8> {
    let mut bytes = format!("storm {id} file {number}\n").into_bytes();
    let mut word = id ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    while bytes.len() < size {
        word = word.wrapping_mul(0xbf58_476d_1ce4_e5b9).rotate_left(23) ^ bytes.len() as u64;
        bytes.extend(word.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

impl Storm {
    fn path(folder: &Path, number: u64) -> PathBuf {
        folder.join(format!("f{number}"))
    }

    /// A file more, or one less.
    fn step(&mut self, random: &mut StdRng) -> std::io::Result<()> {
        if self.present.len() > random.random_range(0..FILES * 2) {
            let at = random.random_range(0..self.present.len());
            let number = *self.present.keys().nth(at).expect("within its length");
            self.present.remove(&number);
            self.unknown.insert(number);
            fs::remove_file(Self::path(&self.folder, number))?;
            self.unknown.remove(&number);
            return Ok(());
        }
        let (number, size) = (self.made, random.random_range(SIZES));
        self.made += 1;
        self.unknown.insert(number);
        let path = Self::path(&self.folder, number);
        let temporary = path.with_extension("new");
        let mut file = OpenOptions::new().create_new(true).write(true).open(&temporary)?;
        file.write_all(&content(self.id, number, size))?;
        file.sync_all()?;
        drop(file);
        fs::rename(&temporary, &path)?;
        self.unknown.remove(&number);
        self.present.insert(number, size);
        Ok(())
    }

    pub fn files(&self) -> usize {
        self.present.len()
    }

    /// The same as if one file more had been made: its folder must not pass (a control).
    pub fn with_a_lost_file(&self) -> Self {
        let mut storm = self.clone();
        storm.present.insert(storm.made, SIZES.start);
        storm.made += 1;
        storm
    }

    /// Compares the folder with what must be in it.
    pub fn verify(&self, folder: &Path) -> Vec<String> {
        let mut wrong = Vec::new();
        let (mut found, mut names) = (BTreeSet::new(), BTreeSet::new());
        let entries = match fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>) {
            Ok(entries) => entries,
            Err(error) => return vec![format!("{}: {error}", folder.display())],
        };
        for entry in entries {
            let name = entry.file_name().to_string_lossy().into_owned();
            if !names.insert(name.clone()) {
                wrong.push(format!("{}: {name} is listed twice", folder.display()));
            }
            let number = name.trim_end_matches(".new").strip_prefix('f').and_then(|digits| digits.parse().ok());
            let Some(number) = number else {
                wrong.push(format!("{}: nobody made {name}", folder.display()));
                continue;
            };
            if self.unknown.contains(&number) {
                continue;
            }
            found.insert(number);
            let Some(size) = self.present.get(&number).filter(|_| !name.ends_with(".new")) else {
                wrong.push(format!("{}: {name} is there, though it was removed or renamed", folder.display()));
                continue;
            };
            match fs::read(entry.path()) {
                Ok(bytes) if bytes == content(self.id, number, *size) => {}
                Ok(bytes) => {
                    let length = bytes.len();
                    wrong.push(format!("{}: {length} bytes, not the {size} synced", entry.path().display()));
                }
                Err(error) => wrong.push(format!("{}: {error}", entry.path().display())),
            }
        }
        let missing = self.present.keys().filter(|number| !found.contains(number));
        wrong.extend(missing.map(|number| format!("{}: f{number} is gone", folder.display())));
        wrong
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_changed_vanished_or_came_back_are_found() {
        let dir = tempfile::tempdir().expect("a folder");
        let (mut random, folder) = (choices(1, 3), dir.path().to_owned());
        let mut storm = Storm { id: 3, folder: folder.clone(), ..Storm::default() };
        for _ in 0..300 {
            storm.step(&mut random).expect("steps");
        }
        assert_eq!(storm.verify(&folder), Vec::<String>::new());
        assert_eq!(
            storm.with_a_lost_file().verify(&folder),
            [format!("{}: f{} is gone", folder.display(), storm.made)]
        );
        let gone: u64 = (0..storm.made).find(|number| !storm.present.contains_key(number)).expect("some were removed");
        let mut present = storm.present.keys().copied();
        let (first, second) = (present.next().expect("some"), present.next().expect("some"));
        fs::write(Storm::path(&folder, gone), "back").expect("written");
        fs::write(Storm::path(&folder, first), "changed").expect("written");
        fs::remove_file(Storm::path(&folder, second)).expect("removed");
        assert_eq!(storm.verify(&folder).len(), 3, "{:?}", storm.verify(&folder));
    }
}
