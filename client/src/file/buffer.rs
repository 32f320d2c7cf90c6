//! The buffer of one chunk: an interval map of the *latest* bytes that no acknowledged fsync covers yet (W5, ADR 0001.6). Pure.
//!
//! Each extent is dirty (not sent in this epoch), in flight, acknowledged by the whole chain, or synced (on the disks of all
//! holders, but its length is not committed yet). Extents leave only by [`ChunkBuffer::release`] (synced *and* committed),
//! when their bytes cease to exist ([`ChunkBuffer::cut`]), or given up with an error ([`ChunkBuffer::drop_flight`]). After a broken stream everything that is left becomes dirty again;
//! history is never kept, so a resend cannot take a block back in time (P2).
//!
//! Writes are numbered per inode. `since` is the oldest write whose bytes an extent stands for (overwriting inherits it),
//! `unsent` the oldest of those that was never sent in this epoch. Offsets are within the chunk.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use caribou_planted::{self as planted, Bug};
use caribou_proto::ids::{BLOCK_BYTES, MAX_FRAGMENT_BYTES};

/// What an extent costs beside its bytes, so that a buffer of tiny extents is bounded too.
pub(crate) const EXTENT_OVERHEAD: u64 = 128;
/// Without being asked to, runs shorter than a fragment are sent only when this much is dirty (scattered writes).
const SCATTERED_BYTES: u64 = 4 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Dirty { unsent: u64 },
    InFlight(u64),
    Acked(u64),
    Synced(u64),
}

#[derive(Clone, Debug)]
struct Extent {
    data: Bytes,
    /// Bytes that `data` keeps alive: it may be a slice of more.
    pinned: usize,
    since: u64,
    /// A committed write-end has told of these bytes: if they lie beyond the committed length now, somebody has cut them off.
    told: bool,
    /// Sent in an epoch that ended: servers may have these bytes, and others may have seen them.
    sent: bool,
    /// Acknowledged by all, as this fragment, in the epoch that ended last.
    acked: Option<u64>,
    /// Told or sent, and its session has ended since, and with it what kept others from writing there: what they see is on the servers, and so
    /// it is here as far as it was told and acknowledged (P2).
    theirs: bool,
    state: State,
}

impl Extent {
    /// Where others see it, if a holder of the epoch that ended has kept it.
    fn is_seen(&self) -> bool {
        self.told && self.acked.is_some()
    }

    fn len(&self) -> u32 {
        u32::try_from(self.data.len()).expect("extents are shorter than a chunk")
    }

    /// A part of this extent; copied when a slice would keep much more alive than it shows.
    fn part(&self, from: u32, to: u32) -> Self {
        let slice = self.data.slice(from as usize..to as usize);
        if slice.len() * 2 <= self.pinned {
            let data = Bytes::copy_from_slice(&slice);
            Self { pinned: data.len(), data, ..*self }
        } else {
            Self { data: slice, ..*self }
        }
    }
}

/// What bytes that are written over hand down to those that replace them.
#[derive(Default)]
struct Inherited {
    since: Option<u64>,
    unsent: Option<u64>,
}

/// See the head of this file.
#[derive(Debug, Default)]
pub(crate) struct ChunkBuffer {
    extents: BTreeMap<u32, Extent>,
    /// `(unsent, offset)` of the dirty ones.
    dirty: BTreeSet<(u64, u32)>,
    bytes: u64,
    dirty_bytes: u64,
    synced: usize,
    unsynced: usize,
}

impl ChunkBuffer {
    /// The newest bytes at `offset`, from write number `write`.
    pub(crate) fn insert(&mut self, offset: u32, data: Bytes, write: u64) {
        if data.is_empty() {
            return;
        }
        let end = offset + u32::try_from(data.len()).expect("a write lies within a chunk");
        let inherited = self.carve(offset, end);
        let since = inherited.since.unwrap_or(write).min(write);
        let unsent = inherited.unsent.unwrap_or(write).min(write);
        self.put(
            offset,
            Extent {
                pinned: data.len(),
                data,
                since,
                told: false,
                sent: false,
                acked: None,
                theirs: false,
                state: State::Dirty { unsent },
            },
        );
    }

    /// The next fragment to send, at most 1 MiB, marked in flight as number `n`: the run around the oldest dirty bytes,
    /// ending at a block's end where it can. Unless `force`d, only whole fragments leave (or scattered ones, once they are many).
    pub(crate) fn take(&mut self, n: u64, force: bool) -> Option<(u32, Bytes)> {
        self.take_within(n, force, 0..u32::MAX)
    }

    /// The same, of the block with the oldest dirty bytes only.
    pub(crate) fn take_of_block(&mut self, n: u64) -> Option<(u32, Bytes)> {
        let &(_, oldest) = self.dirty.first()?;
        let start = oldest / BLOCK_BYTES * BLOCK_BYTES;
        self.split(start);
        self.take_within(n, true, start..start + BLOCK_BYTES)
    }

    fn take_within(&mut self, n: u64, force: bool, limits: Range<u32>) -> Option<(u32, Bytes)> {
        let &(_, oldest) = self.dirty.first()?;
        let mut start = oldest;
        for (&offset, extent) in self.extents.range(..oldest).rev() {
            let joins = matches!(extent.state, State::Dirty { .. }) && offset + extent.len() == start;
            let joins = joins && extent.told == self.extents[&oldest].told;
            if !joins || oldest - offset >= MAX_FRAGMENT_BYTES || offset < limits.start {
                break;
            }
            start = offset;
        }
        let told = self.extents[&start].told;
        let mut run_end = start;
        for (&offset, extent) in self.extents.range(start..) {
            if offset != run_end
                || extent.told != told
                || !matches!(extent.state, State::Dirty { .. })
                || run_end - start > MAX_FRAGMENT_BYTES
            {
                break;
            }
            run_end += extent.len();
        }
        if !force && run_end - start < MAX_FRAGMENT_BYTES && self.dirty_bytes < SCATTERED_BYTES {
            return None;
        }
        let mut end = run_end;
        if run_end - start > MAX_FRAGMENT_BYTES {
            end = (start + MAX_FRAGMENT_BYTES) / BLOCK_BYTES * BLOCK_BYTES;
        }
        end = end.min(limits.end);
        Some((start, self.mark_in_flight(start, end, n)))
    }

    /// Makes two of the extent that `at` lies within.
    fn split(&mut self, at: u32) {
        let across = self.extents.range(..at).next_back().filter(|(offset, extent)| **offset + extent.len() > at);
        let Some((&offset, _)) = across else { return };
        let extent = self.remove(offset);
        self.put(offset, extent.part(0, at - offset));
        self.put(at, extent.part(at - offset, extent.len()));
    }

    fn mark_in_flight(&mut self, start: u32, end: u32, n: u64) -> Bytes {
        let mut pieces = Vec::new();
        let mut since = u64::MAX;
        while let Some((&offset, _)) = self.extents.range(start..end).next() {
            let mut extent = self.remove(offset);
            if offset + extent.len() > end {
                let rest = extent.part(end - offset, extent.len());
                self.put(end, rest);
                extent = extent.part(0, end - offset);
            }
            since = since.min(extent.since);
            pieces.push(extent);
        }
        let (data, pinned) = if pieces.len() == 1 {
            (pieces[0].data.clone(), pieces[0].pinned)
        } else {
            let mut joined = BytesMut::with_capacity((end - start) as usize);
            for piece in &pieces {
                joined.extend_from_slice(&piece.data);
            }
            (joined.freeze(), (end - start) as usize)
        };
        let (told, state) = (pieces[0].told, State::InFlight(n));
        // `sent` says so once this epoch has ended.
        let extent = Extent { data: data.clone(), pinned, since, told, sent: false, acked: None, theirs: false, state };
        self.put(start, extent);
        data
    }

    /// Fragment `n`, sent from these bytes, is acknowledged by the whole chain.
    pub(crate) fn acked(&mut self, n: u64, offset: u32, len: u32) {
        for (_, extent) in self.extents.range_mut(offset..offset + len) {
            if extent.state == State::InFlight(n) {
                extent.state = State::Acked(n);
            }
        }
    }

    /// What was taken as number `n`, and was not written over since, is in the metadata (I2), or can never be stored. False if there was nothing.
    pub(crate) fn drop_flight(&mut self, n: u64) -> bool {
        let gone = self.places(|extent| extent.state == State::InFlight(n));
        for &offset in &gone {
            self.remove(offset);
        }
        !gone.is_empty()
    }

    /// W6: a sync that was sent after fragment `n` is acknowledged, and so are all fragments up to `n`.
    pub(crate) fn synced(&mut self, n: u64) {
        for extent in self.extents.values_mut() {
            if let State::Acked(m) = extent.state
                && m <= n
            {
                extent.state = State::Synced(m);
                self.synced += 1;
                self.unsynced -= 1;
            }
        }
    }

    /// W9: a write-end that told of all fragments up to `n`, of this epoch or of the one that has ended, is committed.
    pub(crate) fn told(&mut self, n: u64) {
        for extent in self.extents.values_mut() {
            let is_acked = matches!(extent.state, State::Acked(m) | State::Synced(m) if m <= n);
            extent.told |= is_acked || extent.acked.is_some_and(|m| m <= n);
        }
    }

    /// W9: the committed length went back to `committed` (within the chunk): told bytes beyond it were cut off by somebody
    /// else, after they were written. They must not come back.
    pub(crate) fn cut_told(&mut self, committed: u32) {
        let last = self.extents.range(..committed).next_back();
        let across = last.filter(|(offset, extent)| extent.told && **offset + extent.len() > committed);
        let mut cut: Vec<u32> = across.map(|(offset, _)| *offset).into_iter().collect();
        cut.extend(self.extents.range(committed..).filter(|(_, extent)| extent.told).map(|(offset, _)| *offset));
        for offset in cut {
            let extent = self.remove(offset);
            if offset < committed {
                self.put(offset, extent.part(0, committed - offset));
            }
        }
    }

    /// W5: drops what is synced and lies below `committed`, the part of the chunk within the committed length.
    pub(crate) fn release(&mut self, committed: u32) {
        if self.synced == 0 {
            return;
        }
        let gone: Vec<u32> = (self.extents.iter())
            .filter(|(offset, extent)| matches!(extent.state, State::Synced(_)) && **offset + extent.len() <= committed)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in gone {
            self.remove(offset);
        }
    }

    /// W4, W5: nothing that was sent counts any more. All that is left must be sent again.
    pub(crate) fn reset(&mut self) {
        self.extents.values_mut().for_each(|extent| extent.sent |= !matches!(extent.state, State::Dirty { .. }));
        self.all_again();
    }

    /// The same of bytes that went nowhere.
    pub(crate) fn all_again(&mut self) {
        let offsets: Vec<u32> = self.extents.keys().copied().collect();
        for offset in offsets {
            let mut extent = self.remove(offset);
            if planted::is(Bug::ResendForgotten) && matches!(extent.state, State::Acked(_) | State::Synced(_)) {
                continue;
            }
            if let State::Acked(n) | State::Synced(n) = extent.state {
                extent.acked = Some(n);
            }
            extent.state = State::Dirty { unsent: extent.since };
            self.put(offset, extent);
        }
    }

    /// W5: a holder that stayed up still has what was told and acknowledged by all in the epoch that ended: not to be sent again
    /// (others may have seen it), but to be synced; it counts as fragment `n`. False if there is none.
    pub(crate) fn keep(&mut self, n: u64) -> bool {
        let kept = self.places(Extent::is_seen);
        for &offset in &kept {
            let extent = self.remove(offset);
            self.put(offset, Extent { state: State::Acked(n), acked: None, ..extent });
        }
        !kept.is_empty()
    }

    /// Where such extents begin.
    fn places(&self, such: impl Fn(&Extent) -> bool) -> Vec<u32> {
        self.extents.iter().filter(|(_, extent)| such(extent)).map(|(offset, _)| *offset).collect()
    }

    /// W5: nobody has the rest any more: it is to be sent again.
    pub(crate) fn keep_nothing(&mut self) {
        self.extents.values_mut().for_each(|extent| (extent.acked, extent.theirs) = (None, false));
    }

    /// S4: nothing keeps others from writing over what they have been told of, or may have seen.
    pub(crate) fn leave_to_others(&mut self) {
        self.extents.values_mut().for_each(|extent| extent.theirs |= extent.told || extent.sent);
    }

    /// There are bytes that others may have written over.
    pub(crate) fn has_theirs(&self) -> bool {
        self.extents.values().any(|extent| extent.theirs)
    }

    /// V1: the recovery at the session's end has kept what was acknowledged, on all disks.
    pub(crate) fn release_theirs(&mut self) {
        for offset in self.places(|extent| extent.theirs && extent.is_seen()) {
            self.remove(offset);
        }
    }

    /// P2: others have written since: what they could write over is not sent again. The range within which bytes were dropped.
    pub(crate) fn drop_theirs(&mut self) -> Option<Range<u32>> {
        let gone = self.places(|extent| extent.theirs);
        let (first, last) = (*gone.first()?, *gone.last()?);
        let end = last + self.extents[&last].len();
        for offset in gone {
            self.remove(offset);
        }
        Some(first..end)
    }

    /// W9: bytes at or beyond `offset` no longer exist.
    pub(crate) fn cut(&mut self, offset: u32) {
        self.carve(offset, u32::MAX);
    }

    /// The buffered bytes within `[start, end)` that readers here are to see, in order: none of those that others may have written over.
    pub(crate) fn snapshot(&self, start: u32, end: u32) -> Vec<(u32, Bytes)> {
        self.overlapping(start, end)
            .filter(|(_, extent)| !extent.theirs)
            .map(|(offset, extent)| {
                let (from, to) = (offset.max(start), (offset + extent.len()).min(end));
                (from, extent.data.slice((from - offset) as usize..(to - offset) as usize))
            })
            .collect()
    }

    /// Whether it is open which bytes within `[start, end)` readers here are to see: these, or newer ones of others.
    pub(crate) fn is_disputed(&self, start: u32, end: u32) -> bool {
        self.overlapping(start, end).any(|(_, extent)| extent.theirs)
    }

    fn overlapping(&self, start: u32, end: u32) -> impl Iterator<Item = (u32, &Extent)> {
        let before = self.extents.range(..start).next_back();
        let before = before.filter(move |(offset, extent)| **offset + extent.len() > start);
        before.into_iter().chain(self.extents.range(start..end)).map(|(offset, extent)| (*offset, extent))
    }

    /// The end of the furthest byte that no committed write-end has told of; 0 when there is none.
    pub(crate) fn untold_end(&self) -> u32 {
        let last = self.extents.iter().rev().find(|(_, extent)| !extent.told);
        last.map_or(0, |(offset, extent)| offset + extent.len())
    }

    /// The end of the furthest byte; 0 when there is none.
    pub(crate) fn end(&self) -> u32 {
        self.extents.last_key_value().map_or(0, |(offset, extent)| offset + extent.len())
    }

    /// Whether some bytes of writes up to `write` end beyond `limit`.
    pub(crate) fn reaches_beyond(&self, limit: u32, write: u64) -> bool {
        (self.extents.iter().rev())
            .take_while(|(offset, extent)| **offset + extent.len() > limit)
            .any(|(_, extent)| extent.since <= write)
    }

    /// The oldest write with bytes that have not been sent in this epoch.
    pub(crate) fn oldest_unsent(&self) -> Option<u64> {
        self.dirty.first().map(|(unsent, _)| *unsent)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.extents.is_empty()
    }

    /// Some bytes are not known to be on the disks of all holders.
    pub(crate) fn has_unsynced(&self) -> bool {
        self.unsynced > 0
    }

    /// Some bytes only wait for their length.
    pub(crate) fn has_synced(&self) -> bool {
        self.synced > 0
    }

    pub(crate) fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// What the buffer costs: bytes and extents.
    pub(crate) fn charged(&self) -> u64 {
        self.bytes + self.extents.len() as u64 * EXTENT_OVERHEAD
    }

    /// Clears `[start, end)`, splitting what lies across its ends.
    fn carve(&mut self, start: u32, end: u32) -> Inherited {
        let mut inherited = Inherited::default();
        let first = (self.extents.range(..start).next_back())
            .filter(|(offset, extent)| **offset + extent.len() > start)
            .map_or(start, |(offset, _)| *offset);
        let offsets: Vec<u32> = self.extents.range(first..end).map(|(offset, _)| *offset).collect();
        for offset in offsets {
            let extent = self.remove(offset);
            let extent_end = offset + extent.len();
            inherited.since = Some(inherited.since.unwrap_or(u64::MAX).min(extent.since));
            if let State::Dirty { unsent } = extent.state {
                inherited.unsent = Some(inherited.unsent.unwrap_or(u64::MAX).min(unsent));
            }
            if offset < start {
                self.put(offset, extent.part(0, start - offset));
            }
            if extent_end > end {
                self.put(end, extent.part(end - offset, extent.len()));
            }
        }
        inherited
    }

    fn put(&mut self, offset: u32, extent: Extent) {
        self.bytes += extent.data.len() as u64;
        match extent.state {
            State::Dirty { unsent } => {
                self.dirty.insert((unsent, offset));
                self.dirty_bytes += extent.data.len() as u64;
                self.unsynced += 1;
            }
            State::Synced(_) => self.synced += 1,
            State::InFlight(_) | State::Acked(_) => self.unsynced += 1,
        }
        let replaced = self.extents.insert(offset, extent);
        assert!(replaced.is_none(), "extents never overlap");
    }

    fn remove(&mut self, offset: u32) -> Extent {
        let extent = self.extents.remove(&offset).expect("the extent was just seen");
        self.bytes -= extent.data.len() as u64;
        match extent.state {
            State::Dirty { unsent } => {
                self.dirty.remove(&(unsent, offset));
                self.dirty_bytes -= extent.data.len() as u64;
                self.unsynced -= 1;
            }
            State::Synced(_) => self.synced -= 1,
            State::InFlight(_) | State::Acked(_) => self.unsynced -= 1,
        }
        extent
    }
}

#[cfg(test)]
mod tests;
