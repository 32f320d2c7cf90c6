//! Everything that this client has written to one file and that is not settled yet (W1–W9). Pure: [`WriteState::plan`] says
//! what to do, the other methods take what came of it. `driver.rs` carries it out, `inode.rs` guards it with a lock.
//!
//! Writes are numbered. A flush or an fsync names the newest write that it must cover, and is done when every chunk has reached
//! it; what is written later never delays it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::ids::{CHUNK_BYTES, SessionId};
use caribou_proto::meta::v1::{Grant, GrantState};
use tokio::time::Instant;

use super::action::{Action, Broken, Held, Phase, Want};
use super::write_chunk::WriteChunk;
use crate::Error;
use commit::Commit;

mod commit;

/// What the readers of the file have to know.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Note {
    /// The chunk has a write-end: readers find it here.
    Placed(Held),
    /// The chunk's place or version is no longer what it was.
    Moved(u32),
}

/// What a plan depends on beside the state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Planning {
    pub(crate) now: Instant,
    pub(crate) sync_after: Duration,
    /// The file is open for writing.
    pub(crate) in_use: bool,
    /// I1.
    pub(crate) inline_limit: u32,
    /// I2: the file's, as this client knows it.
    pub(crate) data_generation: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct WriteState {
    chunks: BTreeMap<u32, WriteChunk>,
    /// Chunks that there have been in `chunks`, the same ones again included.
    lives: u32,
    /// The newest write's number.
    pub(crate) write: u64,
    /// The committed length as far as this client knows (W9).
    pub(crate) length: u64,
    /// Time of the newest write, or of what the leader last said.
    pub(crate) mtime_ns: i64,
    /// Time of the newest write: its ctime, whatever mtime was set since; 0 before the first.
    pub(crate) written_ns: i64,
    /// The write whose time the leader has.
    mtime_told: u64,
    flush: u64,
    sync: u64,
    committed: u64,
    commit: Option<Commit>,
    commit_attempt: u32,
    next_commit: u64,
    pub(crate) paused: bool,
    /// No write-end starts.
    pub(crate) commits_held: bool,
    /// I2: the leader has refused inline data: the file has a first chunk.
    is_chunked: bool,
    /// Inline writes that were refused in a row.
    refused: u32,
    /// End every grant as soon as it is clean: the client shuts down.
    ending: bool,
    /// The last session whose end this file knows of.
    pub(crate) ended: SessionId,
    pub(crate) notes: Vec<Note>,
}

impl WriteState {
    /// `ended`: the session that ended last.
    pub(crate) fn new(length: u64, mtime_ns: i64, ended: SessionId) -> Self {
        Self {
            chunks: BTreeMap::new(),
            lives: 0,
            write: 0,
            length,
            mtime_ns,
            written_ns: 0,
            mtime_told: 0,
            flush: 0,
            sync: 0,
            committed: 0,
            commit: None,
            commit_attempt: 0,
            next_commit: 1,
            paused: false,
            commits_held: false,
            is_chunked: false,
            refused: 0,
            ending: false,
            ended,
            notes: Vec::new(),
        }
    }

    /// Takes bytes in. They may cross chunks.
    pub(crate) fn insert(&mut self, mut offset: u64, mut data: Bytes, mtime_ns: i64, now: Instant) {
        if data.is_empty() {
            return;
        }
        self.write += 1;
        (self.mtime_ns, self.written_ns) = (mtime_ns, mtime_ns);
        while !data.is_empty() {
            let index = u32::try_from(offset / CHUNK_BYTES).expect("the caller checks the greatest file size");
            let within = offset % CHUNK_BYTES;
            let len = (CHUNK_BYTES - within).min(data.len() as u64);
            let piece = data.split_to(usize::try_from(len).expect("a piece is in memory"));
            let (within, write) = (u32::try_from(within).expect("within a chunk"), self.write);
            self.chunk(index, now).write(within, piece, write, now);
            offset += len;
        }
    }

    fn chunk(&mut self, index: u32, now: Instant) -> &mut WriteChunk {
        self.chunks.entry(index).or_insert_with(|| {
            self.lives += 1;
            WriteChunk::new(index, self.lives, now)
        })
    }

    /// W1: the grant that came with the creation. If its session has ended since, the first write-end says so (W9): nobody was told of anything.
    pub(crate) fn adopt(&mut self, grant: &Grant, now: Instant) {
        let chunk = self.chunk(grant.index, now);
        if chunk.phase == Phase::Free && grant.state() == GrantState::Granted {
            chunk.granted(grant, None);
        }
    }

    /// The size of the file for this client: committed, or buffered here.
    pub(crate) fn size(&self) -> u64 {
        self.untold_end().max(self.length)
    }

    /// The end of the furthest byte that the leader was not told of; 0 when there is none.
    pub(crate) fn untold_end(&self) -> u64 {
        self.chunks.values().map(WriteChunk::untold_end).max().unwrap_or(0)
    }

    /// The buffered bytes of one chunk within `[start, end)`.
    pub(crate) fn snapshot(&self, index: u32, start: u32, end: u32) -> Vec<(u32, Bytes)> {
        self.chunks.get(&index).map_or_else(Vec::new, |chunk| chunk.buffer.snapshot(start, end))
    }

    /// Written bytes whose time or length the leader does not know.
    pub(crate) fn has_untold(&self) -> bool {
        self.mtime_told < self.write
    }

    pub(crate) fn charged(&self) -> u64 {
        self.chunks.values().map(|chunk| chunk.buffer.charged()).sum()
    }

    /// Everything written up to now shall be sent and its length committed; the answer goes to [`Self::is_flushed`].
    pub(crate) fn want_flush(&mut self) -> u64 {
        self.flush = self.flush.max(self.write);
        self.write
    }

    /// W6: everything written up to now shall be synced; the answer goes to [`Self::is_synced`].
    pub(crate) fn want_sync(&mut self) -> u64 {
        self.sync = self.sync.max(self.write);
        self.write
    }

    /// Sync all, then end every grant.
    pub(crate) fn want_end(&mut self) {
        self.sync = self.sync.max(self.write);
        self.ending = true;
    }

    /// W8.
    pub(crate) fn recall(&mut self, index: u32, grant: u64) {
        let write = self.write;
        if let Some(chunk) = self.chunks.get_mut(&index)
            && chunk.held.as_ref().is_some_and(|held| held.grant == grant)
        {
            chunk.recall(write);
        }
    }

    /// S4: the grants of this session, the last that has ended, are gone. What is buffered is sent again under new ones. Said once more when
    /// grants of the next session are there, it does nothing to them.
    pub(crate) fn session_ended(&mut self, session: SessionId) {
        if session > self.ended {
            self.ended = session;
            self.lose_grants(true);
            self.chunks.values_mut().for_each(WriteChunk::session_ended);
        }
    }

    /// Grants may be gone or not: each is taken anew, and the leader is told that there is nothing to send again (W5).
    pub(crate) fn grants_uncertain(&mut self) {
        self.lose_grants(false);
    }

    fn lose_grants(&mut self, session_ended: bool) {
        for chunk in self.chunks.values_mut().filter(|chunk| chunk.held.is_some()) {
            self.notes.push(Note::Moved(chunk.index));
            chunk.lost(self.write);
            if session_ended && chunk.buffer.is_empty() {
                // Whatever the chunk was held back for has ended with the session (W5).
                chunk.resend = None;
            }
        }
    }

    /// Close-to-open: all chains have the bytes, the leader has length and time.
    pub(crate) fn is_flushed(&self, write: u64) -> bool {
        self.committed >= write || (self.chunks.values().all(|chunk| chunk.is_acked(write)) && !self.commit_open())
    }

    /// W5, W6.
    pub(crate) fn is_synced(&self, write: u64) -> bool {
        self.chunks.values().all(|chunk| chunk.is_durable(write, self.length))
    }

    /// S4: a session has ended, and the next grant will say whether others have written over these bytes of a chunk since.
    pub(crate) fn is_disputed(&self, index: u32, start: u32, end: u32) -> bool {
        self.chunks.get(&index).is_some_and(|chunk| chunk.buffer.is_disputed(start, end))
    }

    /// The same of any bytes of the file before `size`.
    pub(crate) fn is_disputed_below(&self, size: u64) -> bool {
        self.chunks.values().any(|chunk| {
            let within = size.saturating_sub(u64::from(chunk.index) * CHUNK_BYTES).min(CHUNK_BYTES);
            chunk.buffer.is_disputed(0, within as u32)
        })
    }

    /// No call that changes something at the leader is under way.
    pub(crate) fn is_calm(&self) -> bool {
        self.commit.is_none() && !self.chunks.values().any(WriteChunk::is_calling)
    }

    /// A write-end is under way.
    pub(crate) fn is_committing(&self) -> bool {
        self.commit.is_some()
    }

    /// Nothing buffered, nothing held, nothing under way.
    pub(crate) fn is_quiet(&self) -> bool {
        self.commit.is_none() && !self.has_untold() && self.chunks.values().all(WriteChunk::is_quiet)
    }

    fn commit_open(&self) -> bool {
        self.has_untold() || self.chunks.values().any(|chunk| chunk.is_news(self.length) || chunk.resend.is_some())
    }

    /// I2: what may go into the metadata of this file where `limit` may of any.
    fn inline_limit(&self, limit: u32) -> u32 {
        if !self.is_chunked && self.length <= u64::from(limit) { limit } else { 0 }
    }

    /// What to do now, and when to ask again although nothing happens.
    pub(crate) fn plan(&mut self, planning: &Planning, out: &mut Vec<Action>) -> Option<Instant> {
        let now = planning.now;
        let in_use = planning.in_use && !self.ending;
        let sync_after = if self.ending { Duration::ZERO } else { planning.sync_after };
        let want = Want {
            now,
            sync_after,
            write: self.write,
            flush: self.flush,
            sync: self.sync,
            commit_open: self.has_untold() || self.commit.is_some(),
            committing: self.commit.is_some(),
            paused: self.paused,
            in_use,
            committed_length: self.length,
            inline_limit: self.inline_limit(planning.inline_limit),
        };
        for chunk in self.chunks.values_mut() {
            chunk.plan(&want, out);
        }
        self.chunks.retain(|_, chunk| !chunk.is_quiet());
        if !self.paused && !self.commits_held && self.commit.is_none() {
            self.plan_commit(&want, planning.data_generation, out);
        }
        self.chunks.values().filter_map(|chunk| chunk.deadline(sync_after, in_use)).filter(|due| *due > now).min()
    }

    /// W9, M12: the committed length as the leader just said. What was told and now lies beyond it has been cut off elsewhere.
    pub(crate) fn set_length(&mut self, length: u64) {
        let shorter = length < self.length;
        self.length = length;
        if shorter {
            // Nothing was left of the file for a moment at least; if it has a first chunk again, the leader will say so.
            self.is_chunked &= length > 0;
            for chunk in self.chunks.values_mut() {
                let limit = chunk.within(length);
                chunk.buffer.cut_told(limit);
            }
        }
    }

    /// W5: what is synced and committed leaves the buffer.
    fn release(&mut self) {
        for chunk in self.chunks.values_mut().filter(|chunk| !chunk.is_new) {
            let limit = chunk.within(self.length);
            chunk.buffer.release(limit);
        }
    }

    pub(crate) fn acked(&mut self, index: u32, epoch: u64, n: u64) {
        if let Some(chunk) = self.chunks.get_mut(&index) {
            chunk.acked(epoch, n);
            if !chunk.is_new {
                let limit = chunk.within(self.length);
                chunk.buffer.release(limit);
            }
        }
    }

    /// The bytes within the chunk that are lost (W5: an error for every handle).
    pub(crate) fn broke(&mut self, index: u32, epoch: u64, broken: Broken) -> Option<Range<u32>> {
        let chunk = self.chunks.get_mut(&index)?;
        self.notes.push(Note::Moved(index));
        chunk.broke(epoch, broken, self.write)
    }

    /// The answer to taking a grant or to a report: the bytes within the chunk that are lost (W5: an error for every handle).
    pub(crate) fn granted(&mut self, index: u32, grant: Option<&Grant>, inline: Option<Bytes>) -> Option<Range<u32>> {
        let chunk = self.chunks.get_mut(&index)?;
        if !matches!(chunk.phase, Phase::Taking | Phase::Reporting) {
            return None;
        }
        match grant {
            Some(grant) if grant.state() == GrantState::Granted && !grant.holders.is_empty() => {
                chunk.granted(grant, inline)
            }
            grant => {
                let again = grant.is_some_and(|grant| grant.state() == GrantState::Restart);
                chunk.not_granted(again);
                None
            }
        }
    }

    /// M12: `clip` came with the answer. So did the length, which has been set: see `set_length`.
    pub(crate) fn waited(&mut self, index: u32, clip: Option<u32>) {
        if let Some(chunk) = self.chunks.get_mut(&index)
            && chunk.phase == Phase::Waiting
        {
            chunk.clipped(clip);
            chunk.try_again();
        }
    }

    /// A call about a chunk's grant came to nothing and shall be tried anew.
    pub(crate) fn call_failed(&mut self, index: u32) {
        if let Some(chunk) = self.chunks.get_mut(&index)
            && chunk.is_calling()
        {
            chunk.failed_call();
        }
    }

    /// W7: the answer to the end of a grant.
    pub(crate) fn ended(&mut self, index: u32, grant: u64, lost: bool) {
        let Some(chunk) = self.chunks.get_mut(&index) else { return };
        if chunk.phase != Phase::Ending || chunk.held.as_ref().is_none_or(|held| held.grant != grant) {
            return;
        }
        if lost {
            self.notes.push(Note::Moved(index));
            chunk.lost(self.write);
        } else {
            chunk.ended();
        }
    }

    /// W9: this client has set the size; grants at or beyond the cut have ended.
    pub(crate) fn resized(&mut self, size: u64) {
        let cut = size < self.size();
        self.length = size;
        if !cut {
            return;
        }
        self.is_chunked &= size > 0;
        let first = u32::try_from(size / CHUNK_BYTES).unwrap_or(u32::MAX);
        for (index, chunk) in self.chunks.range_mut(first..) {
            let offset = chunk.within(size);
            chunk.cut(offset, self.write);
            self.notes.push(Note::Moved(*index));
        }
        self.chunks.retain(|_, chunk| !chunk.is_quiet());
    }

    /// The leader's times now, after this client has set them.
    pub(crate) fn set_mtime(&mut self, mtime_ns: i64) {
        self.mtime_ns = mtime_ns;
        self.mtime_told = self.write;
    }

    /// The bytes of a chunk can never be stored (W5: an error for every handle). True if there were any.
    pub(crate) fn give_up_chunk(&mut self, index: u32) -> bool {
        self.chunks.remove(&index).is_some_and(|chunk| !chunk.buffer.is_empty())
    }

    /// The file is gone. True if bytes were given up.
    pub(crate) fn give_up(&mut self) -> bool {
        self.commit = None;
        self.mtime_told = self.write;
        self.committed = self.write;
        std::mem::take(&mut self.chunks).into_values().any(|chunk| !chunk.buffer.is_empty())
    }

    /// Why a call about this file ends in giving bytes up; `None`: it is to be tried anew.
    pub(crate) fn verdict(error: &Error) -> Option<GiveUp> {
        match error {
            Error::Errno(libc::ENOENT | libc::ESTALE) => Some(GiveUp::Inode),
            // S4, S5: the outcome is unknown, and every call here may be made twice.
            Error::Errno(libc::EIO | libc::EINTR | libc::EAGAIN | libc::ETIMEDOUT | libc::ECANCELED) => None,
            Error::Errno(errno) => Some(GiveUp::Chunk(*errno)),
            // The client has been shut down: no call will ever be answered.
            Error::Fatal(_) => Some(GiveUp::Inode),
            Error::Refused(_) | Error::Unavailable(_) | Error::Interrupted => None,
        }
    }
}

/// How much an error takes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GiveUp {
    Inode,
    Chunk(i32),
}
