//! Opening a log: every frame of every segment is read once.
//!
//! The last frame may be torn: what was being written when the power went was never acknowledged. Anything else that does not fit is
//! damage, and then the node must not start: it could have lost entries that it once said were on its disk. Nothing is taken away before
//! all of it has been found to fit: whoever repairs a damaged log needs every file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{self, FIRST_FRAME, Frames, HEADER_BYTES, Record, Shape, damaged, records};
use super::index::Index;
use super::segment::{self, FIRST_SEGMENT, Listed, Segment};
use super::sizes::Sizes;
use crate::raft::types::{LogId, Vote};

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Replayed {
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    /// The first and the last entry that no record has cut off or purged since.
    pub(super) span: Option<(u64, u64)>,
    pub(super) sizes: Sizes,
    pub(super) index: Index,
    /// Number of the next frame.
    pub(super) frame: u64,
    /// Bytes of the last frame; 0 if the last segment has none.
    pub(super) last_frame: u64,
    /// Bytes of the largest segment so far.
    largest: usize,
    /// A segment that is there but has no frames yet.
    pub(super) next: Option<Segment>,
    /// Segments after that one: begun and not used, and others made ready after them.
    unused: Vec<Segment>,
}

/// Reads the segments in `dir`.
pub(super) fn run(dir: &Path) -> io::Result<Replayed> {
    let mut replayed = Replayed { frame: FIRST_FRAME, ..Replayed::default() };
    let mut before = None;
    let Listed { numbers, leftovers } = segment::list(dir)?;
    for &number in &numbers {
        let told = |e: io::Error| io::Error::new(e.kind(), format!("segment {number:016x} of the Raft log: {e}"));
        if before.is_some_and(|before| before + 1 != number) {
            return Err(told(damaged("the one before it is missing")));
        }
        before = Some(number);
        replayed.take_segment(dir, number).map_err(told)?;
    }
    replayed.check()?;
    if numbers.first().is_some_and(|first| *first != FIRST_SEGMENT) && replayed.purged.is_none() {
        return Err(damaged("the first segments of the Raft log are missing, and nothing was purged"));
    }
    replayed.clear(dir, &leftovers)?;
    Ok(replayed)
}

impl Replayed {
    fn take_segment(&mut self, dir: &Path, number: u64) -> io::Result<()> {
        let (segment, bytes) = Segment::open(dir, number)?;
        let is_first = self.index.end().is_none();
        let mut frames = Frames::new(&bytes, segment.salt(), (!is_first).then_some(self.frame)).peekable();
        let is_used = frames.peek().is_some();
        // Only a log's very first segment can be the oldest without a frame: those before another one went when it had some. And without a
        // frame nothing tells which numbers would follow.
        if is_first && !is_used && number != FIRST_SEGMENT {
            return Err(damaged(format!(
                "byte {HEADER_BYTES}: the first frame of the oldest segment is damaged or missing"
            )));
        }
        if is_used && self.next.is_some() {
            return Err(damaged("it has frames, but the one before it has none"));
        }
        let salt = segment.salt();
        if is_used || is_first {
            self.index.push_segment(Arc::new(segment));
        } else if self.next.is_none() {
            self.next = Some(segment);
        } else {
            self.unused.push(segment);
        }
        let mut at = 0;
        if is_used || is_first {
            self.last_frame = 0;
        }
        for frame in frames {
            let shape = self.take_frame(frame.payload)?;
            self.index.push_frame(shape, frame.len);
            self.frame = frame.number + 1;
            self.last_frame = frame.len;
            at += frame.len;
        }
        // A file that was cut by hand may end within the last frame's padding.
        let rest = bytes.get(at as usize..).unwrap_or_default();
        self.largest = self.largest.max(bytes.len());
        if format::is_followed(rest, salt, self.frame, self.largest) {
            let at = HEADER_BYTES + at;
            return Err(damaged(format!("byte {at}: a frame that others follow is damaged or missing")));
        }
        Ok(())
    }

    fn take_frame(&mut self, payload: &[u8]) -> io::Result<Shape> {
        let mut shape = Shape::default();
        for record in records(payload) {
            match record? {
                Record::Entry { index, bytes } => {
                    if let Some((_, last)) = self.span.filter(|(_, last)| last + 1 != index) {
                        return Err(damaged(format!("entry {index} follows entry {last}")));
                    }
                    self.span = Some((self.span.map_or(index, |(first, _)| first), index));
                    self.sizes.push(index, bytes.len() as u64);
                    shape.entry(index);
                }
                Record::Truncate { from } => {
                    self.span =
                        self.span.filter(|(first, _)| *first < from).map(|(first, last)| (first, last.min(from - 1)));
                    self.sizes.truncate(from);
                    shape.truncate(from);
                }
                Record::Purged(upto) => {
                    self.purged = self.purged.max(Some(upto));
                    let first = upto.index() + 1;
                    self.span =
                        self.span.filter(|(_, last)| *last >= first).map(|(from, last)| (from.max(first), last));
                    self.sizes.purge(upto.index());
                }
                Record::Vote(vote) => self.vote = Some(vote),
            }
        }
        Ok(shape)
    }

    /// Nothing may be missing between what is purged and the first entry.
    fn check(&self) -> io::Result<()> {
        match (self.purged, self.span) {
            (Some(purged), Some((first, _))) if first > purged.index() + 1 => {
                Err(damaged(format!("the Raft log lacks entries {} to {}", purged.index() + 1, first - 1)))
            }
            _ => Ok(()),
        }
    }

    /// Takes away what the log does not need, the newest segment first: the names that are left must have no gap.
    fn clear(&mut self, dir: &Path, leftovers: &[PathBuf]) -> io::Result<()> {
        for path in leftovers {
            fs::remove_file(path)?;
        }
        while let Some(segment) = self.unused.pop() {
            segment.remove(dir)?;
        }
        Ok(())
    }
}
