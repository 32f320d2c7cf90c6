//! The calls that have changed a file, how far they are synced and closed, and what may therefore be read.
//!
//! Whoever opens a file counts on all that was synced or closed before (close to open). Of later calls there may be any, each of them for
//! itself: bytes leave for the servers as they are newest, not in the order in which they were written. What is read is judged piece by piece:
//! within a block (P2), and between the borders of all calls that it may show.

use std::collections::BTreeSet;
use std::ops::Range;

use caribou_proto::ids::{BLOCK_BYTES, CHUNK_BYTES};
use tokio::time::Instant;

use super::content::{Change, Content, pattern};
use crate::places::Place;

const BLOCK: u64 = BLOCK_BYTES as u64;
/// Within these a loss of power tears nothing.
const UNTORN: u64 = 8;

/// A call of the owner's.
#[derive(Debug)]
pub struct Call {
    change: Change,
    pub called_at: Instant,
    /// Each chunk that it writes to, and where that was: when the call was made, and when the bytes were closed, or their writer was gone.
    pub places: Vec<(u32, [Option<Place>; 2])>,
}

/// What is certain of a file when somebody opens it.
#[derive(Clone, Debug, Default)]
pub struct Bound {
    /// So many calls were synced, and this is what they had made.
    synced: usize,
    content: Content,
    /// So many were closed; the size after them.
    closed: usize,
    size: u64,
}

/// See the module.
#[derive(Debug)]
pub struct History {
    inode: u64,
    calls: Vec<Call>,
    latest: Content,
    bound: Bound,
}

/// The rule that is broken, and how.
pub type Wrong = (&'static str, String);

fn chunk_of(position: u64) -> u32 {
    u32::try_from(position / CHUNK_BYTES).expect("few chunks")
}

/// Ends of blocks within a range.
fn blocks_within(range: &Range<u64>) -> impl Iterator<Item = u64> {
    (range.start / BLOCK + 1..range.end.div_ceil(BLOCK)).map(|block| block * BLOCK)
}

fn words(range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
    let (start, end) = (range.start, range.end);
    let words = start / UNTORN..end.div_ceil(UNTORN);
    words.map(move |word| (word * UNTORN).max(start)..((word + 1) * UNTORN).min(end))
}

/// Where the bytes of a part are among those of the whole.
fn within(whole: &Range<u64>, part: &Range<u64>) -> Range<usize> {
    (part.start - whole.start) as usize..(part.end - whole.start) as usize
}

impl History {
    pub fn new(inode: u64) -> Self {
        Self { inode, calls: Vec::new(), latest: Content::default(), bound: Bound::default() }
    }

    /// After all calls.
    pub fn size(&self) -> u64 {
        self.latest.size()
    }

    /// The next call is made; its number.
    pub fn call(&mut self, change: Change, place: impl Fn(u32) -> Option<Place>) -> u64 {
        let chunks = match &change {
            Change::Write(range) => chunk_of(range.start)..chunk_of(range.end - 1) + 1,
            Change::Resize(_) => 0..0,
        };
        let places = chunks.map(|chunk| (chunk, [place(chunk), place(chunk)])).collect();
        let number = self.calls.len() as u64 + 1;
        self.latest.apply(number, &change);
        self.calls.push(Call { change, called_at: Instant::now(), places });
        number
    }

    /// This is where the bytes are that are not closed yet.
    pub fn placed(&mut self, place: impl Fn(u32) -> Option<Place>) {
        for call in &mut self.calls[self.bound.closed..] {
            for (chunk, [_, last]) in &mut call.places {
                *last = place(*chunk);
            }
        }
    }

    /// All calls are answered, and everybody who opens the file from now on sees them.
    pub fn close(&mut self, place: impl Fn(u32) -> Option<Place>) {
        self.placed(place);
        (self.bound.closed, self.bound.size) = (self.calls.len(), self.size());
    }

    /// All calls are answered, and nothing of them can be lost any more.
    pub fn sync(&mut self) {
        self.bound = self.all();
    }

    pub fn bound(&self) -> Bound {
        self.bound.clone()
    }

    /// For who knows the outcome of all calls.
    pub fn all(&self) -> Bound {
        let calls = self.calls.len();
        Bound { synced: calls, content: self.latest.clone(), closed: calls, size: self.size() }
    }

    /// What is wrong with what was read of a range after an open at `bound`. `may_be_lost`: whether what a call has written to a chunk may be
    /// gone though it was closed (P2's exception).
    pub fn judge(
        &self,
        bound: &Bound,
        range: &Range<u64>,
        read: &[u8],
        may_be_lost: impl Fn(&Call, u32) -> bool,
    ) -> Option<Wrong> {
        if let Some(wrong) = self.judge_end(bound, range, read.len() as u64) {
            return Some(wrong);
        }
        let mut bytes = read.to_vec();
        // Behind the end that the reader knew there is nothing, which is as good as zeros; what is before it may be newer.
        let mut borders = self.borders(bound, range);
        borders.insert(range.start + read.len() as u64);
        bytes.resize(within(range, range).end, 0);
        let borders: Vec<u64> = borders.into_iter().collect();
        borders.windows(2).find_map(|pair| {
            let piece = pair[0]..pair[1];
            self.judge_piece(bound, &piece, &bytes[within(range, &piece)], &may_be_lost)
        })
    }

    pub fn judge_size(&self, bound: &Bound, size: u64) -> Option<Wrong> {
        let sizes = self.sizes(bound);
        let text = || format!("file {} has {size} bytes, it may have one of {sizes:?}", self.inode);
        (!sizes.contains(&size)).then(|| ("P2, close to open", text()))
    }

    /// How much came of a range says where the file ends.
    fn judge_end(&self, bound: &Bound, range: &Range<u64>, read: u64) -> Option<Wrong> {
        let (sizes, end) = (self.sizes(bound), range.start + read);
        let fits = match read {
            _ if end == range.end => sizes.last() >= Some(&end),
            0 => sizes.first() <= Some(&end),
            _ => sizes.contains(&end),
        };
        let text =
            || format!("of {range:?} of file {} there were {read} bytes, it may have one of {sizes:?}", self.inode);
        (!fits).then(|| ("P2, close to open", text()))
    }

    /// Each write may be told for itself, and up to a block's end before the rest. A set size is a barrier: what was written before is told first.
    fn sizes(&self, bound: &Bound) -> BTreeSet<u64> {
        let (mut least, mut sizes) = (bound.size, BTreeSet::from([bound.size]));
        for call in &self.calls[bound.closed..] {
            match &call.change {
                Change::Write(range) => {
                    sizes.extend(blocks_within(range).chain([range.end]).filter(|end| *end > least));
                }
                Change::Resize(size) => {
                    least = *size;
                    sizes.insert(least);
                }
            }
        }
        sizes
    }

    /// Of pieces that are each of one write in any state since the last sync.
    fn borders(&self, bound: &Bound, range: &Range<u64>) -> BTreeSet<u64> {
        let mut borders = BTreeSet::from([range.start, range.end]);
        borders.extend(blocks_within(range));
        borders.extend(bound.content.borders(range));
        for call in &self.calls[bound.synced..] {
            match &call.change {
                Change::Write(written) => borders.extend([written.start, written.end]),
                Change::Resize(size) => borders.extend([*size]),
            }
        }
        borders.retain(|border| (range.start..=range.end).contains(border));
        borders
    }

    /// What a byte is of, from the last sync on: after so many calls, this one's.
    fn line(&self, bound: &Bound, position: u64) -> Vec<(usize, u64)> {
        let mut line = vec![(bound.synced, bound.content.write_at(position))];
        for (call, calls) in self.calls[bound.synced..].iter().zip(bound.synced + 1..) {
            match &call.change {
                Change::Write(range) if range.contains(&position) => line.push((calls, calls as u64)),
                Change::Resize(size) if *size <= position => line.push((calls, 0)),
                _ => {}
            }
        }
        line
    }

    fn judge_piece(
        &self,
        bound: &Bound,
        piece: &Range<u64>,
        bytes: &[u8],
        may_be_lost: &impl Fn(&Call, u32) -> bool,
    ) -> Option<Wrong> {
        let line = self.line(bound, piece.start);
        let certain = line.partition_point(|(calls, _)| *calls <= bound.closed) - 1;
        if line[certain..].iter().any(|(_, write)| self.is_of(*write, piece, bytes)) {
            return None;
        }
        // What was cut off before the open does not come back, whatever is lost.
        let first = line[..=certain].iter().rposition(|(_, write)| *write == 0).unwrap_or(0);
        let is_lost = |at: &usize| match line[*at].1 {
            0 => false,
            write => may_be_lost(&self.calls[write as usize - 1], chunk_of(piece.start)),
        };
        let excused = (first + 1..line.len()).find(is_lost).map(|lost| &line[certain.min(lost - 1)..]);
        let is_torn = |states: &[(usize, u64)]| {
            words(piece).all(|word| {
                let part = &bytes[within(piece, &word)];
                states.iter().any(|(_, write)| self.is_of(*write, &word, part))
            })
        };
        if excused.is_some_and(is_torn) { None } else { Some(self.in_words(bound, piece, bytes, &line)) }
    }

    fn is_of(&self, write: u64, piece: &Range<u64>, bytes: &[u8]) -> bool {
        match write {
            0 => bytes.iter().all(|byte| *byte == 0),
            _ => pattern(self.inode, write, piece).eq(bytes.iter().copied()),
        }
    }

    fn in_words(&self, bound: &Bound, piece: &Range<u64>, bytes: &[u8], line: &[(usize, u64)]) -> Wrong {
        let found = (0..=self.calls.len() as u64).rev().find(|write| self.is_of(*write, piece, bytes));
        // Older than what was synced, or nothing that was ever there.
        let is_older = found.is_some_and(|found| line.iter().all(|(_, write)| *write != found));
        let found = match found {
            Some(0) => "zeros".to_owned(),
            Some(write) => format!("of call {write}"),
            None => format!("mixed or another's ({:?}…)", &bytes[..bytes.len().min(16)]),
        };
        let (inode, Bound { synced, closed, .. }, calls) = (self.inode, bound, self.calls.len());
        let text = format!(
            "bytes {piece:?} of file {inode} are {found}; they were, after so many calls, of {line:?} (0: zeros); \
             {synced} were synced and {closed} closed before, {calls} are made"
        );
        (if is_older { "P1" } else { "P2" }, text)
    }
}

#[cfg(test)]
mod tests;
