//! What machines said to each other, and what was done to them, until something was found: a finding that does not come again has to be
//! explained from its first time.
//!
//! Kept is the newest of it until the first finding, undecoded; it is decoded at the end. Raft's own messages are left out.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use caribou_proto::chunk::v1::{FromServer, ReadReply, ReadRequest, ToServer, WriteAck, WriteFragment};
use caribou_proto::meta::v1::{ClientMessage, ServerMessage};
use parking_lot::Mutex;

/// Bytes of messages that are kept.
const ROOM: usize = 64 << 20;
/// What an entry weighs beside its bytes.
const ENTRY: usize = 200;
/// Characters of a line.
const LINE: usize = 1500;
/// A compression flag and a length stand before each message of gRPC.
const HEADER: usize = 5;

/// Streams whose messages are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Session,
    Attach,
    Write,
    Read,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Request,
    Reply,
}

#[derive(Debug)]
enum Entry {
    Note(String),
    Said { from: Arc<str>, to: Arc<str>, stream: Stream, way: Way, bytes: Bytes },
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<(u128, Entry)>,
    weight: usize,
    is_over: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub struct Record {
    ring: Mutex<Ring>,
}

impl Stream {
    /// By the path of a call; `None`: not kept.
    pub fn of(path: &str) -> Option<Self> {
        Some(match path.rsplit('/').next()? {
            "Session" => Self::Session,
            "Attach" => Self::Attach,
            "Write" => Self::Write,
            "Read" => Self::Read,
            _ => return None,
        })
    }
}

impl Entry {
    fn weight(&self) -> usize {
        ENTRY + if let Self::Said { bytes, .. } = self { bytes.len() } else { 0 }
    }
}

impl Record {
    /// Something was done.
    pub fn note(&self, at: u128, what: String) {
        self.add(at, Entry::Note(what));
    }

    /// Messages have arrived.
    pub fn said(&self, at: u128, from: &Arc<str>, to: &Arc<str>, (stream, way): (Stream, Way), bytes: Bytes) {
        self.add(at, Entry::Said { from: Arc::clone(from), to: Arc::clone(to), stream, way, bytes });
    }

    /// Something was found: what comes later explains nothing, and would take the room.
    pub fn end(&self) {
        self.ring.lock().is_over = true;
    }

    fn add(&self, at: u128, entry: Entry) {
        let mut ring = self.ring.lock();
        if ring.is_over {
            return;
        }
        ring.weight += entry.weight();
        ring.entries.push_back((at, entry));
        while ring.weight > ROOM {
            let Some((_, oldest)) = ring.entries.pop_front() else { return };
            ring.weight -= oldest.weight();
        }
    }

    /// Writes it to a file, a message in each line, and tells which file.
    ///
    /// # Errors
    /// When there is no room for it.
    pub fn write(&self, folder: &Path, seed: u64) -> io::Result<PathBuf> {
        let path = folder.join(format!("caribou-simulation-{seed}-{}.txt", std::process::id()));
        let mut file = BufWriter::new(std::fs::File::create(&path)?);
        for (at, entry) in &self.ring.lock().entries {
            match entry {
                Entry::Note(what) => writeln!(file, "{at} {what}")?,
                Entry::Said { from, to, stream, way, bytes } => {
                    for text in decoded(*stream, *way, bytes) {
                        writeln!(file, "{at} {from} → {to} {text}")?;
                    }
                }
            }
        }
        file.into_inner().map_err(|error| error.into_error())?.sync_all()?;
        Ok(path)
    }
}

/// The messages of a frame, which come whole.
pub fn messages(mut frame: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (header, rest) = frame.split_at_checked(HEADER)?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let (message, rest) = rest.split_at_checked(length)?;
        frame = rest;
        Some(message)
    })
}

/// Each message of a frame in words.
fn decoded(stream: Stream, way: Way, frame: &[u8]) -> Vec<String> {
    let (mut texts, mut left) = (Vec::new(), frame.len());
    for message in messages(frame) {
        left -= HEADER + message.len();
        texts.push(match (stream, way) {
            (Stream::Session, Way::Request) => text::<ClientMessage>(message),
            (Stream::Session, Way::Reply) => text::<ServerMessage>(message),
            (Stream::Attach, Way::Request) => text::<FromServer>(message),
            (Stream::Attach, Way::Reply) => text::<ToServer>(message),
            (Stream::Write, Way::Request) => text::<WriteFragment>(message),
            (Stream::Write, Way::Reply) => text::<WriteAck>(message),
            (Stream::Read, Way::Request) => text::<ReadRequest>(message),
            (Stream::Read, Way::Reply) => text::<ReadReply>(message),
        });
    }
    if left > 0 {
        texts.push(format!("{stream:?} {way:?}: {left} bytes of a longer message"));
    }
    texts
}

fn text<M: prost::Message + Default + Debug>(message: &[u8]) -> String {
    match M::decode(message) {
        Ok(message) => format!("{message:?}").chars().take(LINE).collect(),
        Err(error) => format!("no message: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    fn frame(length: u64) -> Bytes {
        let message = ReadRequest { length: u32::try_from(length).expect("small"), ..ReadRequest::default() };
        let message = message.encode_to_vec();
        let mut frame = vec![0];
        frame.extend_from_slice(&u32::try_from(message.len()).expect("small").to_be_bytes());
        frame.extend_from_slice(&message);
        frame.into()
    }

    #[test]
    fn what_was_said_and_done_is_written_in_order_and_decoded() {
        let (record, folder) = (Record::default(), tempfile::tempdir().expect("a folder"));
        record.note(3, "heal".to_owned());
        let two = Bytes::from([frame(4711), frame(512)].concat());
        let (a, b) = ("a".into(), "b".into());
        record.said(5, &a, &b, (Stream::of("/caribou.chunk.v1.ChunkData/Read").expect("kept"), Way::Request), two);
        assert_eq!(Stream::of("/caribou.raft.v1.RaftService/Append"), None);
        let text = std::fs::read_to_string(record.write(folder.path(), 7).expect("written")).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0], "3 heal");
        assert!(lines[1].starts_with("5 a → b ReadRequest") && lines[1].contains("length: 4711"), "{text}");
    }

    #[test]
    fn the_oldest_goes_first() {
        let record = Record::default();
        let large = Bytes::from(vec![0; ROOM / 4]);
        let (a, b) = ("a".into(), "b".into());
        for at in 0..9 {
            record.said(at, &a, &b, (Stream::Write, Way::Request), large.clone());
        }
        record.end();
        record.note(9, "too late".to_owned());
        let ring = record.ring.lock();
        let kept: Vec<u128> = ring.entries.iter().map(|(at, _)| *at).collect();
        assert_eq!(kept, [6, 7, 8]);
    }
}
