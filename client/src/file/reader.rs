//! Reads: the servers' bytes with this client's own buffer laid over (W5). Waits for chunks in recovery, asks the leader anew
//! when a place turns out to be old; EIO only when every replica of the current version is damaged (R1).
//!
//! The buffer is looked at *before* the servers are asked: bytes leave it only once the servers have them, so what is gone by
//! the time the answer comes is in the answer. It is looked at again afterwards, for what was written meanwhile.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use caribou_proto::ids::{CHUNK_BYTES, MAX_FRAGMENT_BYTES};
use caribou_proto::meta::v1::{GetAttr, Locate, WaitChunk};
use futures::future::{FutureExt, try_join_all};
use tokio::time::Instant;

use super::inode::{Inode, State};
use super::places::Found;
use super::ports::own_caller;
use super::read_ahead::AHEAD_BLOCK;
use crate::chunk::{self, Verdict};
use crate::meta::QueryOp;
use crate::{Error, errno};

/// Chunks whose places are asked for at once.
const LOCATE_COUNT: u32 = 16;
/// How often a place is asked for again because the file was changed meanwhile.
const MAX_ASKS: u32 = 4;
/// A read or an append at the end of the file believes a length no older than this.
const LENGTH_LIFE: Duration = Duration::from_secs(1);
/// Pause between attempts to read a chunk, doubled each time …
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// … up to this. (`WaitChunk` itself waits at the leader.)
const LAST_PAUSE: Duration = Duration::from_millis(500);

/// Somebody who looks after the client hears of a read that waits for this long.
const TELL_AFTER: Duration = Duration::from_secs(5);

/// A part of a read: within one chunk, within one block of read-ahead, at most 1 MiB.
struct Piece {
    index: u32,
    start: u32,
    end: u32,
    /// What is below the committed length; the rest is zeros unless it is buffered.
    base_end: u32,
    before: Vec<(u32, Bytes)>,
}

impl Piece {
    fn file_offset(&self) -> u64 {
        u64::from(self.index) * CHUNK_BYTES + u64::from(self.start)
    }

    fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// The buffer has all of it.
    fn is_covered(&self) -> bool {
        let mut at = self.start;
        for (offset, data) in &self.before {
            if *offset != at {
                return false;
            }
            at += data.len() as u32;
        }
        at == self.end
    }
}

impl Inode {
    /// Reads; short only at the end of the file.
    pub(crate) async fn read(self: &Arc<Self>, offset: u64, len: u32) -> Result<Bytes, Error> {
        let end = offset.saturating_add(u64::from(len));
        if self.peek(|state| end > state.write.size()) {
            self.ensure_length().await?;
        }
        let is_disputed =
            |state: &State| pieces(offset, end).any(|(index, start, stop)| state.write.is_disputed(index, start, stop));
        let mut parts = loop {
            let found = self.peek(|state| {
                let (end, length) = (end.min(state.write.size()), state.write.length);
                let piece = |(index, start, stop)| {
                    let base = u64::from(index) * CHUNK_BYTES;
                    let base_end = length.saturating_sub(base).clamp(u64::from(start), u64::from(stop)) as u32;
                    Piece { index, start, end: stop, base_end, before: state.write.snapshot(index, start, stop) }
                };
                let pieces = || pieces(offset, end).map(piece).collect::<Vec<_>>();
                (!is_disputed(state)).then(|| (state.write.ended, pieces()))
            });
            // P2: what others have written since is newer than what is here.
            let Some((ended, pieces)) = found else {
                self.wait_for(|state| !is_disputed(state), |_| None).await?;
                continue;
            };
            let parts = try_join_all(pieces.iter().map(|piece| self.read_piece(piece))).await?;
            // S4, P2: a session has ended meanwhile, and others may have written over what this client still had here: what came from the
            // servers may be newer than what was laid over it.
            if self.context.ports.meta.expired_session() <= ended {
                break parts;
            }
            self.change(0, |_| ());
        };
        let size = self.peek(|state| state.write.size());
        let wanted = usize::try_from(size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut read = match parts.len() {
            0 => Bytes::new(),
            1 => parts.remove(0),
            _ => {
                let mut joined = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| joined.extend_from_slice(part));
                joined.freeze()
            }
        };
        read.truncate(wanted);
        Ok(read)
    }

    async fn read_piece(self: &Arc<Self>, piece: &Piece) -> Result<Bytes, Error> {
        let base =
            if piece.is_covered() || piece.base_end == piece.start { None } else { Some(self.read_base(piece).await?) };
        let after = self.peek(|state| state.write.snapshot(piece.index, piece.start, piece.end));
        if piece.before.is_empty()
            && after.is_empty()
            && let Some(base) = &base
            && base.len() == piece.len()
        {
            return Ok(base.clone());
        }
        let mut bytes = BytesMut::zeroed(piece.len());
        if let Some(base) = base {
            bytes[..base.len()].copy_from_slice(&base);
        }
        for (offset, data) in piece.before.iter().chain(&after) {
            let at = (offset - piece.start) as usize;
            bytes[at..at + data.len()].copy_from_slice(data);
        }
        Ok(bytes.freeze())
    }

    /// The servers' bytes of the part below the committed length.
    async fn read_base(self: &Arc<Self>, piece: &Piece) -> Result<Bytes, Error> {
        let (start, end) = (piece.start, piece.base_end);
        let from = piece.file_offset();
        let ahead = self.peek(|state| state.ahead.get(from, from + u64::from(end - start)));
        if let Some(ahead) = ahead
            && let Some(block) = ahead.await
        {
            let at = (from % AHEAD_BLOCK) as usize;
            return Ok(block.slice(at..at + (end - start) as usize));
        }
        self.read_chunk(piece.index, start, end - start).await
    }

    /// The servers' bytes of a chunk, at most 1 MiB. Waits for as long as it takes, or for the soft timeout.
    async fn read_chunk(self: &Arc<Self>, index: u32, offset: u32, len: u32) -> Result<Bytes, Error> {
        let what = format!("chunk {index} of inode {} could not be read", self.number);
        self.context.patiently(&what, self.read_until_told(index, offset, len)).await
    }

    async fn read_until_told(self: &Arc<Self>, index: u32, offset: u32, len: u32) -> Result<Bytes, Error> {
        let mut found = self.locate(index).await?;
        let mut damaged = None;
        let mut pause = FIRST_PAUSE;
        let mut tell_at = Some(Instant::now() + TELL_AFTER);
        loop {
            if let Found::At(place) = &found {
                match chunk::read(&self.context.servers, place, offset, len).await {
                    Verdict::Data(data) => return Ok(data),
                    Verdict::Damaged if damaged.as_ref() == Some(place) => {
                        let (chunk, version) = (place.chunk, place.version);
                        tracing::error!(
                            inode = self.number,
                            index,
                            chunk,
                            version,
                            offset,
                            len,
                            "every replica is damaged"
                        );
                        return Err(Error::Errno(errno::EIO));
                    }
                    Verdict::Damaged => damaged = Some(place.clone()),
                    Verdict::Stale | Verdict::Wait => {}
                }
                self.peek(|state| state.places.forget(index));
            }
            match &found {
                Found::Hole => return Ok(zeros(len)),
                Found::Inline(bytes) => return Ok(part(bytes, offset, len)),
                Found::At(_) | Found::Busy => {}
            }
            if tell_at.take_if(|at| *at <= Instant::now()).is_some() {
                tracing::warn!(inode = self.number, index, ?found, "nobody can serve this chunk now; waiting");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
            found = self.wait_chunk(index).await?;
        }
    }

    async fn locate(self: &Arc<Self>, index: u32) -> Result<Found, Error> {
        // I4: of a chunk that is new the leader has what there is beside the buffer.
        if let Some(found) = self.peek(|state| state.places.get(index, state.generation)) {
            return Ok(found);
        }
        let op = QueryOp::Locate(Locate { inode: self.number, first_index: index, count: LOCATE_COUNT });
        self.ask_place(index, op).await
    }

    /// The leader hears by this that somebody waits for the chunk (R1, W8).
    async fn wait_chunk(self: &Arc<Self>, index: u32) -> Result<Found, Error> {
        self.ask_place(index, QueryOp::WaitChunk(WaitChunk { inode: self.number, index, for_write: false })).await
    }

    async fn ask_place(self: &Arc<Self>, index: u32, op: QueryOp) -> Result<Found, Error> {
        for _ in 1..MAX_ASKS {
            let (found, fits) = self.ask_place_once(index, op.clone()).await?;
            // What the metadata have of a chunk must be of the content whose length is believed.
            if fits || !matches!(found, Found::Hole | Found::Inline(_)) {
                return Ok(found);
            }
        }
        Ok(self.ask_place_once(index, op).await?.0)
    }

    /// With whether nothing has changed the file since it was asked, as far as this client knows.
    async fn ask_place_once(self: &Arc<Self>, index: u32, op: QueryOp) -> Result<(Found, bool), Error> {
        let (stamp, asked) = self.peek(|state| (state.stamp, state.places.asking()));
        let body = self.context.ports.meta.query(own_caller(), op).await?;
        Ok(self.change(0, |state| {
            let fits = state.stamp == stamp && state.learn_content(body.data_generation, body.length);
            (state.places.learn(index, &body, asked), fits)
        }))
    }

    /// Asks the leader for the length, unless it was heard of lately.
    pub(crate) async fn ensure_length(self: &Arc<Self>) -> Result<(), Error> {
        if self.peek(|state| Instant::now() >= state.length_at + LENGTH_LIFE) {
            self.refresh_length().await?;
        }
        Ok(())
    }

    /// Asks the leader for the length.
    pub(crate) async fn refresh_length(self: &Arc<Self>) -> Result<(), Error> {
        let stamp = self.peek(|state| state.stamp);
        let op = QueryOp::GetAttr(GetAttr { inode: self.number });
        let body = self.context.ports.meta.query(own_caller(), op).await?;
        if let Some(attr) = body.attr {
            self.learn(&attr, stamp);
        }
        Ok(())
    }

    /// Starts reading `[offset, end + bytes)` ahead, as far as there is something to read and room for it.
    pub(crate) fn read_ahead(self: &Arc<Self>, owner: u64, offset: u64, end: u64, bytes: u64) {
        self.peek(|state| {
            state.ahead.passed(owner, offset);
            let length = state.write.length;
            // A file that is so short comes as a whole with its place, as a rule.
            let is_short = length <= u64::from(self.context.ports.meta.inline_limit());
            if bytes == 0 || is_short || !state.write.is_quiet() {
                return;
            }
            let last = (end + bytes).min(length);
            for number in offset / AHEAD_BLOCK..last.div_ceil(AHEAD_BLOCK) {
                if state.ahead.has(number) {
                    continue;
                }
                let start = number * AHEAD_BLOCK;
                let len = (length - start).min(AHEAD_BLOCK);
                let Some(room) = self.context.ahead.take(len) else { return };
                let (inode, index, within) = (self.clone(), (start / CHUNK_BYTES) as u32, (start % CHUNK_BYTES) as u32);
                let read = async move { inode.read_chunk(index, within, len as u32).await.ok() }.boxed().shared();
                state.ahead.put(number, len, owner, read, room);
            }
        });
    }
}

/// Cuts `[offset, end)` at the borders of blocks of read-ahead, and so at those of chunks: `(chunk, start, end)` within it.
fn pieces(offset: u64, end: u64) -> impl Iterator<Item = (u32, u32, u32)> {
    let mut at = offset;
    std::iter::from_fn(move || {
        let stop = end.min((at / AHEAD_BLOCK + 1) * AHEAD_BLOCK);
        let piece = (at < stop).then(|| {
            let index = at / CHUNK_BYTES;
            let base = index * CHUNK_BYTES;
            (index as u32, (at - base) as u32, (stop - base) as u32)
        });
        at = stop;
        piece
    })
}

/// `[offset, offset + len)` of these bytes, with zeros behind their end.
fn part(bytes: &Bytes, offset: u32, len: u32) -> Bytes {
    let (start, end) = (offset as usize, offset as usize + len as usize);
    if end <= bytes.len() {
        return bytes.slice(start..end);
    }
    let mut part = BytesMut::zeroed(len as usize);
    if start < bytes.len() {
        part[..bytes.len() - start].copy_from_slice(&bytes[start..]);
    }
    part.freeze()
}

fn zeros(len: u32) -> Bytes {
    static ZEROS: [u8; MAX_FRAGMENT_BYTES as usize] = [0; MAX_FRAGMENT_BYTES as usize];
    Bytes::from_static(&ZEROS).slice(..len as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_of_inline_data_ends_in_zeros() {
        let bytes = Bytes::from_static(b"abcdef");
        assert_eq!(part(&bytes, 1, 3), &b"bcd"[..]);
        assert_eq!(part(&bytes, 4, 4), &b"ef\0\0"[..]);
        assert_eq!(part(&bytes, 6, 2), &b"\0\0"[..]);
        assert_eq!(part(&bytes, 9, 2), &b"\0\0"[..]);
    }

    #[test]
    fn reads_are_cut_at_blocks_and_chunks() {
        let mib = 1 << 20;
        let got: Vec<_> = pieces(CHUNK_BYTES - 10, CHUNK_BYTES + mib + 5).collect();
        let size = CHUNK_BYTES as u32;
        assert_eq!(got, [(0, size - 10, size), (1, 0, mib as u32), (1, mib as u32, mib as u32 + 5)]);
        assert_eq!(pieces(7, 7).count(), 0);
    }
}
