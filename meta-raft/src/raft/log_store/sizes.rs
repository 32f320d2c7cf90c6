//! How many bytes of log there are behind an index: a sparse sum, so that purging and snapshots go by bytes.

use std::collections::VecDeque;

/// One sample at most every this many bytes.
const SAMPLE_BYTES: u64 = 64 << 10;

/// Sums up to sampled indices; wrong by at most one sample.
#[derive(Debug, Default)]
pub(super) struct Sizes {
    /// `(index, bytes of all entries up to and with it)`, both rising.
    samples: VecDeque<(u64, u64)>,
    /// Bytes of everything that was ever appended, less what was truncated.
    end: u64,
    /// The sum up to what has been purged.
    start: u64,
}

impl Sizes {
    pub(super) fn push(&mut self, index: u64, bytes: u64) {
        self.end += bytes;
        let sampled = self.samples.back().map_or(self.start, |(_, sum)| *sum);
        if self.end - sampled >= SAMPLE_BYTES {
            self.samples.push_back((index, self.end));
        }
    }

    pub(super) fn truncate(&mut self, from: u64) {
        while self.samples.pop_back_if(|(index, _)| *index >= from).is_some() {}
        self.end = self.samples.back().map_or(self.start, |(_, sum)| *sum);
    }

    pub(super) fn purge(&mut self, upto: u64) {
        while let Some((_, sum)) = self.samples.pop_front_if(|(index, _)| *index <= upto) {
            self.start = sum;
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.end - self.start
    }

    /// Bytes of the entries after `index`.
    pub(super) fn after(&self, index: u64) -> u64 {
        let before = self.samples.partition_point(|(i, _)| *i <= index);
        let sum = before.checked_sub(1).map_or(self.start, |at| self.samples[at].1);
        self.end - sum
    }

    /// The highest sampled index with at least `keep` bytes behind it.
    pub(super) fn purge_point(&self, keep: u64) -> Option<u64> {
        let upto = self.samples.partition_point(|(_, sum)| self.end - sum >= keep);
        upto.checked_sub(1).map(|at| self.samples[at].0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_follow_the_log() {
        let mut sizes = Sizes::default();
        (1..=100).for_each(|index| sizes.push(index, SAMPLE_BYTES));
        assert_eq!(sizes.total(), 100 * SAMPLE_BYTES);
        assert_eq!(sizes.after(90), 10 * SAMPLE_BYTES);
        assert_eq!(sizes.purge_point(10 * SAMPLE_BYTES), Some(90));
        sizes.truncate(96);
        assert_eq!(sizes.after(90), 5 * SAMPLE_BYTES);
        sizes.purge(50);
        assert_eq!(sizes.total(), 45 * SAMPLE_BYTES);
        assert_eq!(sizes.purge_point(45 * SAMPLE_BYTES), None);
        assert_eq!(sizes.purge_point(0), Some(95));
        sizes.purge(1000);
        assert_eq!((sizes.total(), sizes.after(7)), (0, 0));
    }
}
