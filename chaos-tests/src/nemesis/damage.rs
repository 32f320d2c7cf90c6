//! One bit of a follower's files flips while it is down: of the tables of its state, of what names them, of its newest checkpoint; or of its
//! Raft log. Started again it has to refuse, or to stop when it comes to that place. What it never reads does no harm. It must not come to
//! another state than the others have, which is compared after the run.
//!
//! In the log a frame is chosen that two others follow. Damage to the last whole frame could not be told from the end of a write that was
//! never acknowledged, and the last frame may be no whole one.
//!
//! What shows that it took effect: the node says what it has found.

use std::fs::{self, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::local::ProcessId;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::process::Signal;

use super::harm::start;
use super::{Broken, Harm, Kind, Remedy, Server, Site, Whom, said_since};
use crate::wait;

/// The parts of a segment of the Raft log (docs/on-disk-format.md).
const FIRST_FRAME_AT: usize = 4096;
const FRAME_HEADER: usize = 16;
const FRAME_ALIGN: usize = 8;
/// Frames that have to follow the one that is damaged.
const FOLLOWING: usize = 2;
/// What a table has at its end is read whenever it is opened: half of the flips are there.
const TABLE_END: u64 = 1024;
/// How long a node may take to find it, beside the time of the fault itself.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);
/// What is in each line about damage: what RocksDB calls it, and what a node begins its last words with.
const WORDS: [&str; 2] = ["Corruption", "caribou-meta: "];
/// What a node says once it has opened all of its files.
const OPENED: &str = ": listening ";

/// A bit that has been flipped.
#[derive(Debug)]
pub(super) struct Damage {
    kind: Kind,
    server: Server,
    path: PathBuf,
    offset: u64,
    bit: u32,
    /// What is there now.
    byte: u8,
    /// Where its node complains, and what was there before.
    log: PathBuf,
    log_bytes: u64,
}

pub(super) async fn inflict(kind: Kind, site: &mut Site<'_>) -> Result<Option<Harm>> {
    let Some(victims) = site.victims(Whom::Follower).await else { return Ok(None) };
    let (server, mut harm) = (victims[0], Harm::new(kind, victims));
    let (part, number) = server;
    let node = &site.lab.cluster.layout().nodes(part)[number - 1];
    let data = node.data.first().context("a metadata node has a data folder")?.clone();
    let log = node.log.clone();
    site.lab.cluster.signal(part, number, Signal::KILL)?;
    let place = match kind {
        Kind::RotLogFollower => log_place(&data, site.rng)?,
        _ => state_place(&data, site.rng)?,
    };
    let Some((path, offset)) = place else {
        return Ok(Some(harm.with([Remedy::Seen(0, "places to damage"), Remedy::Start(server)])));
    };
    let log_bytes = fs::metadata(&log).with_context(|| log.display().to_string())?.len();
    let bit = site.rng.random_range(0..u8::BITS);
    let byte = flip(&path, offset, bit)?;
    // It may end at once, so nobody waits for it.
    site.lab.cluster.spawn(part, number)?;
    let name = path.strip_prefix(&data).unwrap_or(&path).display().to_string();
    harm.victims.push_str(&format!(", byte {offset} of {name}"));
    let damage = Damage { kind, server, path, offset, bit, byte, log, log_bytes };
    Ok(Some(harm.with([Remedy::Repair(damage)])))
}

impl Damage {
    /// The bit flips back, unless the file has gone or changed, and the node starts. Returns how many lines its node has said about it.
    pub(super) async fn repaired(self, site: &mut Site<'_>) -> Result<u64> {
        let (part, number) = self.server;
        let process = site.lab.cluster.layout().nodes(part)[number - 1].process;
        let has_ended = wait::until(PATIENCE, LOOK, async || !process.is_some_and(ProcessId::is_alive)).await;
        site.lab.cluster.signal(part, number, Signal::KILL)?;
        let said = said_since(&self.log, self.log_bytes)?;
        let complaints = said.lines().filter(|line| WORDS.iter().any(|word| line.contains(word))).count();
        let place = format!("{} is damaged at byte {}", self.path.display(), self.offset);
        if has_ended && complaints == 0 {
            return Err(Broken::promise(format!("{place}, and its node has ended without a word")));
        }
        // Each frame is read before anything else is done.
        if self.kind == Kind::RotLogFollower && said.contains(OPENED) {
            return Err(Broken::promise(format!("{place}, and its node has taken the log for a sound one")));
        }
        if there(&self.path, self.offset)? == Some(self.byte) {
            flip(&self.path, self.offset, self.bit)?;
        }
        start(site, self.server).await?;
        Ok(complaints as u64)
    }
}

/// Returns what is there now.
fn flip(path: &Path, offset: u64, bit: u32) -> Result<u8> {
    let file = OpenOptions::new().read(true).write(true).open(path).with_context(|| path.display().to_string())?;
    let mut byte = [0_u8];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1_u8 << bit;
    file.write_all_at(&byte, offset)?;
    file.sync_data()?;
    Ok(byte[0])
}

/// None: the file is gone, or shorter.
fn there(path: &Path, offset: u64) -> Result<Option<u8>> {
    let mut byte = [0_u8];
    match fs::File::open(path).and_then(|file| file.read_exact_at(&mut byte, offset)) {
        Ok(()) => Ok(Some(byte[0])),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::UnexpectedEof) => Ok(None),
        Err(error) => Err(error).with_context(|| path.display().to_string()),
    }
}

/// Some byte of the newest state's files, or of the newest checkpoint's.
fn state_place(data: &Path, rng: &mut StdRng) -> Result<Option<(PathBuf, u64)>> {
    let is_numbered = |name: &str| name.starts_with(|first: char| first.is_ascii_digit());
    let mut sorts = Vec::new();
    for folder in ["state", "snapshots"] {
        let Some(newest) = named(&data.join(folder), is_numbered)?.pop() else { continue };
        sorts.push(named(&newest, |name| name.ends_with(".sst"))?);
        sorts.push(named(&newest, |name| name.starts_with("MANIFEST-"))?);
    }
    sorts.retain(|files| !files.is_empty());
    let Some(path) = sorts.choose(rng).and_then(|files| files.choose(rng)) else { return Ok(None) };
    let length = fs::metadata(path).with_context(|| path.display().to_string())?.len();
    let from = if rng.random() { length.saturating_sub(TABLE_END) } else { 0 };
    Ok((length > 0).then(|| (path.clone(), rng.random_range(from..length))))
}

/// Some byte of a frame of the Raft log that others follow.
fn log_place(data: &Path, rng: &mut StdRng) -> Result<Option<(PathBuf, u64)>> {
    let (mut places, mut next) = (Vec::new(), None);
    for segment in named(&data.join("log"), |name| name.ends_with(".seg"))? {
        let bytes = fs::read(&segment).with_context(|| segment.display().to_string())?;
        let found = frames(&bytes, &mut next);
        if let Some(frame) = found[..found.len().saturating_sub(FOLLOWING)].choose(rng) {
            places.push((segment, rng.random_range(frame.clone()) as u64));
        }
    }
    Ok(places.choose(rng).cloned())
}

/// Where the frames of a segment are, without their padding. `next`: the number of the first one, if the segment before has told it;
/// afterwards of the one behind the last. What an earlier use of the file has left behind has lower numbers.
fn frames(bytes: &[u8], next: &mut Option<u64>) -> Vec<Range<usize>> {
    let (mut found, mut at) = (Vec::new(), FIRST_FRAME_AT);
    while let Some(header) = bytes.get(at..at + FRAME_HEADER) {
        let length = u32::from_le_bytes(header[..4].try_into().expect("four bytes")) as usize;
        let number = u64::from_le_bytes(header[8..].try_into().expect("eight bytes"));
        let end = at + FRAME_HEADER + length;
        if length == 0 || end > bytes.len() || next.is_some_and(|next| next != number) {
            break;
        }
        found.push(at..end);
        *next = Some(number + 1);
        at = end.next_multiple_of(FRAME_ALIGN);
    }
    found
}

/// What is in a folder under such names, in their order.
fn named(folder: &Path, is_wanted: impl Fn(&str) -> bool) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(&is_wanted) {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    /// A segment with these frames, numbers and lengths, and room behind them.
    fn segment(frames: &[(u64, usize)]) -> Vec<u8> {
        let mut bytes = vec![0; FIRST_FRAME_AT];
        for (number, length) in frames {
            bytes.extend((*length as u32).to_le_bytes());
            bytes.extend([0xCC; 4]);
            bytes.extend(number.to_le_bytes());
            bytes.extend(vec![0xAA; *length]);
            bytes.resize(bytes.len().next_multiple_of(FRAME_ALIGN), 0);
        }
        bytes.resize(bytes.len() + 512, 0);
        bytes
    }

    #[test]
    fn frames_follow_each_other_through_all_segments() {
        let mut next = None;
        assert_eq!(frames(&segment(&[(7, 3), (8, 8)]), &mut next), [4096..4115, 4120..4144]);
        assert_eq!(next, Some(9));
        // The second of these was left behind by an earlier use of the file.
        assert_eq!(frames(&segment(&[(9, 1), (4, 8)]), &mut next), std::slice::from_ref(&(4096..4113)));
        assert!(frames(&segment(&[(2, 8), (3, 8)]), &mut next).is_empty());
        assert_eq!(next, Some(10));
        let cut = &segment(&[(10, 600)])[..FIRST_FRAME_AT + 100];
        assert!(frames(cut, &mut next).is_empty() && frames(&[], &mut next).is_empty());
    }

    #[test]
    fn only_frames_that_two_others_follow_are_damaged() {
        let dir = tempfile::tempdir().expect("a folder");
        let log = dir.path().join("log");
        fs::create_dir(&log).expect("made");
        let mut rng = StdRng::seed_from_u64(1);
        fs::write(log.join("0000000000000001.seg"), segment(&[(1, 40), (2, 40)])).expect("written");
        fs::write(log.join("0000000000000002.new"), segment(&[(3, 40), (4, 40), (5, 40)])).expect("written");
        assert_eq!(log_place(dir.path(), &mut rng).expect("read"), None);
        fs::write(log.join("0000000000000002.seg"), segment(&[(3, 40), (4, 40), (5, 40)])).expect("written");
        for _ in 0..100 {
            let (path, offset) = log_place(dir.path(), &mut rng).expect("read").expect("there is one");
            assert!(path.ends_with("0000000000000002.seg"));
            assert!((4096..4096 + 56).contains(&offset), "{offset}");
        }
    }

    #[test]
    fn a_bit_flips_and_flips_back() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("000001.sst");
        fs::write(&path, [0x0F; 4]).expect("written");
        assert_eq!(flip(&path, 2, 7).expect("flipped"), 0x8F);
        assert_eq!((there(&path, 2).expect("read"), there(&path, 4).expect("read")), (Some(0x8F), None));
        assert_eq!(flip(&path, 2, 7).expect("flipped"), 0x0F);
        fs::remove_file(&path).expect("removed");
        assert_eq!(there(&path, 2).expect("gone"), None);
    }

    #[test]
    fn places_are_those_of_the_newest_state_and_checkpoint() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, [1; 3000]).expect("written");
        };
        let mut rng = StdRng::seed_from_u64(1);
        fs::create_dir_all(dir.path().join("snapshots")).expect("made");
        file("state/00000001/000009.sst");
        file("state/00000002/CURRENT");
        assert_eq!(state_place(dir.path(), &mut rng).expect("read"), None);
        file("state/00000002/000011.sst");
        file("state/00000002/MANIFEST-000010");
        file("state/incoming/000012.sst");
        file("snapshots/00000000000000000001-00000000000000000009-00000001/000008.sst");
        file("snapshots/building-2/000008.sst");
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..200 {
            let (path, offset) = state_place(dir.path(), &mut rng).expect("read").expect("there are some");
            assert!(offset < 3000);
            seen.insert(path.strip_prefix(dir.path()).expect("below").display().to_string());
        }
        let expected = [
            "snapshots/00000000000000000001-00000000000000000009-00000001/000008.sst",
            "state/00000002/000011.sst",
            "state/00000002/MANIFEST-000010",
        ];
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected);
    }
}
