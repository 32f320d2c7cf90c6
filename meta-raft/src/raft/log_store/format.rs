//! Bytes of a segment: a header, then frames, each of them what one fsync brought to disk. docs/on-disk-format.md has the tables.
//!
//! A frame's checksum is taken over the segment's salt too, which is drawn anew whenever a file is used again: what an earlier use left
//! behind never passes for a frame. Frames are numbered without gaps through all segments, so that damage can be told from the torn
//! end of a write that was never acknowledged.

use std::io;

use crate::raft::codec::entry;
use crate::raft::types::{Entry, LogId, Vote};

/// Frames start here, so that writing one never touches the block with the header.
pub(super) const HEADER_BYTES: u64 = 4096;
const MAGIC: [u8; 8] = *b"CARIBLOG";
const FORMAT: u32 = 1;
const HEADER_LEN: usize = 36;

const FRAME_HEADER: usize = 16;
const FRAME_ALIGN: usize = 8;
const RECORD_HEADER: usize = 5;

const ENTRY: u8 = 1;
const VOTE: u8 = 2;
const TRUNCATE: u8 = 3;
const PURGED: u8 = 4;

pub(super) fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// What a segment says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// Position among the segments of this log.
    pub(super) number: u64,
    pub(super) salt: u64,
}

impl Header {
    pub(super) fn encode(self) -> [u8; HEADER_LEN] {
        let mut bytes = [0; HEADER_LEN];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> io::Result<Self> {
        let bytes = bytes.get(..HEADER_LEN).ok_or_else(|| damaged("it ends within its header"))?;
        if bytes[..8] != MAGIC {
            return Err(damaged("it is no segment of a Raft log"));
        }
        if u32_at(bytes, 32) != crc32c::crc32c(&bytes[..32]) {
            return Err(damaged("its header does not match its checksum"));
        }
        match u32_at(bytes, 8) {
            FORMAT => Ok(Self { number: u64_at(bytes, 16), salt: u64_at(bytes, 24) }),
            other => {
                Err(damaged(format!("it has format {other}, this build knows format {FORMAT}: upgrade this node")))
            }
        }
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn frame_crc(salt: u64, number: u64, payload: &[u8]) -> u32 {
    let mut head = [0; 20];
    head[..8].copy_from_slice(&salt.to_le_bytes());
    head[8..16].copy_from_slice(&number.to_le_bytes());
    head[16..].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&head), payload)
}

/// Which entries a frame leaves behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    /// The lowest and the highest index among the entries that no later record of the frame cut off.
    pub(super) entries: Option<(u64, u64)>,
    /// The lowest index from which on the frame cut the log.
    pub(super) cut: Option<u64>,
}

impl Shape {
    pub(super) fn entry(&mut self, index: u64) {
        self.entries = Some(self.entries.map_or((index, index), |(low, high)| (low.min(index), high.max(index))));
    }

    pub(super) fn truncate(&mut self, from: u64) {
        self.cut = Some(self.cut.map_or(from, |cut| cut.min(from)));
        self.entries =
            self.entries.filter(|(low, _)| *low < from).map(|(low, high)| (low, high.min(from.saturating_sub(1))));
    }
}

/// Number of a log's first frame.
pub(super) const FIRST_FRAME: u64 = 1;

/// Changes that reach the disk together.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Vec<u8>,
    shape: Shape,
    vote: Option<Vote>,
    purged: Option<LogId>,
}

impl Frame {
    pub(super) fn new() -> Self {
        Self { bytes: vec![0; FRAME_HEADER], shape: Shape::default(), vote: None, purged: None }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.len() == FRAME_HEADER
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// The last vote that was put in.
    pub(super) fn vote(&self) -> Option<Vote> {
        self.vote
    }

    /// How far the frame purges the log.
    pub(super) fn purged(&self) -> Option<LogId> {
        self.purged
    }

    /// Bytes on disk.
    pub(super) fn len(&self) -> u64 {
        self.bytes.len().next_multiple_of(FRAME_ALIGN) as u64
    }

    pub(super) fn put(&mut self, e: &Entry) {
        let index = e.log_id.index();
        self.shape.entry(index);
        self.record(ENTRY, |bytes| {
            bytes.extend_from_slice(&index.to_le_bytes());
            entry::encode_entry(e, bytes);
        });
    }

    pub(super) fn put_vote(&mut self, vote: &Vote) {
        self.vote = Some(*vote);
        self.record(VOTE, |bytes| bytes.extend_from_slice(&entry::encode_vote(vote)));
    }

    pub(super) fn truncate(&mut self, from: u64) {
        self.shape.truncate(from);
        self.record(TRUNCATE, |bytes| bytes.extend_from_slice(&from.to_le_bytes()));
    }

    pub(super) fn purge(&mut self, upto: LogId) {
        self.purged = self.purged.max(Some(upto));
        self.record(PURGED, |bytes| bytes.extend_from_slice(&entry::encode_log_id(upto)));
    }

    fn record(&mut self, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
        let at = self.bytes.len();
        self.bytes.extend_from_slice(&[kind, 0, 0, 0, 0]);
        body(&mut self.bytes);
        let len = (self.bytes.len() - at - RECORD_HEADER) as u32;
        self.bytes[at + 1..at + RECORD_HEADER].copy_from_slice(&len.to_le_bytes());
    }

    /// The bytes to write, padded.
    pub(super) fn seal(mut self, salt: u64, number: u64) -> Vec<u8> {
        let payload = self.bytes.len() - FRAME_HEADER;
        let crc = frame_crc(salt, number, &self.bytes[FRAME_HEADER..]);
        self.bytes[..4].copy_from_slice(&(payload as u32).to_le_bytes());
        self.bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        self.bytes[8..FRAME_HEADER].copy_from_slice(&number.to_le_bytes());
        self.bytes.resize(self.bytes.len().next_multiple_of(FRAME_ALIGN), 0);
        self.bytes
    }
}

/// A frame as it lies on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found<'a> {
    pub(super) number: u64,
    pub(super) payload: &'a [u8],
    /// Up to the next frame.
    pub(super) len: u64,
}

/// The frame at the beginning of `bytes`, if it is whole.
fn frame_at(bytes: &[u8], salt: u64) -> Option<Found<'_>> {
    let head = bytes.get(..FRAME_HEADER)?;
    let len = FRAME_HEADER + u32_at(head, 0) as usize;
    let payload = bytes.get(FRAME_HEADER..len).filter(|payload| !payload.is_empty())?;
    let number = u64_at(head, 8);
    let is_whole = u32_at(head, 4) == frame_crc(salt, number, payload);
    is_whole.then(|| Found { number, payload, len: len.next_multiple_of(FRAME_ALIGN) as u64 })
}

/// Frames one after the other, as long as they are whole and their numbers follow each other.
pub(super) struct Frames<'a> {
    rest: &'a [u8],
    salt: u64,
    /// `None`: the first one may have any number.
    next: Option<u64>,
}

impl<'a> Frames<'a> {
    pub(super) fn new(bytes: &'a [u8], salt: u64, next: Option<u64>) -> Self {
        Self { rest: bytes, salt, next }
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = frame_at(self.rest, self.salt).filter(|found| self.next.is_none_or(|next| next == found.number))?;
        self.rest = self.rest.get(found.len as usize..).unwrap_or_default();
        self.next = Some(found.number + 1);
        Some(found)
    }
}

/// Whether a frame of a higher number than `next` is somewhere in `bytes`, where frame `next` should be. That one had been fsynced before
/// the higher one was written: then this is damage, and not the torn end of a write. Numbers have no gaps, so only those count that the
/// frames of one segment, of `largest` bytes at most, can reach: what an earlier use of the file left behind is not checksummed all over.
pub(super) fn is_followed(bytes: &[u8], salt: u64, next: u64, largest: usize) -> bool {
    let possible = next + 1..=next + (largest / FRAME_HEADER) as u64;
    (0..bytes.len()).step_by(FRAME_ALIGN).any(|at| {
        let rest = &bytes[at..];
        rest.get(8..FRAME_HEADER).is_some_and(|number| possible.contains(&u64_at(number, 0)))
            && frame_at(rest, salt).is_some()
    })
}

/// One change of the log, as a frame holds it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Entry { index: u64, bytes: &'a [u8] },
    Vote(Vote),
    Truncate { from: u64 },
    Purged(LogId),
}

/// The records of a whole frame.
pub(super) fn records(payload: &[u8]) -> impl Iterator<Item = io::Result<Record<'_>>> {
    let mut rest = payload;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let record = split_record(rest).and_then(|(kind, body, after)| {
            rest = after;
            decode_record(kind, body)
        });
        if record.is_err() {
            rest = &[];
        }
        Some(record)
    })
}

fn split_record(bytes: &[u8]) -> io::Result<(u8, &[u8], &[u8])> {
    let short = || damaged("a record of the Raft log ends early");
    let (head, rest) = bytes.split_at_checked(RECORD_HEADER).ok_or_else(short)?;
    let (body, after) = rest.split_at_checked(u32_at(head, 1) as usize).ok_or_else(short)?;
    Ok((head[0], body, after))
}

fn decode_record(kind: u8, body: &[u8]) -> io::Result<Record<'_>> {
    let index = || {
        let (index, rest) =
            body.split_at_checked(8).ok_or_else(|| damaged("a record of the Raft log lacks its index"))?;
        Ok::<_, io::Error>((u64_at(index, 0), rest))
    };
    Ok(match kind {
        ENTRY => index().map(|(index, bytes)| Record::Entry { index, bytes })?,
        VOTE => Record::Vote(entry::decode_vote(body)?),
        TRUNCATE => Record::Truncate { from: index()?.0 },
        PURGED => Record::Purged(entry::decode_log_id(body)?),
        other => {
            return Err(damaged(format!(
                "the Raft log has a record of kind {other}, which this build does not know: upgrade this node"
            )));
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::raft::types::{EntryPayload, log_id, vote};

    fn entry(index: u64) -> Entry {
        Entry { log_id: log_id(1, index), payload: EntryPayload::Blank }
    }

    fn frame(indices: std::ops::Range<u64>) -> Frame {
        let mut frame = Frame::new();
        indices.for_each(|i| frame.put(&entry(i)));
        frame
    }

    #[test]
    fn headers_come_back_and_damage_is_seen() {
        let header = Header { number: 7, salt: 0x1122_3344_5566_7788 };
        let bytes = header.encode();
        assert_eq!(Header::decode(&bytes).unwrap(), header);
        for at in 0..bytes.len() {
            let mut bad = bytes;
            bad[at] ^= 1;
            assert!(Header::decode(&bad).is_err(), "byte {at}");
        }
        assert!(Header::decode(&bytes[..20]).is_err());
    }

    #[test]
    fn records_come_back() {
        let mut frame = frame(4..5);
        frame.put_vote(&vote(2, 3, true));
        frame.truncate(4);
        frame.purge(log_id(1, 2));
        let bytes = frame.seal(1, 9);
        let frame = Frames::new(&bytes, 1, None).next().unwrap();
        let found: Vec<_> = records(frame.payload).map(Result::unwrap).collect();
        assert_eq!((frame.number, frame.len), (9, bytes.len() as u64));
        assert!(matches!(found[0], Record::Entry { index: 4, .. }));
        assert_eq!(
            found[1..],
            [Record::Vote(vote(2, 3, true)), Record::Truncate { from: 4 }, Record::Purged(log_id(1, 2))]
        );
    }

    /// How many frames from number 10 on are whole, and whether what follows is damage.
    fn look(bytes: &[u8], salt: u64) -> (usize, bool) {
        let found: Vec<_> = Frames::new(bytes, salt, Some(10)).collect();
        let at: u64 = found.iter().map(|f| f.len).sum();
        let rest = bytes.get(at as usize..).unwrap_or_default();
        (found.len(), is_followed(rest, salt, 10 + found.len() as u64, bytes.len()))
    }

    #[test]
    fn a_torn_end_is_no_damage_but_a_hole_is() {
        let (salt, mut bytes, mut starts) = (5, Vec::new(), Vec::new());
        for number in 10..13 {
            starts.push(bytes.len());
            bytes.extend(frame(number..number + 3).seal(salt, number));
        }
        assert_eq!(look(&bytes, salt), (3, false));
        for at in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[at] ^= 0x40;
            let hit = starts.iter().rposition(|start| *start <= at).unwrap();
            // Padding is not covered, and nobody reads it.
            let (whole, is_damage) = look(&bad, salt);
            assert!(whole == 3 || (whole, is_damage) == (hit, hit < 2), "byte {at}: {whole} frames, {is_damage}");
        }
        for end in starts[2]..bytes.len() - FRAME_ALIGN {
            assert_eq!(look(&bytes[..end], salt), (2, false), "torn at {end}");
        }
    }

    #[test]
    fn what_an_earlier_use_left_is_no_frame() {
        let bytes = frame(1..4).seal(5, 10);
        assert_eq!(look(&bytes, 5), (1, false));
        assert_eq!(look(&bytes, 6), (0, false));
        assert!(!is_followed(&bytes, 6, 0, 1 << 20));
        assert!(is_followed(&bytes, 5, 9, 1 << 20));
        assert!(!is_followed(&bytes, 5, 9, 0), "no segment can hold so many frames");
    }

    #[test]
    fn shapes_know_what_is_left() {
        let mut shape = Shape::default();
        (10..12).for_each(|i| shape.entry(i));
        shape.truncate(11);
        assert_eq!(shape, Shape { entries: Some((10, 10)), cut: Some(11) });
        shape.truncate(5);
        assert_eq!(shape, Shape { entries: None, cut: Some(5) });
        (5..7).for_each(|i| shape.entry(i));
        assert_eq!(shape, Shape { entries: Some((5, 6)), cut: Some(5) });
    }
}
