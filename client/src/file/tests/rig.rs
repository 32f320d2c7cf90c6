//! One client on the fake cluster, and the questions that tests ask.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::ids::CHUNK_BYTES;
use caribou_proto::meta::v1::{Caller, Create};

use super::leader::Leader;
use super::servers::Network;
use super::world::World;
use crate::ClientConfig;
use crate::file::{Files, OpenFile, Ports, WallClock};

pub(super) const READ_WRITE: u32 = 6;

pub(super) struct Rig {
    pub(super) world: Arc<World>,
    pub(super) files: Files,
}

/// Each look at the clock is one nanosecond later.
#[derive(Default)]
struct CountingClock(AtomicI64);

impl WallClock for CountingClock {
    fn now_ns(&self) -> i64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// What failed in a server's task fails the test.
impl Drop for Rig {
    fn drop(&mut self) {
        let failed = self.world.failed.lock().take();
        if let Some(panic) = failed
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

impl Rig {
    /// Three servers, two copies.
    pub(super) fn new() -> Self {
        Self::with(ClientConfig::default())
    }

    pub(super) fn with(config: ClientConfig) -> Self {
        let world = World::new(3, 2);
        let files = Self::client(&world, &config);
        Self { world, files }
    }

    /// The metadata take files of up to `limit` bytes (I1).
    pub(super) fn with_inline(config: ClientConfig, limit: u32) -> Self {
        let rig = Self::with(config);
        rig.world.inner.lock().inline_limit = limit;
        rig
    }

    pub(super) fn client(world: &Arc<World>, config: &ClientConfig) -> Files {
        let ports = Ports {
            meta: Arc::new(Leader(world.clone())),
            transport: Arc::new(Network(world.clone())),
            clock: Arc::new(CountingClock::default()),
        };
        Files::new_in(ports, config)
    }

    pub(super) async fn create(&self) -> Arc<OpenFile> {
        let create = Create { access: READ_WRITE, ..Create::default() };
        self.files.create(&Caller::default(), create).await.expect("creates").file
    }

    pub(super) async fn open(&self, inode: u64) -> Arc<OpenFile> {
        self.files.open(&Caller::default(), inode, READ_WRITE, false).await.expect("opens").1
    }

    /// What is on the disks of the Ready holders, within the committed length; they must agree.
    pub(super) fn on_disk(&self, inode: u64) -> Vec<u8> {
        let inner = self.world.inner.lock();
        let file = &inner.files[&inode];
        let mut bytes = vec![0; usize::try_from(file.length).expect("test files are small")];
        bytes[..file.inline.len()].copy_from_slice(&file.inline);
        for (index, row) in file.chunks.iter().filter(|(_, row)| !row.is_new) {
            assert!(!row.holders.is_empty());
            let base = *index as usize * CHUNK_BYTES as usize;
            let len = bytes.len().saturating_sub(base).min(CHUNK_BYTES as usize);
            let copies = row.holders.iter().map(|(id, _)| inner.servers[id].replicas[&row.chunk].disk.read(0, len));
            let copies: Vec<_> = copies.collect();
            assert!(copies.windows(2).all(|pair| pair[0] == pair[1]), "replicas differ");
            if len > 0 {
                bytes[base..base + len].copy_from_slice(&copies[0]);
            }
        }
        bytes
    }

    pub(super) fn length(&self, inode: u64) -> u64 {
        self.world.inner.lock().files[&inode].length
    }

    pub(super) fn live_grants(&self) -> usize {
        let inner = self.world.inner.lock();
        inner.files.values().flat_map(|file| file.chunks.values()).filter(|row| row.grant.is_some()).count()
    }

    pub(super) fn buffered(&self) -> u64 {
        self.files.context.budget.used()
    }

    /// Waits (the clock jumps) until something is so.
    pub(super) async fn until(&self, what: &str, so: impl Fn(&Self) -> bool) {
        for _ in 0..100_000 {
            if so(self) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never happened: {what}");
    }
}

/// Bytes that differ from place to place.
pub(super) fn pattern(seed: u8, len: usize) -> Bytes {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8).wrapping_add(seed)).collect()
}

pub(super) async fn read_all(file: &OpenFile) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let part = file.read(bytes.len() as u64, 1 << 20).await.expect("reads");
        if part.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(&part);
    }
}

/// As `assert_eq!`, but names the first place that differs instead of all bytes.
#[track_caller]
pub(super) fn assert_same(got: &[u8], expected: &[u8]) {
    let differs = got.iter().zip(expected).position(|(a, b)| a != b);
    assert_eq!((got.len(), differs), (expected.len(), None), "length, and the first byte that differs");
}
