//! `Meta`: one row per counter and the identity of the cluster. Key: one byte, never reused.
//!
//! Counters of ids hold the highest id given out: an id is never used twice (F1). The state hash is the one row that is not part of
//! the state hash.

use super::codec::{Reader, Writer};
use super::{Table, Tables, Txn};
use crate::fsm::error::Fatal;
use caribou_proto::ids::{ChunkId, GrantId, InodeId, ServerId, SessionId};

/// A number of the cluster. The numbers are keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Counter {
    /// Highest id given out; of chunks and grants only the 48 bits below the generation.
    InodeId = 2,
    ChunkId = 3,
    GrantId = 4,
    SessionId = 5,
    ServerId = 6,
    /// Inodes that exist, orphans included.
    Inodes = 9,
    /// Sum of the lengths of all regular files.
    Bytes = 10,
    /// Sessions that have not ended.
    LiveSessions = 11,
    Orphans = 12,
    /// Rows of `Chunks`, `Intents` and `Garbage`.
    Chunks = 13,
    Intents = 14,
    Garbage = 15,
}

const CLUSTER: u8 = 1;
const LAST_TIME: u8 = 7;
const STATE_HASH: u8 = 8;

/// Who this cluster is (F1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    pub uuid: [u8; 16],
    pub generation: u16,
    pub nonce: u64,
}

/// A counter's value; 0 before its first change.
pub fn counter(tables: &dyn Tables, counter: Counter) -> Result<u64, Fatal> {
    number(tables, counter as u8)
}

fn number(tables: &dyn Tables, key: u8) -> Result<u64, Fatal> {
    let Some(row) = tables.get(Table::Meta, &[key])? else { return Ok(0) };
    let mut reader = Reader::row(Table::Meta, &row)?;
    let value = reader.u64()?;
    reader.end()?;
    Ok(value)
}

fn put_number(txn: &mut Txn<'_>, key: u8, value: u64) {
    txn.put(Table::Meta, [key], Writer::row().u64(value).finish());
}

/// Raises a counter by one and returns the new value.
fn next(txn: &mut Txn<'_>, id: Counter) -> Result<u64, Fatal> {
    let value = counter(txn, id)?.checked_add(1).ok_or_else(|| Fatal(format!("counter {id:?} is used up")))?;
    put_number(txn, id as u8, value);
    Ok(value)
}

/// Adds to a total, or takes from it.
pub(crate) fn add(txn: &mut Txn<'_>, total: Counter, delta: i64) -> Result<(), Fatal> {
    if delta == 0 {
        return Ok(());
    }
    let value = counter(txn, total)?;
    let value = value
        .checked_add_signed(delta)
        .ok_or_else(|| Fatal(format!("total {total:?} is {value} and cannot change by {delta}")))?;
    put_number(txn, total as u8, value);
    Ok(())
}

pub(crate) fn next_inode(txn: &mut Txn<'_>) -> Result<InodeId, Fatal> {
    next(txn, Counter::InodeId).map(InodeId)
}

pub(crate) fn next_session(txn: &mut Txn<'_>) -> Result<SessionId, Fatal> {
    next(txn, Counter::SessionId).map(SessionId)
}

pub(crate) fn next_server(txn: &mut Txn<'_>) -> Result<ServerId, Fatal> {
    next(txn, Counter::ServerId).map(ServerId)
}

/// F1: generation and counter.
pub(crate) fn next_chunk(txn: &mut Txn<'_>) -> Result<ChunkId, Fatal> {
    let generation = existing_cluster(txn)?.generation;
    Ok(ChunkId::new(generation, next(txn, Counter::ChunkId)?))
}

/// F1: whether a chunk of the present generation has been given this id.
pub fn is_given(tables: &dyn Tables, id: ChunkId) -> Result<bool, Fatal> {
    let Some(Cluster { generation, .. }) = cluster(tables)? else { return Ok(false) };
    let last = ChunkId::new(generation, counter(tables, Counter::ChunkId)?);
    Ok(ChunkId::new(generation, 0) < id && id <= last)
}

/// F3: generation and counter.
pub(crate) fn next_grant(txn: &mut Txn<'_>) -> Result<GrantId, Fatal> {
    let generation = existing_cluster(txn)?.generation;
    Ok(GrantId::new(generation, next(txn, Counter::GrantId)?))
}

/// The cluster's identity; `None` before `InitCluster`.
pub fn cluster(tables: &dyn Tables) -> Result<Option<Cluster>, Fatal> {
    let Some(row) = tables.get(Table::Meta, &[CLUSTER])? else { return Ok(None) };
    let mut reader = Reader::row(Table::Meta, &row)?;
    let uuid = reader.array()?;
    let generation = u16::try_from(reader.u64()?).map_err(|_| reader.corrupt("a generation has 16 bits"))?;
    let nonce = reader.u64()?;
    reader.end()?;
    Ok(Some(Cluster { uuid, generation, nonce }))
}

/// The cluster's identity where it must be there.
pub(crate) fn existing_cluster(tables: &dyn Tables) -> Result<Cluster, Fatal> {
    cluster(tables)?.ok_or_else(|| Fatal("the cluster has no identity".into()))
}

pub(crate) fn put_cluster(txn: &mut Txn<'_>, cluster: &Cluster) {
    let row = Writer::row().raw(&cluster.uuid).u64(u64::from(cluster.generation)).u64(cluster.nonce).finish();
    txn.put(Table::Meta, [CLUSTER], row);
}

/// The time stamp of the last entry, in nanoseconds; 0 before the first.
pub fn last_time_ns(tables: &dyn Tables) -> Result<i64, Fatal> {
    let Some(row) = tables.get(Table::Meta, &[LAST_TIME])? else { return Ok(0) };
    let mut reader = Reader::row(Table::Meta, &row)?;
    let time_ns = reader.i64()?;
    reader.end()?;
    Ok(time_ns)
}

pub(crate) fn put_last_time_ns(txn: &mut Txn<'_>, time_ns: i64) {
    txn.put(Table::Meta, [LAST_TIME], Writer::row().i64(time_ns).finish());
}

/// The rolling hash of everything applied so far.
pub fn state_hash(tables: &dyn Tables) -> Result<u64, Fatal> {
    let Some(row) = tables.get(Table::Meta, &[STATE_HASH])? else { return Ok(0) };
    let mut reader = Reader::row(Table::Meta, &row)?;
    let hash = u64::from_be_bytes(reader.array()?);
    reader.end()?;
    Ok(hash)
}

pub(crate) fn put_state_hash(txn: &mut Txn<'_>, hash: u64) {
    txn.put(Table::Meta, [STATE_HASH], Writer::row().raw(&hash.to_be_bytes()).finish());
}
