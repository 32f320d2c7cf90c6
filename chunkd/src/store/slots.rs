//! Where the next copy of a sector goes (V4). Each sector of a chunk's header and table has three places in the file.
//!
//! Invariants: the place that the last finished fdatasync covered is never overwritten before the next one has finished, and
//! neither is one whose fdatasync is under way; writes between two fdatasyncs share one place. With two places a write
//! during an fdatasync would have to wait for it or tear what it is making durable; the third one lets writers go on.

/// Places per sector.
pub(crate) const SLOTS: usize = 3;

/// Orders the copies of one sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// From 1, one up at each write. The highest is the newest.
    pub(crate) sequence: u64,
    /// The sequence of the copy that was durable when this one was written (0: none). Older copies never count.
    pub(crate) synced: u64,
}

impl Stamp {
    pub(crate) fn is_valid(&self) -> bool {
        self.synced < self.sequence
    }
}

/// The places of one sector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Slots {
    sequence: u64,
    /// Place and sequence that the last finished fdatasync covered.
    synced: Option<(usize, u64)>,
    /// The same for the fdatasync under way.
    syncing: Option<(usize, u64)>,
    /// Written since the last fdatasync began.
    current: Option<usize>,
}

impl Slots {
    /// After loading: the newest copy found is durable (the file was synced before).
    pub(crate) fn loaded(newest: Option<(usize, u64)>) -> Self {
        Self { sequence: newest.map_or(0, |(_, sequence)| sequence), synced: newest, syncing: None, current: None }
    }

    /// Place and stamp for the next write.
    pub(crate) fn next(&mut self) -> (usize, Stamp) {
        let slot = *self.current.get_or_insert_with(|| {
            let kept = [self.synced, self.syncing].map(|place| place.map(|(slot, _)| slot));
            let after = self.syncing.or(self.synced).map_or(0, |(slot, _)| slot + 1);
            (after..after + SLOTS)
                .map(|slot| slot % SLOTS)
                .find(|slot| !kept.contains(&Some(*slot)))
                .expect("of three places at most two are kept")
        });
        self.sequence += 1;
        (slot, Stamp { sequence: self.sequence, synced: self.synced.map_or(0, |(_, sequence)| sequence) })
    }

    /// An fdatasync begins.
    pub(crate) fn begin_sync(&mut self) {
        assert!(self.syncing.is_none(), "one fdatasync of a chunk at a time");
        self.syncing = self.current.take().map(|slot| (slot, self.sequence));
    }

    /// It has succeeded.
    pub(crate) fn end_sync(&mut self) {
        if let Some(place) = self.syncing.take() {
            self.synced = Some(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // V4: neither the durable copy nor the one being made durable is overwritten.
    #[test]
    fn kept_places_are_never_reused() {
        let mut slots = Slots::default();
        let (mut durable, mut under_way, mut seed) = (None, None, 7u64);
        for _ in 0..10_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            match seed >> 62 {
                0 if under_way.is_none() => {
                    slots.begin_sync();
                    under_way = Some(slots.syncing);
                }
                1 if under_way.is_some() => {
                    slots.end_sync();
                    durable = under_way.take().flatten().or(durable);
                }
                _ => {
                    let (slot, stamp) = slots.next();
                    assert!(stamp.is_valid());
                    assert_ne!(Some(slot), durable.map(|(slot, _)| slot));
                    assert_ne!(Some(slot), under_way.flatten().map(|(slot, _)| slot));
                }
            }
        }
    }
}
