//! What the tests of the chunk store share: opening one on a memory disk, and short forms of its calls.

#![allow(dead_code)] // each test file uses its part

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caribou_chunkd::store::disk::Disk;
use caribou_chunkd::store::memory::{Hook, MemoryDisk};
use caribou_chunkd::store::{
    BLOCK_MATCHES, BLOCK_MAY_DIFFER, BLOCK_WRITTEN, ChunkStore, ClusterIdentity, Error, OpenError, OpenOptions,
    Prepare, Prepared, Write, Written,
};
use caribou_proto::ids::{BLOCK_STATE_BYTES, ChunkId, ChunkVersion, GrantId, ServerId};
use parking_lot::{Condvar, Mutex};

pub const CLUSTER: ClusterIdentity = ClusterIdentity { uuid: [0xCA; 16], generation: 1, nonce: 77 };
pub const SERVER: ServerId = ServerId(3);
pub const BLOCK: usize = 64 << 10;

pub fn id(counter: u64) -> ChunkId {
    ChunkId::new(1, counter)
}
pub fn version(number: u64) -> ChunkVersion {
    ChunkVersion(number)
}
pub fn grant(counter: u64) -> GrantId {
    GrantId::new(1, counter)
}

pub fn uuids(seed: u8) -> Box<dyn FnMut() -> [u8; 16] + Send> {
    let mut count = 0;
    Box::new(move || {
        count += 1;
        let mut uuid = [seed; 16];
        uuid[15] = count;
        uuid
    })
}

pub async fn try_open(disks: Vec<Arc<dyn Disk>>, seed: u8) -> Result<Arc<ChunkStore>, OpenError> {
    open_at(disks, seed, 0).await
}

/// At a time of the wall clock, in milliseconds.
pub async fn open_at(disks: Vec<Arc<dyn Disk>>, seed: u8, now_unix_ms: u64) -> Result<Arc<ChunkStore>, OpenError> {
    let deadline = Duration::from_secs(20);
    ChunkStore::open(OpenOptions { disks, new_uuid: uuids(seed), now_unix_ms, deadline }).await
}

/// A registered store on one disk.
pub async fn open(disk: &Arc<MemoryDisk>) -> Arc<ChunkStore> {
    let store = try_open(vec![disk.clone()], 1).await.unwrap();
    store.adopt(CLUSTER, SERVER).await.unwrap();
    store
}

/// The same on threads, with a deadline that a test can wait for.
pub async fn open_impatient(disks: Vec<Arc<dyn Disk>>) -> Arc<ChunkStore> {
    let deadline = Duration::from_millis(300);
    let store = ChunkStore::open(OpenOptions { disks, new_uuid: uuids(1), now_unix_ms: 0, deadline }).await.unwrap();
    store.adopt(CLUSTER, SERVER).await.unwrap();
    store
}

pub fn memory() -> Arc<MemoryDisk> {
    Arc::new(MemoryDisk::new("memory"))
}

/// Stops a store without its leave and opens what a `kill -9` leaves.
pub async fn killed(store: Arc<ChunkStore>, disk: &Arc<MemoryDisk>) -> (Arc<ChunkStore>, Arc<MemoryDisk>) {
    let disk = Arc::new(disk.restart());
    drop(store);
    (open(&disk).await, disk)
}

/// The same for a loss of power.
pub async fn power_cut(
    store: Arc<ChunkStore>,
    disk: &Arc<MemoryDisk>,
    seed: u64,
) -> (Arc<ChunkStore>, Arc<MemoryDisk>) {
    let disk = Arc::new(disk.power_cut(seed));
    drop(store);
    (open(&disk).await, disk)
}

pub fn fragment(chunk: u64, offset: usize, data: &[u8]) -> Write {
    Write {
        chunk: id(chunk),
        version: version(1),
        grant: grant(1),
        create: true,
        offset: offset as u32,
        crc: crc32c::crc32c(data),
        data: Bytes::copy_from_slice(data),
        tail: true,
    }
}

pub async fn write(store: &ChunkStore, chunk: u64, offset: usize, data: &[u8]) -> Result<Written, Error> {
    store.write(fragment(chunk, offset, data)).await
}

pub async fn read(store: &ChunkStore, chunk: u64, at: u64, offset: usize, length: usize) -> Result<Bytes, Error> {
    let read = store.read(id(chunk), version(at), offset as u32, length as u32).await?;
    assert_eq!(read.crc, crc32c::crc32c(&read.data));
    assert_eq!(read.data.len(), length);
    Ok(read.data)
}

pub async fn prepare(store: &ChunkStore, chunk: u64, to: u64) -> Result<Prepared, Error> {
    store.prepare(Prepare { chunk: id(chunk), version: version(to), join: false, old_grant: grant(1) }).await
}

/// Flags and CRC of a block as prepared.
pub fn block_state(prepared: &Prepared, block: usize) -> (u8, u32) {
    let bytes = &prepared.blocks[block * BLOCK_STATE_BYTES..][..BLOCK_STATE_BYTES];
    (bytes[0], u32::from_le_bytes(bytes[1..].try_into().unwrap()))
}

pub const HOLE: u8 = BLOCK_MATCHES;
pub const GOOD: u8 = BLOCK_WRITTEN | BLOCK_MATCHES;
pub const DAMAGED: u8 = BLOCK_WRITTEN;
pub const UNACKED: u8 = GOOD | BLOCK_MAY_DIFFER;

/// Bytes that differ everywhere.
pub fn pattern(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    (0..length).map(step).collect()
}

/// Holds calls of one kind back until it is opened.
#[derive(Default)]
pub struct Gate(Mutex<bool>, Condvar);

impl Gate {
    /// Lets the first `free` of these calls through.
    pub fn hook(self: &Arc<Self>, held: &'static str, free: u32) -> Arc<Hook> {
        let (gate, seen) = (self.clone(), AtomicU32::new(0));
        Arc::new(move |call| {
            if call != held || seen.fetch_add(1, Ordering::SeqCst) < free {
                return Ok(());
            }
            let mut open = gate.0.lock();
            while !*open {
                gate.1.wait(&mut open);
            }
            Ok(())
        })
    }

    pub fn open(&self) {
        *self.0.lock() = true;
        self.1.notify_all();
    }
}
