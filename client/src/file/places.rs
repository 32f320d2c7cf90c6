//! Where the chunks of one file are, as far as this client knows: answers of the leader, kept until an `open`, a server or the
//! file's own writes show them to be out of date.

use std::collections::BTreeMap;
use std::time::Duration;

use caribou_proto::meta::v1::{ChunkLocation, ChunkState};
use tokio::time::Instant;

use super::action::Held;
use crate::chunk::Place;

/// A hole may be filled by another client without anybody telling this one.
const HOLE_LIFE: Duration = Duration::from_secs(1);
/// Chunks remembered per file; beyond that all are forgotten.
const MAX_PLACES: usize = 4096;

/// What there is to read of a chunk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// Nothing: zeros (W2).
    Hole,
    At(Place),
    /// In recovery, or held for its writer (W5): wait.
    Busy,
}

impl Found {
    fn new(location: &ChunkLocation) -> Self {
        match location.state() {
            ChunkState::Hole => Self::Hole,
            ChunkState::Ready if !location.holders.is_empty() => {
                Self::At(Place { chunk: location.chunk, version: location.version, holders: location.holders.clone() })
            }
            _ => Self::Busy,
        }
    }
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Places {
    known: BTreeMap<u32, (Found, Instant)>,
    /// Counts what was forgotten or put by the file's own writes: an answer that was asked for before must not be kept.
    pub(crate) stamp: u64,
}

impl Places {
    pub(crate) fn get(&self, index: u32) -> Option<Found> {
        let (found, at) = self.known.get(&index)?;
        (*found != Found::Hole || Instant::now() < *at + HOLE_LIFE).then(|| found.clone())
    }

    /// Takes in the leader's answer for chunks from `first` on; what it does not name is a hole. Returns what it says of `first`.
    pub(crate) fn learn(&mut self, first: u32, locations: &[ChunkLocation], stamp: u64) -> Found {
        let mut wanted = Found::Hole;
        for location in locations {
            let found = Found::new(location);
            if location.index == first {
                wanted = found.clone();
            }
            self.keep(location.index, found, stamp);
        }
        if wanted == Found::Hole {
            self.keep(first, Found::Hole, stamp);
        }
        wanted
    }

    fn keep(&mut self, index: u32, found: Found, stamp: u64) {
        if stamp != self.stamp || found == Found::Busy {
            return;
        }
        if self.known.len() >= MAX_PLACES {
            self.known.clear();
        }
        self.known.insert(index, (found, Instant::now()));
    }

    /// The file's own grant, once a write-end has named its chunk.
    pub(crate) fn put_own(&mut self, held: &Held) {
        self.stamp += 1;
        let place = Place { chunk: held.chunk, version: held.version, holders: held.holders.to_vec() };
        self.known.insert(held.index, (Found::At(place), Instant::now()));
    }

    pub(crate) fn forget(&mut self, index: u32) {
        self.stamp += 1;
        self.known.remove(&index);
    }

    pub(crate) fn forget_from(&mut self, first: u32) {
        self.stamp += 1;
        self.known.split_off(&first);
    }
}
