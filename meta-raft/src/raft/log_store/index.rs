//! Where entries are: a sparse list of frames to begin reading at, and what each segment holds.
//!
//! Invariants: places rise in index and in position. From a place up to the index of the next one, the frames that follow hold the
//! entries as they are now; what has been cut off and came anew lies behind a place of its own.

use std::collections::VecDeque;
use std::sync::Arc;

use super::format::{HEADER_BYTES, Shape};
use super::segment::Segment;

/// A read begins at most about this much before what it looks for.
const PLACE_BYTES: u64 = 64 << 10;

#[derive(Clone, Copy, Debug)]
struct Place {
    index: u64,
    segment: u64,
    at: u64,
}

#[derive(Debug)]
struct Known {
    segment: Arc<Segment>,
    /// Where its next frame begins.
    end: u64,
    /// The highest index of all entries that were ever written into it.
    highest: Option<u64>,
}

/// A stretch of one segment.
#[derive(Debug)]
pub(super) struct Stretch {
    pub(super) segment: Arc<Segment>,
    pub(super) from: u64,
    pub(super) to: u64,
    /// Entries from here on are elsewhere.
    pub(super) before: u64,
}

#[derive(Debug, Default)]
pub(super) struct Index {
    segments: VecDeque<Known>,
    places: VecDeque<Place>,
    /// The next frame with entries gets a place, wherever it is.
    is_new_place: bool,
}

impl Index {
    /// The log goes on in `segment`.
    pub(super) fn push_segment(&mut self, segment: Arc<Segment>) {
        self.segments.push_back(Known { segment, end: HEADER_BYTES, highest: None });
        self.is_new_place = true;
    }

    /// A frame of `len` bytes was added to the last segment.
    pub(super) fn push_frame(&mut self, shape: Shape, len: u64) {
        let known = self.segments.back_mut().expect("frames are in segments");
        let (segment, at) = (known.segment.number(), known.end);
        known.end += len;
        known.highest = known.highest.max(shape.entries.map(|(_, high)| high));
        if let Some(from) = shape.cut {
            while self.places.pop_back_if(|place| place.index >= from).is_some() {}
            self.is_new_place = true;
        }
        let Some((index, _)) = shape.entries else { return };
        let is_far = self.places.back().is_none_or(|place| at.saturating_sub(place.at) >= PLACE_BYTES);
        if self.is_new_place || is_far {
            self.places.push_back(Place { index, segment, at });
            self.is_new_place = false;
        }
    }

    /// The stretch in which entry `index` is, if it is anywhere.
    pub(super) fn find(&self, index: u64) -> Option<Stretch> {
        let after = self.places.partition_point(|place| place.index <= index);
        let place = self.places.get(after.checked_sub(1)?)?;
        let next = self.places.get(after);
        let known = self.segments.iter().find(|known| known.segment.number() == place.segment)?;
        let to = next.filter(|next| next.segment == place.segment).map_or(known.end, |next| next.at);
        let before = next.map_or(u64::MAX, |next| next.index);
        Some(Stretch { segment: Arc::clone(&known.segment), from: place.at, to, before })
    }

    /// Forgets the oldest segments that hold nothing above `index`, but never the last one.
    pub(super) fn drop_below(&mut self, index: u64) -> Vec<Arc<Segment>> {
        let mut dropped = Vec::new();
        while self.segments.len() > 1
            && let Some(known) =
                self.segments.pop_front_if(|known| known.highest.is_none_or(|highest| highest <= index))
        {
            while self.places.pop_front_if(|place| place.segment == known.segment.number()).is_some() {}
            dropped.push(known.segment);
        }
        dropped
    }

    /// Where the next frame goes: the last segment.
    pub(super) fn end(&self) -> Option<(Arc<Segment>, u64)> {
        self.segments.back().map(|known| (Arc::clone(&known.segment), known.end))
    }
}
