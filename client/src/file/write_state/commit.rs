//! Write-ends of a file, one at a time: what they tell the leader, and what its answer means for the chunks that they name (W2, W5, W9, I2).

use caribou_proto::meta::v1::{InlineWrite, ReplyBody, WriteEnd, WrittenChunk};

use super::super::action::{Action, Phase, Want};
use super::super::write_chunk::WriteChunk;
use super::{Note, WriteState};

/// Chunks that one write-end names.
const MAX_NAMED: usize = 512;
/// Inline writes that are refused in a row before the file is treated as one with a first chunk.
const MAX_REFUSED: u32 = 4;

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
    /// I2: it carries the bytes of the first chunk …
    inline: bool,
    /// … which are laid over this content.
    data_generation: u64,
}

fn end(inline: &[InlineWrite]) -> u64 {
    inline.iter().map(|write| u64::from(write.offset) + write.data.len() as u64).max().unwrap_or(0)
}

impl WriteState {
    /// W9: one write-end for everything that is acknowledged, when somebody waits for it: a flush, a reader of a held chunk
    /// (W5), bytes that only wait for their length, or a grant that shall end (W7). It carries the bytes of a small file itself (I2).
    pub(super) fn plan_commit(&mut self, want: &Want, data_generation: u64, out: &mut Vec<Action>) {
        let small = self.chunks.get_mut(&0).filter(|chunk| chunk.wants_inline(want));
        let inline = small.map_or_else(Vec::new, WriteChunk::take_inline);
        let mut covers = self.write;
        let mut urgent = !inline.is_empty();
        let mut news = self.has_untold();
        let (mut named, mut acked) = (Vec::new(), Vec::new());
        let mut length = end(&inline);
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
        let (id, mtime_write, carries) = (0, 0, !inline.is_empty());
        let commit = Commit { id, chunks: named, acked, covers, mtime_write, inline: carries, data_generation };
        let write = self.begin(commit, length, inline);
        out.push(Action::WriteEnd { id: self.next_commit - 1, write, attempt: self.commit_attempt });
    }

    /// I2: the write-end that tells all that is untold of this file, if that is the bytes of a small one: its number and itself, for
    /// another call to take along. Its answer goes to [`Self::write_ended`], its failure to [`Self::write_end_failed`].
    pub(crate) fn carry(&mut self, inline_limit: u32, data_generation: u64) -> Option<(u64, WriteEnd)> {
        if self.commit.is_some() || self.paused || self.chunks.len() != 1 {
            return None;
        }
        let limit = self.inline_limit(inline_limit);
        let chunk = self.chunks.get_mut(&0).filter(|chunk| chunk.may_inline(limit) && !chunk.buffer.is_empty())?;
        let inline = chunk.take_inline();
        let (chunks, acked, covers) = (Vec::new(), Vec::new(), self.write);
        let commit = Commit { id: 0, chunks, acked, covers, mtime_write: 0, inline: true, data_generation };
        let write = self.begin(commit, end(&inline), inline);
        Some((self.next_commit - 1, write))
    }

    /// Numbers the write-end and says what it tells; `length`: the end of the furthest byte that it tells of.
    fn begin(&mut self, commit: Commit, length: u64, inline: Vec<InlineWrite>) -> WriteEnd {
        let id = self.next_commit;
        self.next_commit += 1;
        let (chunks, data_generation) = (commit.chunks.clone(), commit.data_generation);
        self.commit = Some(Commit { id, mtime_write: self.write, ..commit });
        // The newest write's time; what has been told already is told again, since 0 would mean "now".
        let mtime_ns = if self.mtime_ns == 0 { 1 } else { self.mtime_ns };
        // W9: told whatever this client takes the length for: another one may have cut the file.
        WriteEnd { inode: 0, length, mtime_ns, chunks, inline, data_generation }
    }

    /// The answer to a write-end.
    pub(crate) fn write_ended(&mut self, id: u64, body: &ReplyBody) {
        let Some(commit) = self.commit.take_if(|commit| commit.id == id) else { return };
        self.commit_attempt = 0;
        self.set_length(body.length);
        if commit.inline {
            let refused = body.lost.contains(&0);
            let is_late = body.attr.is_some_and(|attr| attr.data_generation != commit.data_generation);
            self.refused = if refused { self.refused + 1 } else { 0 };
            // Refused for its own generation, it says that the file has a first chunk. Who loses against another writer again and again takes
            // a grant: that decides who writes (W8).
            self.is_chunked |= refused && (!is_late || self.refused >= MAX_REFUSED);
            self.inline_ended(refused, commit.mtime_write);
        }
        let is_committed = commit.acked.iter().all(|(_, end)| *end <= body.length);
        for (told, (acked, end)) in commit.chunks.iter().zip(commit.acked) {
            let Some(chunk) = self.chunks.get_mut(&told.index) else { continue };
            // The length counts only if the chunk of its last byte was still granted.
            if !body.lost.contains(&told.index) && end <= body.length {
                chunk.told(told.grant, acked);
            }
            if chunk.held.as_ref().is_none_or(|held| held.grant != told.grant) {
                continue;
            }
            if body.lost.contains(&told.index) {
                self.notes.push(Note::Moved(told.index));
                chunk.lost(self.write);
                continue;
            }
            chunk.first_write_end();
            if told.resent && chunk.resend_done() {
                chunk.resend = None;
            }
            chunk.untold = false;
            if chunk.phase == Phase::Held {
                self.notes.push(Note::Placed(chunk.held.clone().expect("it was just compared")));
            }
        }
        if body.lost.is_empty() && is_committed {
            self.committed = self.committed.max(commit.covers);
            self.mtime_told = self.mtime_told.max(commit.mtime_write);
        }
        self.release();
    }

    /// I2: the write-end that carried the first chunk's bytes is answered.
    fn inline_ended(&mut self, refused: bool, write: u64) {
        self.notes.push(Note::Moved(0));
        let Some(chunk) = self.chunks.get_mut(&0) else { return };
        if refused { chunk.not_inlined() } else { chunk.inlined(write) }
    }

    /// Nobody can say what became of the write-end: what it carried leaves the buffer. False if it carried nothing.
    pub(crate) fn forget_inline(&mut self, id: u64) -> bool {
        let Some(commit) = self.commit.take_if(|commit| commit.id == id && commit.inline) else { return false };
        self.inline_ended(false, commit.mtime_write);
        self.committed = self.committed.max(commit.covers);
        self.mtime_told = self.mtime_told.max(commit.mtime_write);
        true
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
