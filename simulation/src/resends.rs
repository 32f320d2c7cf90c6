//! What a client has sent of each version of a chunk: none of it may go out again at that version over another stream (W4).
//!
//! Every block that clients write has bytes of its own, so bytes that come again are sent again.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use caribou_proto::chunk::v1::WriteFragment;
use parking_lot::Mutex;

use crate::workload::blocks::BLOCK;

/// Chunk, version, offset, and a hash of the block there.
type Sent = (u64, u64, u32, u64);

/// All that one client has sent.
#[derive(Debug)]
pub struct Resends {
    client: String,
    /// Over which stream first.
    sent: Mutex<BTreeMap<Sent, u64>>,
    streams: AtomicU64,
}

/// One of its write streams.
#[derive(Debug)]
pub struct Outgoing {
    all: Arc<Resends>,
    number: u64,
}

impl Resends {
    pub fn of(client: &str) -> Arc<Self> {
        Arc::new(Self { client: client.to_owned(), sent: Mutex::default(), streams: AtomicU64::new(0) })
    }

    /// It opens another one.
    pub fn stream(self: &Arc<Self>) -> Outgoing {
        Outgoing { all: Arc::clone(self), number: self.streams.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Outgoing {
    /// A fragment leaves; what is wrong with that.
    pub fn note(&self, fragment: &WriteFragment) -> Option<String> {
        let WriteFragment { chunk, version, .. } = fragment;
        let mut sent = self.all.sent.lock();
        let mut again = None;
        for (offset, block) in (fragment.offset..).step_by(BLOCK).zip(fragment.data.chunks(BLOCK)) {
            // Nothing but zeros is what lies between the blocks of a small file that becomes a large one.
            if block.iter().all(|byte| *byte == 0) {
                continue;
            }
            let mut hasher = DefaultHasher::new();
            block.hash(&mut hasher);
            let first = *sent.entry((*chunk, *version, offset, hasher.finish())).or_insert(self.number);
            if first != self.number {
                again.get_or_insert(offset);
            }
        }
        let (client, offset) = (&self.all.client, again?);
        Some(format!(
            "W4: {client} sends what it had sent at {offset} of chunk {chunk} at version {version} once more, over another stream"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fragment(version: u64, offset: u32, bytes: &[u8]) -> WriteFragment {
        WriteFragment { chunk: 5, version, offset, data: bytes.repeat(BLOCK).into(), ..WriteFragment::default() }
    }

    #[test]
    fn the_same_block_at_the_same_version_over_another_stream_is_told() {
        let all = Resends::of("client1");
        let (first, second) = (all.stream(), all.stream());
        let at = |blocks: usize| (blocks * BLOCK) as u32;
        assert_eq!(first.note(&fragment(3, 0, &[1])), None);
        assert_eq!(first.note(&fragment(3, 0, &[1])), None, "over the same one: nothing broke");
        assert_eq!(second.note(&fragment(4, 0, &[1])), None, "at the next version");
        assert_eq!(second.note(&fragment(3, at(1), &[1])), None, "elsewhere");
        assert_eq!(second.note(&fragment(3, 0, &[0])), None, "nothing");
        assert!(first.note(&fragment(3, 0, &[2])).is_none() && second.note(&fragment(3, at(2), &[2])).is_none());
        let merged = WriteFragment { data: [[3u8; BLOCK], [1; BLOCK]].concat().into(), ..fragment(3, at(0), &[]) };
        assert_eq!(second.note(&merged), None);
        let told = first.note(&merged).expect("it was sent over the second one");
        assert!(told.starts_with("W4: client1 sends what it had sent at 0 of chunk 5 at version 3"), "{told}");
    }
}
