//! The buffer against a naive model: one array of what the application wrote, one of what the server has in memory, one of
//! what it has on disk. Whatever the interleaving of writes, sends, acks, syncs and power cuts: the buffer laid over the
//! server's bytes is what was written.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const SIZE: usize = 300;

#[derive(Clone, Debug)]
enum Op {
    Write { offset: usize, len: usize, byte: u8 },
    Take { force: bool },
    Ack,
    Sync,
    Commit { length: usize },
    PowerCut,
    Cut { offset: usize },
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (0..SIZE, 1..60usize, any::<u8>()).prop_map(|(offset, len, byte)| Op::Write { offset, len, byte }),
        4 => any::<bool>().prop_map(|force| Op::Take { force }),
        4 => Just(Op::Ack),
        2 => Just(Op::Sync),
        2 => (0..SIZE).prop_map(|length| Op::Commit { length }),
        1 => Just(Op::PowerCut),
        1 => (0..SIZE).prop_map(|offset| Op::Cut { offset }),
    ]
}

/// The naive side. `memory` has what was sent and arrived, `disk` what was synced; the committed length cuts both at a power cut.
struct Model {
    latest: Vec<Option<u8>>,
    memory: Vec<Option<u8>>,
    disk: Vec<Option<u8>>,
    committed: usize,
    in_flight: Vec<(u64, u32, Bytes)>,
    writes: u64,
    last: u64,
    acked: u64,
}

impl Model {
    fn new() -> Self {
        let empty = vec![None; SIZE + 60];
        Self {
            latest: empty.clone(),
            memory: empty.clone(),
            disk: empty,
            committed: 0,
            in_flight: Vec::new(),
            writes: 0,
            last: 0,
            acked: 0,
        }
    }

    fn apply(&mut self, op: Op, buffer: &mut ChunkBuffer) {
        match op {
            Op::Write { offset, len, byte } => {
                self.writes += 1;
                buffer.insert(offset as u32, Bytes::from(vec![byte; len]), self.writes);
                self.latest[offset..offset + len].fill(Some(byte));
            }
            Op::Take { force } => {
                self.last += 1;
                match buffer.take(self.last, force) {
                    Some((offset, data)) => self.in_flight.push((self.last, offset, data)),
                    None => self.last -= 1,
                }
            }
            Op::Ack if self.in_flight.is_empty() => {}
            Op::Ack => {
                let (n, offset, data) = self.in_flight.remove(0);
                for (at, byte) in data.iter().enumerate() {
                    self.memory[offset as usize + at] = Some(*byte);
                }
                buffer.acked(n, offset, data.len() as u32);
                self.acked = n;
            }
            Op::Sync => {
                self.disk.clone_from(&self.memory);
                buffer.synced(self.acked);
                buffer.release(self.committed as u32);
            }
            Op::Commit { length } => {
                self.committed = self.committed.max(length);
                buffer.release(self.committed as u32);
            }
            Op::PowerCut => {
                self.in_flight.clear();
                self.disk[self.committed..].fill(None);
                self.memory.clone_from(&self.disk);
                buffer.reset();
            }
            Op::Cut { offset } => {
                self.in_flight.clear();
                buffer.reset();
                buffer.cut(offset as u32);
                self.committed = self.committed.min(offset);
                for bytes in [&mut self.latest, &mut self.memory, &mut self.disk] {
                    bytes[offset..].fill(None);
                }
            }
        }
    }

    fn check(&self, buffer: &ChunkBuffer) {
        let mut seen = self.memory.clone();
        let mut bytes = 0;
        for (offset, data) in buffer.snapshot(0, seen.len() as u32) {
            bytes += data.len() as u64;
            for (at, byte) in data.iter().enumerate() {
                seen[offset as usize + at] = Some(*byte);
            }
        }
        assert_eq!(seen, self.latest, "the buffer over the servers' bytes is what was written");
        assert_eq!(bytes, buffer.bytes);
        let dirty: u64 = buffer.dirty.iter().map(|(_, offset)| buffer.extents[offset].data.len() as u64).sum();
        assert_eq!(dirty, buffer.dirty_bytes);
        assert!(buffer.extents.values().all(|extent| extent.pinned < 2 * extent.data.len() + 1));
        let synced = buffer.extents.values().filter(|extent| matches!(extent.state, State::Synced(_))).count();
        assert_eq!((synced, buffer.extents.len() - synced), (buffer.synced, buffer.unsynced));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn the_buffer_over_the_servers_bytes_is_what_was_written(ops in prop::collection::vec(op(), 1..80)) {
        let mut buffer = ChunkBuffer::default();
        let mut model = Model::new();
        for op in ops {
            model.apply(op, &mut buffer);
            model.check(&buffer);
        }
    }
}

#[test]
fn only_whole_fragments_leave_unasked() {
    let mut buffer = ChunkBuffer::default();
    buffer.insert(100, Bytes::from(vec![1; 1 << 20]), 1);
    buffer.insert(100 + (1 << 20), Bytes::from(vec![2; 1000]), 2);
    let (offset, data) = buffer.take(1, false).expect("more than a fragment is dirty");
    assert_eq!((offset, data.len()), (100, (1 << 20) - 100), "it ends at a block's end");
    assert!(buffer.take(2, false).is_none());
    let (offset, data) = buffer.take(2, true).expect("forced");
    assert_eq!((offset, data.len()), (1 << 20, 1100));
}

#[test]
fn bytes_written_over_hand_down_their_age() {
    let mut buffer = ChunkBuffer::default();
    buffer.insert(0, Bytes::from(vec![1; 10]), 1);
    buffer.insert(5, Bytes::from(vec![2; 10]), 7);
    assert_eq!(buffer.oldest_unsent(), Some(1));
    let _ = buffer.take(1, true);
    buffer.insert(0, Bytes::from(vec![3; 15]), 8);
    assert_eq!(buffer.oldest_unsent(), Some(8), "what is in flight has been sent");
    assert!(buffer.reaches_beyond(10, 1), "but is not yet durable");
    buffer.reset();
    assert_eq!(buffer.oldest_unsent(), Some(1));
}
