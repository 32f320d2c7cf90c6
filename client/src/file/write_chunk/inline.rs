//! The first chunk of a small file: its bytes go into the metadata with a write-end, without a grant (I2), and once they are too many they
//! move into a chunk (I3).

use caribou_proto::meta::v1::InlineWrite;

use super::super::action::{Action, Held, Phase, Want};
use super::WriteChunk;

impl WriteChunk {
    /// I2: everything that is buffered may go into the metadata: it is little, and this client has had no grant of the chunk lately.
    pub(crate) fn may_inline(&self, limit: u32) -> bool {
        // The lower half of the epoch counts those of this life.
        let untouched = self.phase == Phase::Free && self.epoch as u32 == 0 && self.resend.is_none();
        self.index == 0 && untouched && self.buffer.end() <= limit
    }

    /// Somebody waits for bytes that may go into the metadata.
    pub(crate) fn wants_inline(&self, want: &Want) -> bool {
        let due = want.flush.max(want.sync).max(self.own_sync);
        self.may_inline(want.inline_limit) && self.buffer.oldest_unsent().is_some_and(|oldest| oldest <= due)
    }

    /// Everything that is buffered, for a write-end to carry.
    pub(crate) fn take_inline(&mut self) -> Vec<InlineWrite> {
        self.phase = Phase::Inlining;
        let (buffer, n) = (&mut self.buffer, self.next_n);
        let writes = std::iter::from_fn(|| buffer.take(n, true)).map(|(offset, data)| InlineWrite { offset, data });
        let writes = writes.collect();
        self.next_n += 1;
        writes
    }

    /// The write-end is committed; it carried all writes up to `write`.
    pub(crate) fn inlined(&mut self, write: u64) {
        self.buffer.drop_flight(self.next_n - 1);
        self.phase = Phase::Free;
        self.acked_through = self.acked_through.max(write);
        self.durable_through = self.durable_through.max(write);
        self.oldest_unsynced = self.buffer.has_unsynced().then_some(self.last_write);
    }

    /// The write-end came to nothing, or its bytes were refused.
    pub(crate) fn not_inlined(&mut self) {
        self.buffer.all_again();
        self.phase = Phase::Free;
    }

    /// I3: bytes of inline data that are in the new chunk, once a write-end may name it.
    pub(crate) fn base_bytes(&self) -> u32 {
        self.base.as_ref().map_or(0, |base| u32::try_from(base.len()).expect("inline data are few"))
    }

    /// I3: the metadata's bytes come first, so that what is buffered is written over them, and they are synced before a write-end can
    /// name the chunk: with it they leave the metadata.
    pub(super) fn send_base(&mut self, held: &Held, out: &mut Vec<Action>) -> bool {
        if !std::mem::take(&mut self.base_owed) {
            return false;
        }
        let base = self.base.clone().expect("what is owed is there");
        self.fly(held, 0, base, true, out);
        self.last_sent = self.next_n - 1;
        let flight = self.flights.back_mut().expect("a fragment was just sent");
        flight.sync = true;
        true
    }
}
