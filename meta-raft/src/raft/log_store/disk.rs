//! The log on disk: segments one after the other, of which the last one is written and the next one is made ready in the background.
//!
//! Each segment begins with the vote and with what is purged, so that older segments can go as a whole. One segment that nothing needs any
//! more is kept to be used again.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;

use bytes::Bytes;
use caribou_failpoints::{self as failpoints, Point};
use parking_lot::{Mutex, RwLock};

use super::format::{Frame, Frames, HEADER_BYTES, Record, damaged, records};
use super::index::{Index, Stretch};
use super::replay::{self, Replayed};
use super::segment::{FIRST_SEGMENT, Segment};
use super::sizes::Sizes;
use crate::raft::codec::entry;
use crate::raft::files;
use crate::raft::types::{Entry, LogId, Vote};

/// The store; all methods block.
#[derive(Debug)]
pub(super) struct Disk {
    dir: PathBuf,
    segment_bytes: u64,
    writer: Mutex<Writer>,
    index: RwLock<Index>,
}

/// What a log holds when it is opened.
#[derive(Debug)]
pub(super) struct Stored {
    pub(super) purged: Option<LogId>,
    pub(super) vote: Option<Vote>,
    /// The last entry, or what is purged if there is none.
    pub(super) last: Option<LogId>,
    pub(super) sizes: Sizes,
}

/// What only a writer looks at.
#[derive(Debug)]
struct Writer {
    /// Number of the next frame.
    frame: u64,
    vote: Option<Vote>,
    purged: Option<LogId>,
    next: Next,
    /// Segments that the log does not need any more and that may still be in the folder, oldest first: their names must go in order.
    dropped: VecDeque<Arc<Segment>>,
    /// A file that can be used again.
    retired: Option<PathBuf>,
}

/// The segment after the last one.
#[derive(Debug)]
enum Next {
    Ready(Segment),
    Coming(JoinHandle<io::Result<Segment>>),
    /// It could not be had, and the log has failed.
    Gone,
}

impl Disk {
    /// Opens or creates the log in `dir`, with segments of `segment_bytes`.
    pub(super) fn open(dir: &Path, segment_bytes: u64) -> io::Result<(Self, Stored)> {
        files::create_dir(dir)?;
        let Replayed { purged, vote, span, sizes, mut index, frame, last_frame, next, .. } = replay::run(dir)?;
        if index.end().is_none() {
            index.push_segment(Arc::new(Segment::create(dir, FIRST_SEGMENT, segment_bytes, None)?));
        }
        let (segment, end) = index.end().expect("there is a segment");
        segment.settle(end, last_frame)?;
        let next = match next {
            Some(segment) => Next::Ready(segment),
            None => prepare(dir, segment.number() + 1, segment_bytes, None)?,
        };
        let writer = Mutex::new(Writer { frame, vote, purged, next, dropped: VecDeque::new(), retired: None });
        let disk = Self { dir: dir.to_owned(), segment_bytes, writer, index: RwLock::new(index) };
        let last = match span {
            Some((_, last)) => {
                let entry = disk.read(last, last + 1, usize::MAX)?.pop();
                Some(entry.ok_or_else(|| damaged(format!("the Raft log lacks its last entry, {last}")))?.log_id)
            }
            None => purged,
        };
        Ok((disk, Stored { purged, vote, last, sizes }))
    }

    /// Writes a frame: one fsync, but for the first one of a segment.
    pub(super) fn commit(&self, frame: Frame) -> io::Result<()> {
        let mut writer = self.writer.lock();
        let (_, end) = self.end();
        if end > HEADER_BYTES && end + frame.len() > self.segment_bytes {
            self.begin_segment(&mut writer)?;
        }
        self.write(&mut writer, frame)
    }

    pub(super) fn end(&self) -> (Arc<Segment>, u64) {
        self.index.read().end().expect("there is always a segment")
    }

    fn write(&self, writer: &mut Writer, frame: Frame) -> io::Result<()> {
        let (segment, at) = self.end();
        let (shape, len) = (frame.shape(), frame.len());
        writer.vote = frame.vote().or(writer.vote);
        writer.purged = writer.purged.max(frame.purged());
        segment.write(&frame.seal(segment.salt(), writer.frame), at)?;
        writer.frame += 1;
        self.index.write().push_frame(shape, len);
        Ok(())
    }

    fn begin_segment(&self, writer: &mut Writer) -> io::Result<()> {
        let segment = match std::mem::replace(&mut writer.next, Next::Gone) {
            Next::Ready(segment) => segment,
            Next::Coming(thread) => thread.join().map_err(|_| io::Error::other("making a segment panicked"))??,
            Next::Gone => return Err(io::Error::other("the next segment could not be made")),
        };
        writer.next = prepare(&self.dir, segment.number() + 1, self.segment_bytes, writer.retired.take())?;
        self.index.write().push_segment(Arc::new(segment));
        let mut head = Frame::new();
        writer.vote.iter().for_each(|vote| head.put_vote(vote));
        writer.purged.iter().for_each(|upto| head.purge(*upto));
        if head.is_empty() { Ok(()) } else { self.write(writer, head) }
    }

    /// Gives segments that hold only purged entries back, and those that an earlier call failed to give back.
    pub(super) fn drop_below(&self, index: u64) -> io::Result<()> {
        let dropped = self.index.write().drop_below(index);
        let mut writer = self.writer.lock();
        writer.dropped.extend(dropped);
        while let Some(segment) = writer.dropped.front().cloned() {
            if writer.retired.is_none() {
                writer.retired = segment.retire(&self.dir)?;
            } else {
                segment.remove(&self.dir)?;
            }
            failpoints::pass(Point::SegmentDropped);
            writer.dropped.pop_front();
        }
        Ok(())
    }

    /// Entries of `[start, end)`, without holes: at most `max_bytes`, but at least one if there is one.
    pub(super) fn read(&self, start: u64, end: u64, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let (mut entries, mut bytes, mut next) = (Vec::new(), 0, start);
        while next < end {
            let Some(stretch) = self.index.read().find(next) else { break };
            let end = end.min(stretch.before);
            let found = read_stretch(&stretch, next, end)?;
            if found.is_empty() {
                break;
            }
            for body in found {
                bytes += body.len();
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                entries.push(entry::decode_entry(next, body)?);
                next += 1;
            }
        }
        Ok(entries)
    }
}

/// Without waiting: the file is filled by a thread that ends with it.
fn prepare(dir: &Path, number: u64, bytes: u64, retired: Option<PathBuf>) -> io::Result<Next> {
    let dir = dir.to_owned();
    let thread = std::thread::Builder::new()
        .name("raft-log-next".to_owned())
        .spawn(move || Segment::create(&dir, number, bytes, retired))?;
    Ok(Next::Coming(thread))
}

/// Encoded entries from `start` on, as long as they follow each other, below `end`.
fn read_stretch(stretch: &Stretch, start: u64, end: u64) -> io::Result<Vec<Bytes>> {
    let bytes = Bytes::from(stretch.segment.read(stretch.from, stretch.to)?);
    let (mut found, mut at): (Vec<Bytes>, _) = (Vec::new(), stretch.from);
    for frame in Frames::new(&bytes, stretch.segment.salt(), None) {
        at += frame.len;
        for record in records(frame.payload) {
            match record? {
                Record::Entry { index, bytes: body } if index >= start => {
                    found.truncate((index - start) as usize);
                    if found.len() as u64 == index - start {
                        found.push(bytes.slice_ref(body));
                    }
                }
                Record::Truncate { from } => found.truncate(from.saturating_sub(start) as usize),
                Record::Entry { .. } | Record::Vote(_) | Record::Purged(_) => {}
            }
        }
    }
    if at < stretch.to {
        return Err(damaged(format!("{} is damaged at byte {at}", stretch.segment.path().display())));
    }
    found.truncate(end.saturating_sub(start) as usize);
    Ok(found)
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Whoever opens the folder next must not meet a thread that still works in it.
        if let Next::Coming(thread) = std::mem::replace(&mut self.writer.get_mut().next, Next::Gone) {
            drop(thread.join());
        }
    }
}
