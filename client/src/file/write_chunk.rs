//! One chunk that this client writes: its buffer, its grant, what is on its way, and what it wants next (W1–W9). Pure: the
//! clock is an argument, calls to servers leave as [`Action`]s and come back as method calls.
//!
//! An *epoch* is the time of one grant with one set of holders and incarnations. Fragments are numbered; only the unbroken
//! prefix of acknowledged ones counts. When anything goes wrong the epoch ends, nothing that was sent in it counts any more,
//! and all that is left in the buffer is sent again in the next one (W4, W5).

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::ids::{BLOCK_BYTES, CHUNK_BYTES};
use tokio::time::Instant;

use super::action::{Action, Held, Phase, Want};
use super::buffer::ChunkBuffer;

mod epoch;
mod inline;

/// Bytes of one chunk on their way to the chain.
pub(crate) const WINDOW_BYTES: u64 = 16 << 20;
/// A chunk that is written to without pause is synced this many times `sync_after` after its oldest un-synced byte.
const AGE_FACTOR: u32 = 5;
/// Bytes that were refused so often in a row, since the block that they go to is damaged, are given up: the recoveries in between have found no
/// copy that is whole, or one of a holder that damages it again each time.
const REFUSALS: u32 = 3;
/// While the file is open for writing, a grant without work is kept this many times `sync_after` (it holds back repair, R2).
const KEEP_FACTOR: u32 = 10;

#[derive(Debug)]
struct Flight {
    n: u64,
    offset: u32,
    len: u32,
    /// All writes up to this one had been sent when this fragment was (0: not said).
    through: u64,
    sync: bool,
    acked: bool,
}

/// Since a holder has refused a fragment because of the block that it goes to: one fragment at a time, of one block, so that it shows which
/// bytes cannot be stored.
#[derive(Clone, Copy, Debug)]
struct Careful {
    /// Until all writes up to this one are synced.
    until: u64,
    block: u32,
    /// How often bytes for this block were refused in a row.
    times: u32,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct WriteChunk {
    pub(crate) index: u32,
    pub(crate) buffer: ChunkBuffer,
    pub(crate) phase: Phase,
    pub(crate) held: Option<Held>,
    pub(crate) epoch: u64,
    /// W2: no write-end has named this chunk yet.
    pub(crate) is_new: bool,
    /// Acknowledged bytes that no write-end has told of.
    pub(crate) untold: bool,
    /// W8.
    pub(crate) recalled: bool,
    /// End of the furthest acknowledged byte of this epoch.
    pub(crate) acked_end: u32,
    /// W5, M1: this chunk's grant ended otherwise than cleanly; once all writes up to this one are sent again, or if there is nothing to
    /// send, the leader is told.
    pub(crate) resend: Option<u64>,
    attempt: u32,
    careful: Option<Careful>,
    suspects: Vec<u64>,
    /// The last grant that ended otherwise than cleanly: its holders may have kept what was told.
    before: Option<Held>,
    /// The last grant of this chunk that is known to be this client's.
    newest: u64,
    /// The session has ended while a call for a grant was under way: its answer counts for nothing.
    outdated: bool,
    /// The session has ended, and no grant was given since.
    forsaken: bool,
    /// Chunk and version at which nothing may be sent any more (W4).
    spoilt: Option<(u64, u64)>,
    /// Bytes were sent at that version which were never synced, whatever has become of them here (W7).
    unsynced: bool,
    last_sent: u64,
    last_synced: u64,
    next_n: u64,
    flights: VecDeque<Flight>,
    flying_bytes: u64,
    acked_through: u64,
    durable_through: u64,
    /// A sync that nobody asked for: idle, age, recall.
    own_sync: u64,
    /// Nothing more is sent under this grant: it is about to be ended.
    draining: bool,
    /// I3: what the metadata had of this new chunk when its grant was given, until its first write-end; and whether it has still to be sent.
    base: Option<Bytes>,
    base_owed: bool,
    /// Ask for the chunk's state and the file's length before taking a grant.
    look_first: bool,
    last_write: Instant,
    oldest_unsynced: Option<Instant>,
}

impl WriteChunk {
    /// `life`: another number for each that the file has had, so that an answer to one that is gone counts for none that came after it.
    pub(crate) fn new(index: u32, life: u32, now: Instant) -> Self {
        Self {
            index,
            buffer: ChunkBuffer::default(),
            phase: Phase::Free,
            held: None,
            epoch: u64::from(life) << 32,
            is_new: false,
            untold: false,
            recalled: false,
            acked_end: 0,
            resend: None,
            attempt: 0,
            careful: None,
            suspects: Vec::new(),
            before: None,
            newest: 0,
            outdated: false,
            forsaken: false,
            spoilt: None,
            unsynced: false,
            last_sent: 0,
            last_synced: 0,
            next_n: 1,
            flights: VecDeque::new(),
            flying_bytes: 0,
            acked_through: 0,
            durable_through: 0,
            own_sync: 0,
            draining: false,
            base: None,
            base_owed: false,
            look_first: false,
            last_write: now,
            oldest_unsynced: None,
        }
    }

    fn base(&self) -> u64 {
        u64::from(self.index) * CHUNK_BYTES
    }

    /// The part of this chunk below the file's length `length`.
    pub(crate) fn within(&self, length: u64) -> u32 {
        u32::try_from(length.saturating_sub(self.base()).min(CHUNK_BYTES)).expect("a chunk's size fits")
    }

    pub(crate) fn write(&mut self, offset: u32, data: Bytes, write: u64, now: Instant) {
        self.buffer.insert(offset, data, write);
        self.last_write = now;
        self.oldest_unsynced.get_or_insert(now);
    }

    /// The end in the file of the furthest byte that the leader was not told of; 0 when there is none.
    pub(crate) fn untold_end(&self) -> u64 {
        match self.buffer.untold_end() {
            0 => 0,
            end => self.base() + u64::from(end),
        }
    }

    /// The last fragment of the acknowledged prefix.
    pub(crate) fn acked_n(&self) -> u64 {
        self.flights.front().map_or(self.next_n, |flight| flight.n) - 1
    }

    /// The end in the file of the furthest acknowledged byte; 0 when there is none.
    pub(crate) fn acked_file_end(&self) -> u64 {
        if self.acked_end == 0 { 0 } else { self.base() + u64::from(self.acked_end) }
    }

    /// W9: acknowledged bytes whose length, or whose chunk, is not committed yet.
    pub(crate) fn is_news(&self, committed_length: u64) -> bool {
        self.phase == Phase::Held && self.acked_end > 0 && (self.is_new || self.acked_file_end() > committed_length)
    }

    /// All writes up to this one are acknowledged by the chain, or their bytes are gone from here for good.
    pub(crate) fn acked_up_to(&self, write: u64) -> u64 {
        match self.buffer.oldest_unsent() {
            None if self.flights.is_empty() && self.phase != Phase::Inlining => write,
            _ => self.acked_through,
        }
    }

    pub(crate) fn is_acked(&self, write: u64) -> bool {
        self.acked_up_to(write) >= write
            || (self.flights.is_empty()
                && self.phase != Phase::Inlining
                && self.buffer.oldest_unsent().is_none_or(|oldest| oldest > write))
    }

    /// W5, W6: all writes up to `write` are on the disks of all holders, and their length is committed.
    pub(crate) fn is_durable(&self, write: u64, committed_length: u64) -> bool {
        let on_disk = self.durable_through >= write || !self.buffer.has_unsynced();
        let limit = if self.is_new { 0 } else { self.within(committed_length) };
        on_disk && !self.buffer.reaches_beyond(limit, write)
    }

    /// W5: everything has been sent again and acknowledged, and the leader does not know it yet.
    pub(crate) fn resend_done(&self) -> bool {
        self.phase == Phase::Held && self.resend.is_some_and(|write| self.is_acked(write))
    }

    /// Nothing to do and nothing held.
    pub(crate) fn is_quiet(&self) -> bool {
        self.phase == Phase::Free && self.buffer.is_empty() && self.resend.is_none()
    }

    /// A call about this chunk's grant is under way that changes something at the leader.
    pub(crate) fn is_calling(&self) -> bool {
        matches!(self.phase, Phase::Taking | Phase::Reporting | Phase::Ending)
    }

    /// Decides what to do now.
    pub(crate) fn plan(&mut self, want: &Want, out: &mut Vec<Action>) {
        self.note_own_sync(want);
        if want.paused {
            return;
        }
        let sync = want.sync.max(self.own_sync);
        let flush = want.flush.max(sync).max(self.resend.unwrap_or(0));
        match self.phase {
            // I2: its bytes go with a write-end.
            Phase::Free if self.may_inline(want.inline_limit) => {}
            // What a write-end under way has told of must be known before anything is sent again.
            Phase::Free if self.forsaken && want.committing => {}
            Phase::Free => {
                let forced = self.buffer.oldest_unsent().is_some_and(|oldest| oldest <= flush);
                let much = self.buffer.dirty_bytes() >= u64::from(caribou_proto::ids::MAX_FRAGMENT_BYTES);
                if forced || much || self.resend.is_some() {
                    let (index, attempt) = (self.index, self.attempt);
                    if std::mem::take(&mut self.look_first) {
                        self.phase = Phase::Waiting;
                        out.push(Action::Wait { index, attempt });
                    } else {
                        self.phase = Phase::Taking;
                        out.push(Action::TakeGrant { index, attempt });
                    }
                }
            }
            Phase::Broken if !want.committing => {
                self.phase = Phase::Reporting;
                let held = self.held.clone().expect("a broken chunk had a grant");
                out.push(Action::Report { held, suspects: std::mem::take(&mut self.suspects), attempt: self.attempt });
            }
            Phase::Held if !self.draining => self.send(want.write, flush, sync, out),
            _ => {}
        }
        if self.may_end(want) {
            self.phase = Phase::Ending;
            let held = self.held.clone().expect("a held chunk has a grant");
            out.push(Action::End { held, attempt: self.attempt });
        }
    }

    /// W5: idle or old un-synced bytes are a reason for a sync that nobody asked for.
    fn note_own_sync(&mut self, want: &Want) {
        if !self.buffer.has_unsynced() {
            (self.oldest_unsynced, self.own_sync) = (None, 0);
            return;
        }
        let old = self.oldest_unsynced.is_some_and(|since| want.now >= since + want.sync_after * AGE_FACTOR);
        let due = old || want.now >= self.last_write + want.sync_after;
        if due && self.own_sync <= self.durable_through && !self.recalled {
            self.own_sync = want.write;
        }
    }

    /// W8: what is written up to now is synced, then the grant ends; what comes later waits for the next grant.
    pub(crate) fn recall(&mut self, write: u64) {
        if !self.recalled {
            self.recalled = true;
            self.own_sync = self.own_sync.max(write);
        }
    }

    fn send(&mut self, newest: u64, flush: u64, sync: u64, out: &mut Vec<Action>) {
        let held = self.held.clone().expect("a held chunk has a grant");
        let mut sent = self.send_base(&held, out);
        while self.flying_bytes < WINDOW_BYTES {
            let force = self.buffer.oldest_unsent().is_some_and(|oldest| oldest <= flush);
            let taken = match self.careful {
                None => self.buffer.take(self.next_n, force),
                Some(_) if self.flights.is_empty() => self.buffer.take_of_block(self.next_n),
                Some(_) => None,
            };
            let Some((offset, data)) = taken else { break };
            sent = true;
            self.fly(&held, offset, data, false, out);
            self.last_sent = self.next_n - 1;
        }
        let unsent = self.buffer.oldest_unsent();
        let through = unsent.map_or(newest, |oldest| oldest - 1);
        // W8: what comes after the recall waits for the next grant. The last that leaves under this one is synced, asked for or not: later
        // writes may have left together with those that the recall waits for.
        self.draining |= self.recalled && through >= self.own_sync;
        let (asked, covered) = match self.draining {
            true => (true, self.flights.iter().any(|flight| flight.sync && flight.n >= self.last_sent)),
            false => (
                sync > self.durable_through && through >= sync,
                self.flights.iter().any(|flight| flight.sync && flight.through >= sync),
            ),
        };
        if asked && !covered && self.last_sent > self.last_synced {
            // W6: the flag rides on the last fragment if that leaves now.
            match out.last_mut() {
                Some(Action::Send { sync, .. }) if sent => *sync = true,
                _ => self.fly(&held, 0, Bytes::new(), true, out),
            }
            let flight = self.flights.back_mut().expect("a fragment was just sent");
            flight.sync = true;
            sent = true;
        }
        if sent {
            self.flights.back_mut().expect("a fragment was just sent").through = through;
        }
    }

    fn fly(&mut self, held: &Held, offset: u32, data: Bytes, sync: bool, out: &mut Vec<Action>) {
        let n = self.next_n;
        self.next_n += 1;
        let len = u32::try_from(data.len()).expect("fragments are short");
        self.flying_bytes += u64::from(len);
        self.flights.push_back(Flight { n, offset, len, through: 0, sync, acked: false });
        out.push(Action::Send { epoch: self.epoch, n, held: held.clone(), offset, data, sync });
    }

    /// Fragment `n` is acknowledged by all holders, at the incarnations that the grant names (W3, W6).
    pub(crate) fn acked(&mut self, epoch: u64, n: u64) {
        if epoch != self.epoch {
            return;
        }
        let Some(first) = self.flights.front().map(|flight| flight.n) else { return };
        // Numbers of one epoch follow each other.
        let Some(flight) = n.checked_sub(first).and_then(|at| self.flights.get_mut(at as usize)) else { return };
        flight.acked = true;
        self.flying_bytes -= u64::from(flight.len);
        self.attempt = 0;
        while self.flights.front().is_some_and(|flight| flight.acked) {
            let flight = self.flights.pop_front().expect("it was just seen");
            if flight.len > 0 {
                self.buffer.acked(flight.n, flight.offset, flight.len);
                self.acked_end = self.acked_end.max(flight.offset + flight.len);
                if let Some(careful) = self.careful.as_mut().filter(|c| c.block == flight.offset / BLOCK_BYTES) {
                    careful.times = 0;
                }
                self.untold = true;
            }
            self.acked_through = self.acked_through.max(flight.through);
            if flight.sync {
                self.buffer.synced(flight.n);
                self.last_synced = flight.n;
                self.durable_through = self.durable_through.max(flight.through);
                self.oldest_unsynced = self.buffer.has_unsynced().then_some(self.last_write);
                self.careful = self.careful.filter(|careful| careful.until > self.durable_through);
            }
        }
    }

    /// Clean, told and unused, or wanted by somebody else: the grant may go (W7, W8).
    fn may_end(&self, want: &Want) -> bool {
        let told = if self.recalled { !self.untold && !want.committing } else { !want.commit_open } || self.is_unused();
        let clean = self.is_settled() && !self.buffer.has_synced() && self.resend.is_none();
        clean && told && !self.is_news(want.committed_length) && self.wants_end(want)
    }

    /// W2: the chunk exists for readers; the token makes no replicas any more.
    pub(crate) fn first_write_end(&mut self) {
        self.is_new = false;
        self.base = None;
        if let Some(held) = &mut self.held {
            held.create = false;
        }
    }

    /// W2: nothing was ever acknowledged under the token, so there may be no replica anywhere: no write-end may name it.
    pub(crate) fn is_unused(&self) -> bool {
        self.is_new && self.acked_end == 0
    }

    /// All that was sent under this grant is synced, and no more will be sent as things stand.
    pub(crate) fn is_settled(&self) -> bool {
        self.phase == Phase::Held
            && self.flights.is_empty()
            && self.last_sent <= self.last_synced
            && ((self.recalled && self.draining) || !self.buffer.has_unsynced())
    }

    /// Nobody needs the grant any more.
    pub(crate) fn wants_end(&self, want: &Want) -> bool {
        // P5: no write-end can name it, so that the file's time would wait for it.
        let in_the_way = want.commit_open && self.is_unused() && self.buffer.is_empty();
        let is_over = || want.now >= self.end_due(want.sync_after, want.in_use);
        self.phase == Phase::Held && (self.recalled || in_the_way || is_over())
    }

    fn end_due(&self, sync_after: Duration, in_use: bool) -> Instant {
        self.last_write + sync_after * if in_use { KEEP_FACTOR } else { 1 }
    }

    /// When this chunk wants to be looked at again although nothing happens.
    pub(crate) fn deadline(&self, sync_after: Duration, in_use: bool) -> Option<Instant> {
        if self.buffer.has_unsynced() && self.own_sync <= self.durable_through {
            let old = self.oldest_unsynced.map(|since| since + sync_after * AGE_FACTOR);
            return Some((self.last_write + sync_after).min(old.unwrap_or(self.last_write + sync_after)));
        }
        (self.phase == Phase::Held).then(|| self.end_due(sync_after, in_use))
    }
}
