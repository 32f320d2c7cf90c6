//! Where the chunks of one file are, as far as this client knows: answers of the leader, kept until an `open`, a server or the
//! file's own writes show them to be out of date.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::meta::v1::{ChunkLocation, ChunkState, ReplyBody};
use tokio::time::Instant;

use super::action::Held;
use crate::chunk::Place;

/// What is not on chunk servers may be changed by another client without anybody telling this one.
const HOLE_LIFE: Duration = Duration::from_secs(1);
/// Chunks remembered per file; beyond that all are forgotten.
const MAX_PLACES: usize = 4096;

/// What there is to read of a chunk.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// Nothing: zeros (W2).
    Hole,
    /// I4: these bytes from the chunk's start, then zeros.
    Inline(Bytes),
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

/// When the leader was asked, and what was known then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    pub(crate) stamp: u64,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// With the time at which it was asked for: an answer to an older question takes no newer one's place, whatever the order in which they come.
    known: BTreeMap<u32, (Found, Instant)>,
    /// Counts what was forgotten or put by the file's own writes: an answer that was asked for before must not be kept.
    stamp: u64,
}

impl Places {
    /// To be kept while the leader answers.
    pub(crate) fn asking(&self) -> Asked {
        Asked { at: Instant::now(), stamp: self.stamp }
    }

    pub(crate) fn get(&self, index: u32) -> Option<Found> {
        let (found, asked) = self.known.get(&index)?;
        let lasts = matches!(found, Found::At(_)) || Instant::now() < *asked + HOLE_LIFE;
        lasts.then(|| found.clone())
    }

    /// Takes in the leader's answer for chunks from `first` on; what it does not name is a hole. Returns what it says of `first`.
    pub(crate) fn learn(&mut self, first: u32, body: &ReplyBody, asked: Asked) -> Found {
        let inline = body.inline.clone().filter(|_| first == 0).map(Found::Inline);
        let mut wanted = inline.clone().unwrap_or(Found::Hole);
        for location in &body.chunks {
            let found = match Found::new(location) {
                Found::Hole if location.index == 0 => inline.clone().unwrap_or(Found::Hole),
                found => found,
            };
            if location.index == first {
                wanted = found.clone();
            }
            self.keep(location.index, found, asked);
        }
        if !matches!(wanted, Found::At(_)) {
            self.keep(first, wanted.clone(), asked);
        }
        wanted
    }

    fn keep(&mut self, index: u32, found: Found, asked: Asked) {
        let newer = self.known.get(&index).is_some_and(|(_, known)| *known > asked.at);
        if asked.stamp != self.stamp || newer || found == Found::Busy {
            return;
        }
        if self.known.len() >= MAX_PLACES {
            self.known.clear();
        }
        self.known.insert(index, (found, asked.at));
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
