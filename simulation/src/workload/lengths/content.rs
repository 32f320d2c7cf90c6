//! What is in a file, without its bytes: which write each range is of. What a write brings follows from its number and the place.

use std::collections::BTreeMap;
use std::ops::Range;

/// Bytes that are made at a time.
const WORD: u64 = 8;

/// A call that changes a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Never empty.
    Write(Range<u64>),
    /// The size that is set, greater or smaller.
    Resize(u64),
}

/// A file after some calls. Calls are numbered from 1; number 0 is nothing but zeros: a hole, or what was cut off.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    size: u64,
    /// By their beginnings; they never overlap.
    extents: BTreeMap<u64, Extent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    end: u64,
    write: u64,
}

/// What a write brings to a range. No byte is zero, so a hole is never taken for it.
pub fn pattern(inode: u64, write: u64, range: &Range<u64>) -> impl Iterator<Item = u8> {
    let (skipped, length) = ((range.start % WORD) as usize, (range.end - range.start) as usize);
    let words = range.start / WORD..range.end.div_ceil(WORD);
    words.flat_map(move |word| mixed(inode, write, word).to_le_bytes()).skip(skipped).take(length)
}

fn mixed(inode: u64, write: u64, word: u64) -> u64 {
    let mut bits = inode.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for number in [write, word] {
        bits = (bits ^ number).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^= bits >> 31;
    }
    bits | 0x0101_0101_0101_0101
}

impl Content {
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The call of this number is made.
    pub fn apply(&mut self, number: u64, change: &Change) {
        match change {
            Change::Write(range) => {
                self.clear(range.clone());
                self.extents.insert(range.start, Extent { end: range.end, write: number });
                self.size = self.size.max(range.end);
            }
            Change::Resize(size) => {
                self.clear(*size..u64::MAX);
                self.size = *size;
            }
        }
    }

    /// Which write the byte there is of.
    pub fn write_at(&self, position: u64) -> u64 {
        let last = self.extents.range(..=position).next_back();
        last.filter(|(_, extent)| extent.end > position).map_or(0, |(_, extent)| extent.write)
    }

    /// Where it goes from one write to another, within a range and just outside.
    pub fn borders(&self, range: &Range<u64>) -> Vec<u64> {
        let from_behind = self.extents.range(..range.end).rev();
        let overlapping = from_behind.take_while(|(_, extent)| extent.end > range.start);
        overlapping.flat_map(|(start, extent)| [*start, extent.end]).collect()
    }

    /// What lies across an end of the range keeps its other part.
    fn clear(&mut self, range: Range<u64>) {
        let before = self.extents.range(..range.start).next_back();
        let across = before.filter(|(_, extent)| extent.end > range.start).map(|(start, _)| *start);
        let starts: Vec<u64> =
            self.extents.range(across.unwrap_or(range.start)..range.end).map(|(start, _)| *start).collect();
        for start in starts {
            let extent = self.extents.remove(&start).expect("it was just seen");
            if start < range.start {
                self.extents.insert(start, Extent { end: range.start, ..extent });
            }
            if extent.end > range.end {
                self.extents.insert(range.end, extent);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(changes: &[Change]) -> Content {
        let mut content = Content::default();
        changes.iter().zip(1..).for_each(|(change, number)| content.apply(number, change));
        content
    }

    /// Runs of bytes of one write, up to the end of the file.
    fn runs(content: &Content) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = (0..content.size()).map(|at| (at, content.write_at(at))).collect();
        runs.dedup_by_key(|(_, write)| *write);
        runs
    }

    #[test]
    fn a_write_lies_over_what_was_there() {
        let within = after(&[Change::Write(10..50), Change::Write(20..30)]);
        assert_eq!(runs(&within), [(0, 0), (10, 1), (20, 2), (30, 1)]);
        assert_eq!(within.size(), 50);
        let across = after(&[Change::Write(0..10), Change::Write(10..20), Change::Write(20..30), Change::Write(5..25)]);
        assert_eq!(runs(&across), [(0, 1), (5, 4), (25, 3)]);
        assert_eq!(after(&[Change::Write(5..9), Change::Write(0..20)]).borders(&(0..99)), [0, 20]);
    }

    #[test]
    fn what_is_cut_off_does_not_come_back_when_the_file_grows() {
        let mut content = after(&[Change::Write(0..100), Change::Resize(40)]);
        assert_eq!((content.size(), content.write_at(39), content.write_at(40)), (40, 1, 0));
        content.apply(3, &Change::Resize(80));
        assert_eq!(runs(&content), [(0, 1), (40, 0)]);
        assert_eq!(content.size(), 80);
        content.apply(4, &Change::Write(70..90));
        assert_eq!(runs(&content), [(0, 1), (40, 0), (70, 4)]);
        content.apply(5, &Change::Resize(0));
        assert_eq!(content, Content::default());
    }

    #[test]
    fn between_the_end_and_a_later_write_there_is_a_hole() {
        let content = after(&[Change::Write(3..5), Change::Write(9..12)]);
        assert_eq!(runs(&content), [(0, 0), (3, 1), (5, 0), (9, 2)]);
        assert_eq!(content.borders(&(4..10)), [9, 12, 3, 5]);
        assert_eq!(content.borders(&(5..9)), [0_u64; 0]);
    }

    #[test]
    fn a_part_of_a_pattern_is_what_the_whole_has_there() {
        let whole: Vec<u8> = pattern(7, 2, &(0..100)).collect();
        assert!(pattern(7, 2, &(13..50)).eq(whole[13..50].iter().copied()));
        assert_eq!(pattern(7, 2, &(8..8)).count(), 0);
        assert!(whole.iter().all(|byte| *byte != 0));
        for (inode, write, start) in [(8, 2, 0), (7, 3, 0), (7, 2, 8)] {
            assert!(pattern(inode, write, &(start..start + 100)).ne(whole.iter().copied()));
        }
    }
}
