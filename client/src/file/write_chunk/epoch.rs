//! How a chunk's epochs begin and end: grants given, broken, lost, ended, cut (W2, W4, W5, W7, W9).

use std::ops::Range;

use bytes::Bytes;
use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::BLOCK_BYTES;
use caribou_proto::meta::v1::Grant;

use super::super::action::{Broken, Held, Phase};
use super::{Careful, REFUSALS, WriteChunk};

impl WriteChunk {
    /// W4: the stream broke, or an acknowledgement was not what it should be. The bytes within the chunk that are lost: nobody can take them.
    pub(crate) fn broke(&mut self, epoch: u64, broken: Broken, write: u64) -> Option<Range<u32>> {
        if epoch != self.epoch || self.phase != Phase::Held {
            return None;
        }
        self.attempt += 1;
        let lost = broken.refused.and_then(|n| self.refused(n, write));
        self.suspects = broken.suspects;
        self.end_epoch(write);
        self.phase = Phase::Broken;
        lost
    }

    /// P5: else the chunk would be recovered again and again, and who waits for a sync would wait for ever.
    fn refused(&mut self, n: u64, write: u64) -> Option<Range<u32>> {
        // W2: a new chunk is made anew, elsewhere.
        let flight = self.flights.iter().find(|flight| flight.n == n && flight.len > 0 && !self.is_new)?;
        let (bytes, block) = (flight.offset..flight.offset + flight.len, flight.offset / BLOCK_BYTES);
        let times = match self.careful {
            // Who answers first need not be the one that was refused.
            None => 0,
            Some(careful) if careful.block == block => careful.times + 1,
            Some(_) => 1,
        };
        let lost = times >= REFUSALS && self.buffer.drop_flight(n);
        self.careful = Some(Careful { until: write, block, times: if lost { 0 } else { times } });
        lost.then_some(bytes)
    }

    /// W9: the grant is no longer current (or the session that had it has ended, S4).
    pub(crate) fn lost(&mut self, write: u64) {
        // In the other phases there is no grant to lose, or its end is being reported already.
        if matches!(self.phase, Phase::Held | Phase::Ending) {
            self.end_epoch(write);
            self.held = None;
            // Not taken at once: the wait brings the length, and with it what somebody else has cut off (W9).
            self.phase = Phase::Free;
            self.look_first = true;
        }
    }

    fn end_epoch(&mut self, write: u64) {
        if let Some(held) = &self.held {
            self.spoilt = Some((held.chunk, held.version));
            self.newest = held.grant;
            self.before = Some(held.clone());
        }
        self.epoch += 1;
        self.unsynced |= self.last_sent > self.last_synced;
        (self.base, self.base_owed) = (None, false);
        self.flights.clear();
        self.flying_bytes = 0;
        self.buffer.reset();
        self.last_sent = self.last_synced;
        (self.acked_through, self.durable_through, self.acked_end) = (0, 0, 0);
        self.resend = Some(write);
        (self.draining, self.recalled) = (false, false);
    }

    /// S4: the session has ended, and with it the grant, and what kept others from writing here.
    pub(crate) fn session_ended(&mut self) {
        self.outdated = matches!(self.phase, Phase::Taking | Phase::Reporting);
        self.forsaken = true;
        self.buffer.leave_to_others();
    }

    /// W9: a write-end that told of all fragments up to `n` under `grant` is committed. Its answer may come after the epoch's end, and after the session's.
    pub(crate) fn told(&mut self, grant: u64, n: u64) {
        let is_of = |held: &Option<Held>| held.as_ref().is_some_and(|held| held.grant == grant);
        if is_of(&self.held) || is_of(&self.before) {
            self.buffer.told(n);
            if self.forsaken {
                self.buffer.leave_to_others();
            }
        }
    }

    /// The answer to taking a grant or to reporting a broken one: the bytes within the chunk that are lost with it, if any.
    /// `inline`: what the metadata has of the chunk, if it is new (I3).
    pub(crate) fn granted(&mut self, grant: &Grant, inline: Option<Bytes>) -> Option<Range<u32>> {
        if self.outdated {
            // It ended with its session, or is asked for again.
            self.pass_over(grant);
            self.not_granted(false);
            return None;
        }
        let held = Held::new(grant);
        self.clipped(grant.clip);
        self.epoch += 1;
        let was_new = std::mem::replace(&mut self.is_new, held.create);
        self.base = inline.filter(|bytes| self.is_new && !bytes.is_empty());
        self.base_owed = self.base.is_some();
        (self.recalled, self.draining, self.acked_end) = (false, false, 0);
        // W4: never again at the same version, whatever the leader thinks of this grant.
        let spoilt = self.spoilt.is_some_and(|(chunk, version)| held.chunk == chunk && held.version <= version);
        let other_chunk = self.spoilt.is_some_and(|(chunk, _)| held.chunk != chunk);
        self.held = Some(held);
        // W7: nor does it end as if all were synced, when a cut that the servers did not make has emptied the buffer.
        let unsynced = std::mem::take(&mut self.unsynced);
        if spoilt && (unsynced || !self.buffer.is_empty()) {
            self.pass_over(grant);
            self.attempt += 1;
            self.phase = Phase::Broken;
            return None;
        }
        if other_chunk {
            // W9: a chunk that was told does not go to garbage; somebody has cut it off, and what was told with it.
            self.buffer.cut_told(0);
            if was_new {
                // W2: it was a hole to readers until it went to garbage: nobody has seen what was sent.
                self.buffer.keep_nothing();
            }
        }
        let lost = self.keep_told(grant);
        if self.is_new && self.buffer.is_empty() {
            // W5: there is nothing to send again, and nothing that a reader could wait for.
            self.resend = None;
        }
        (self.spoilt, self.forsaken) = (None, false);
        self.phase = Phase::Held;
        lost
    }

    /// A grant under which nothing is sent: whether others came between is asked of the next.
    fn pass_over(&mut self, grant: &Grant) {
        if grant.before == self.newest {
            self.newest = grant.grant;
        }
    }

    /// M12: somebody has cut the file here since the last write-end, and may have made it longer again: what was told beyond was written
    /// before, and must not come back.
    pub(crate) fn clipped(&mut self, clip: Option<u32>) {
        if let Some(clip) = clip {
            self.buffer.cut_told(clip);
        }
    }

    /// W5: if a holder of the epoch that ended is among the new ones and has not restarted, recovery has kept what all had acknowledged: while
    /// the session lives the leader lets nobody else write meanwhile (ADR 5), but others may have seen it. It leaves the buffer, as ever, only after a
    /// sync under this grant. The rest is sent again. After the session's end: [`Self::settle_theirs`].
    fn keep_told(&mut self, grant: &Grant) -> Option<Range<u32>> {
        let before = self.before.take().filter(|before| before.chunk == grant.chunk);
        let mut lost = None;
        if self.buffer.has_theirs() {
            lost = self.settle_theirs(grant, before.map_or(0, |before| before.grant));
        } else if let Some(before) = before {
            let stayed = |old: &Holder| {
                let is_same = |new: &Holder| (new.server_id, new.incarnation) == (old.server_id, old.incarnation);
                grant.holders.iter().any(is_same)
            };
            if before.holders.iter().any(stayed) && self.buffer.keep(self.next_n) {
                self.last_sent = self.next_n;
                self.next_n += 1;
                self.own_sync = self.own_sync.max(1);
            }
        }
        self.buffer.keep_nothing();
        lost
    }

    /// S4, P2: after the session's end others may have written over what they had been told of, and over what was sent, of which nobody knows
    /// what became. What the recovery of `own` has kept is not sent again; what it has not (or may not have), only if nobody else has had a
    /// grant since: else the bytes that are lost.
    fn settle_theirs(&mut self, grant: &Grant, own: u64) -> Option<Range<u32>> {
        if grant.unkept < own {
            self.buffer.release_theirs();
        }
        if grant.before == self.newest { None } else { self.buffer.drop_theirs() }
    }

    /// Not now: wait for the chunk first, or take a grant anew at once (`again`, W2: the chunk went to garbage).
    pub(crate) fn not_granted(&mut self, again: bool) {
        self.attempt += 1;
        (self.held, self.outdated) = (None, false);
        self.look_first = !again;
        self.phase = Phase::Free;
    }

    /// The wait is over, or a call came to nothing: to be tried anew.
    pub(crate) fn try_again(&mut self) {
        self.outdated = false;
        self.phase = match self.phase {
            Phase::Ending => Phase::Held,
            Phase::Reporting => Phase::Broken,
            _ => Phase::Free,
        };
    }

    /// Counts one more call that came to nothing.
    pub(crate) fn failed_call(&mut self) {
        self.attempt += 1;
        self.try_again();
    }

    /// W7: ended cleanly; a next grant may come at the same version.
    pub(crate) fn ended(&mut self) {
        self.held = None;
        self.epoch += 1;
        self.attempt = 0;
        self.phase = Phase::Free;
        (self.recalled, self.draining, self.acked_end, self.untold) = (false, false, 0, false);
        (self.spoilt, self.careful) = (None, None);
    }

    /// W9: the file was cut; this chunk's grant has ended with it.
    pub(crate) fn cut(&mut self, offset: u32, write: u64) {
        self.lost(write);
        self.buffer.cut(offset);
        // M1: a chunk that the cut goes through is held for this client, until it has said that it has nothing to send again either. One
        // that lies beyond the cut, or that is new, is gone, and its hold with it.
        let gone = offset == 0 || self.is_new;
        if gone && self.buffer.is_empty() && self.phase == Phase::Free {
            self.resend = None;
        }
    }
}
