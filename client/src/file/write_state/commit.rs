//! Write-ends of a file, one at a time: what they tell the leader, and what its answer means for the chunks that they name (W2, W5, W9, I2).

use caribou_proto::meta::v1::{ReplyBody, WrittenChunk};

use super::super::action::{Action, Phase, Want};
use super::super::write_chunk::WriteChunk;
use super::{Note, WriteState};

/// Chunks that one write-end names.
const MAX_NAMED: usize = 512;

/// A write-end under way.
#[derive(Debug)]
pub(super) struct Commit {
    id: u64,
    chunks: Vec<WrittenChunk>,
    /// The acknowledged fragments that it tells of, and where in the file they end, per chunk.
    acked: Vec<(u64, u64)>,
    /// Writes covered once this is committed.
    covers: u64,
    /// The number of the write whose time it carries: the newest.
    mtime_write: u64,
    /// I2: it carries the bytes of the first chunk.
    inline: bool,
}

impl WriteState {
    /// W9: one write-end for everything that is acknowledged, when somebody waits for it: a flush, a reader of a held chunk
    /// (W5), bytes that only wait for their length, or a grant that shall end (W7). It carries the bytes of a small file itself (I2).
    pub(super) fn plan_commit(&mut self, want: &Want, out: &mut Vec<Action>) {
        let small = self.chunks.get_mut(&0).filter(|chunk| chunk.wants_inline(want));
        let inline = small.map_or_else(Vec::new, WriteChunk::take_inline);
        let mut covers = self.write;
        let mut urgent = !inline.is_empty();
        let mut news = self.has_untold();
        let (mut named, mut acked) = (Vec::new(), Vec::new());
        let mut length = inline.iter().map(|w| u64::from(w.offset) + w.data.len() as u64).max().unwrap_or(0);
        for chunk in self.chunks.values() {
            if chunk.phase == Phase::Inlining {
                continue;
            }
            covers = covers.min(chunk.acked_up_to(self.write));
            if chunk.is_unused() {
                continue;
            }
            let (resent, is_news) = (chunk.resend_done(), chunk.is_news(self.length));
            let untold = is_news || chunk.untold || (self.has_untold() && !chunk.recalled);
            let ends = untold && chunk.wants_end(want) && chunk.is_settled();
            urgent |= resent || ends || (is_news && chunk.buffer.has_synced());
            news |= is_news;
            if named.len() == MAX_NAMED {
                // The rest comes with the next one.
                covers = self.committed;
                break;
            }
            if chunk.phase == Phase::Held && (resent || is_news || chunk.untold || ends) {
                let held = chunk.held.as_ref().expect("a held chunk has a grant");
                named.push(WrittenChunk { resent, inline_bytes: chunk.base_bytes(), ..held.written() });
                acked.push((chunk.acked_n(), chunk.acked_file_end()));
                length = length.max(chunk.acked_file_end());
            }
        }
        let flush = self.flush > self.committed && covers >= self.flush && news;
        // With no chunk left to name (they ended with the session) only the time is told.
        urgent |= self.chunks.is_empty() && self.has_untold();
        let is_empty = named.is_empty() && inline.is_empty();
        if !(urgent || flush) || (is_empty && !self.chunks.is_empty()) {
            return;
        }
        // The newest write's time; what has been told already is told again, since 0 would mean "now".
        let mtime_ns = if self.mtime_ns == 0 { 1 } else { self.mtime_ns };
        let length = if length > self.length { length } else { 0 };
        let id = self.next_commit;
        self.next_commit += 1;
        let carries = !inline.is_empty();
        out.push(Action::WriteEnd {
            id,
            length,
            mtime_ns,
            chunks: named.clone(),
            inline,
            attempt: self.commit_attempt,
        });
        self.commit = Some(Commit { id, chunks: named, acked, covers, mtime_write: self.write, inline: carries });
    }

    /// The answer to a write-end.
    /// True if it changed the file.
    pub(crate) fn write_ended(&mut self, id: u64, body: &ReplyBody) -> bool {
        let Some(commit) = self.commit.take_if(|commit| commit.id == id) else { return false };
        let parts = commit.chunks.len() + usize::from(commit.inline);
        let changed = parts == 0 || body.lost.len() < parts;
        self.commit_attempt = 0;
        self.set_length(body.length);
        if commit.inline {
            self.inline_ended(body.lost.contains(&0), commit.mtime_write);
        }
        for (told, (acked, end)) in commit.chunks.iter().zip(commit.acked) {
            let Some(chunk) = self.chunks.get_mut(&told.index) else { continue };
            if chunk.held.as_ref().is_none_or(|held| held.grant != told.grant) {
                continue;
            }
            if body.lost.contains(&told.index) {
                self.notes.push(Note::Moved(told.index));
                chunk.lost(self.write);
                continue;
            }
            chunk.first_write_end();
            // The length counts only if the chunk of its last byte was still granted.
            if chunk.phase == Phase::Held && end <= body.length {
                chunk.buffer.told(acked);
            }
            if told.resent && chunk.resend_done() {
                chunk.resend = None;
            }
            chunk.untold = false;
            if chunk.phase == Phase::Held {
                self.notes.push(Note::Placed(chunk.held.clone().expect("it was just compared")));
            }
        }
        if body.lost.is_empty() {
            self.committed = self.committed.max(commit.covers);
            self.mtime_told = self.mtime_told.max(commit.mtime_write);
        }
        self.release();
        changed
    }

    /// I2: the write-end that carried the first chunk's bytes is answered.
    fn inline_ended(&mut self, refused: bool, write: u64) {
        self.is_chunked |= refused;
        self.notes.push(Note::Moved(0));
        let Some(chunk) = self.chunks.get_mut(&0) else { return };
        if refused { chunk.not_inlined() } else { chunk.inlined(write) }
    }

    /// The write-end came to nothing and shall be tried anew.
    pub(crate) fn write_end_failed(&mut self, id: u64) {
        let Some(commit) = self.commit.take_if(|commit| commit.id == id) else { return };
        self.commit_attempt += 1;
        if commit.inline
            && let Some(chunk) = self.chunks.get_mut(&0)
        {
            chunk.not_inlined();
        }
    }
}
