//! Where the chunks of one file are, as far as this client knows: answers of the leader, kept until an `open`, a server or the
//! file's own writes show them to be out of date.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::meta::v1::{ChunkLocation, ChunkState, ReplyBody};
use tokio::time::Instant;

use super::action::Held;
use crate::chunk::Place;

/// What is not on chunk servers may be changed by another client without anybody telling this one. With a length or a time of another content
/// it must not be believed at all: it would not fit to them.
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

#[derive(Debug)]
struct Known {
    found: Found,
    /// An answer to an older question takes no newer one's place, whatever the order in which they come.
    asked_at: Instant,
    /// The content that it is of, where that is not told by the place itself.
    data_generation: u64,
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
    known: BTreeMap<u32, Known>,
    /// Counts what was forgotten or put by the file's own writes: an answer that was asked for before must not be kept.
    stamp: u64,
}

impl Places {
    /// To be kept while the leader answers.
    pub(crate) fn asking(&self) -> Asked {
        Asked { at: Instant::now(), stamp: self.stamp }
    }

    /// `data_generation`: the newest that this client has heard of.
    pub(crate) fn get(&self, index: u32, data_generation: u64) -> Option<Found> {
        let known = self.known.get(&index)?;
        let fits = index > 0 || known.data_generation == data_generation;
        let fits = fits && Instant::now() < known.asked_at + HOLE_LIFE;
        (fits || matches!(known.found, Found::At(_))).then(|| known.found.clone())
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
            self.keep(location.index, found, body.data_generation, asked);
        }
        if !matches!(wanted, Found::At(_)) {
            self.keep(first, wanted.clone(), body.data_generation, asked);
        }
        wanted
    }

    fn keep(&mut self, index: u32, found: Found, data_generation: u64, asked: Asked) {
        let newer = self.known.get(&index).is_some_and(|known| known.asked_at > asked.at);
        if asked.stamp != self.stamp || newer || found == Found::Busy {
            return;
        }
        if self.known.len() >= MAX_PLACES {
            self.known.clear();
        }
        self.known.insert(index, Known { found, asked_at: asked.at, data_generation });
    }

    /// The file's own grant, once a write-end has named its chunk.
    pub(crate) fn put_own(&mut self, held: &Held) {
        self.stamp += 1;
        let place = Place { chunk: held.chunk, version: held.version, holders: held.holders.to_vec() };
        let known = Known { found: Found::At(place), asked_at: Instant::now(), data_generation: 0 };
        self.known.insert(held.index, known);
    }

    pub(crate) fn forget(&mut self, index: u32) {
        self.stamp += 1;
        self.known.remove(&index);
    }

    /// What was asked for before then.
    pub(crate) fn forget_before(&mut self, asked_at: Instant) {
        self.stamp += 1;
        self.known.retain(|_, known| known.asked_at >= asked_at);
    }

    /// The same, but answers that are under way are kept when they come.
    pub(crate) fn drop_before(&mut self, asked_at: Instant) {
        self.known.retain(|_, known| known.asked_at >= asked_at);
    }

    pub(crate) fn forget_from(&mut self, first: u32) {
        self.stamp += 1;
        self.known.split_off(&first);
    }
}
