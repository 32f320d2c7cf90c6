//! Names within a data folder.
//!
//! ```text
//! caribou-disk                     whose folder it is (F1)
//! incarnation  fence  clean        F3, F2, the mark of a clean stop
//! journal                          V3
//! chunks/xx/<id>.chunk             xx: the id's lowest byte, all numbers in hex
//! quarantine/deleted/<unix ms>-<id>-v<version>.chunk    R4: by a committed Delete; purged after the retention
//! quarantine/found/<name>          R4: what a scan could not place; never purged by the server
//! ```

use caribou_proto::ids::{ChunkId, ChunkVersion};

pub(crate) const IDENTITY: &str = "caribou-disk";
pub(crate) const INCARNATION: &str = "incarnation";
pub(crate) const FENCE: &str = "fence";
pub(crate) const CLEAN: &str = "clean";
pub(crate) const JOURNAL: &str = "journal";
pub(crate) const CHUNKS: &str = "chunks";
pub(crate) const QUARANTINE: &str = "quarantine";
pub(crate) const DELETED: &str = "quarantine/deleted";
pub(crate) const FOUND: &str = "quarantine/found";
/// Folders below `chunks`.
pub(crate) const FANOUT: u64 = 256;

/// The name under which a file is written before it replaces the one called `name`.
pub(crate) fn fresh(name: &str) -> String {
    format!("{name}.new")
}

pub(crate) fn shard(number: u64) -> String {
    format!("{CHUNKS}/{number:02x}")
}

pub(crate) fn shard_of(chunk: ChunkId) -> String {
    shard(chunk.0 % FANOUT)
}

pub(crate) fn chunk_name(chunk: ChunkId) -> String {
    format!("{:016x}.chunk", chunk.0)
}

/// Where a replica's file is.
pub fn chunk_path(chunk: ChunkId) -> String {
    format!("{}/{}", shard_of(chunk), chunk_name(chunk))
}

/// The chunk of a file name in the shard where it belongs.
pub(crate) fn parse_chunk_name(shard: u64, name: &str) -> Option<ChunkId> {
    let hex = name.strip_suffix(".chunk")?;
    let chunk = ChunkId(u64::from_str_radix(hex, 16).ok()?);
    (chunk_name(chunk) == name && chunk.0 % FANOUT == shard).then_some(chunk)
}

pub(crate) fn deleted_path(chunk: ChunkId, version: ChunkVersion, now_unix_ms: u64) -> String {
    format!("{DELETED}/{now_unix_ms:013}-{:016x}-v{}.chunk", chunk.0, version.0)
}

/// When a file in `quarantine/deleted` came there.
pub(crate) fn deleted_at_ms(name: &str) -> Option<u64> {
    name.strip_suffix(".chunk")?.split_once('-')?.0.parse().ok()
}
