//! The header of a chunk's file: one sector, in three slots (see `slots.rs`) on three different pages.
//!
//! Three slots rather than one sector in place: a header that is torn or lost must leave the one before it, since it says
//! which version is fenced (V1). Rather than two: a header may be written while an fdatasync of the last one runs.

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};

use super::super::request::ClusterIdentity;
use super::super::slots::{SLOTS, Stamp};
use super::{Decoded, SECTOR, array_at, put, seal, u16_at, u64_at, unsealed};

pub(crate) const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"CARIBCHK";
const INCOMPLETE: u8 = 1;
const COMPLETE: u8 = 2;
/// From one header slot to the next: a page of its own each.
const STRIDE: u64 = 4096;
/// Bytes at the start of a file that hold all header slots.
pub(crate) const HEADERS_BYTES: usize = 2 * STRIDE as usize + SECTOR;

/// What a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: ChunkVersion,
    /// The highest version completed; 0 if none.
    pub(crate) completed: ChunkVersion,
    pub(crate) complete: bool,
    /// V5: the highest grant that wrote.
    pub(crate) last_grant: GrantId,
    /// Grants up to this one are refused (V1, F3).
    pub(crate) fenced_grant: GrantId,
}

/// Whose header it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) cluster: ClusterIdentity,
    pub(crate) disk_uuid: [u8; 16],
    pub(crate) chunk: ChunkId,
}

/// A header as found in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoredHeader {
    pub(crate) owner: Owner,
    pub(crate) header: Header,
    pub(crate) stamp: Stamp,
}

pub(crate) fn offset(slot: usize) -> u64 {
    assert!(slot < SLOTS);
    slot as u64 * STRIDE
}

pub(crate) fn encode(stored: &StoredHeader) -> [u8; SECTOR] {
    let StoredHeader { owner, header, stamp } = stored;
    let mut sector = [0; SECTOR];
    put(&mut sector, 0, MAGIC);
    put(&mut sector, 8, &FORMAT.to_le_bytes());
    sector[10] = if header.complete { COMPLETE } else { INCOMPLETE };
    put(&mut sector, 12, &owner.cluster.generation.to_le_bytes());
    put(&mut sector, 16, &owner.cluster.uuid);
    put(&mut sector, 32, &owner.cluster.nonce.to_le_bytes());
    put(&mut sector, 40, &owner.chunk.0.to_le_bytes());
    put(&mut sector, 48, &header.version.0.to_le_bytes());
    put(&mut sector, 56, &header.completed.0.to_le_bytes());
    put(&mut sector, 64, &header.last_grant.0.to_le_bytes());
    put(&mut sector, 72, &header.fenced_grant.0.to_le_bytes());
    put(&mut sector, 80, &stamp.sequence.to_le_bytes());
    put(&mut sector, 88, &stamp.synced.to_le_bytes());
    put(&mut sector, 96, &owner.disk_uuid);
    seal(&mut sector);
    sector
}

pub(crate) fn decode(sector: &[u8; SECTOR]) -> Decoded<StoredHeader> {
    if let Some(wrong) = unsealed(sector) {
        return wrong;
    }
    if &sector[..8] != MAGIC {
        return Decoded::Damaged;
    }
    let format = u16_at(sector, 8);
    if format > FORMAT {
        return Decoded::TooNew(format);
    }
    let complete = match sector[10] {
        INCOMPLETE => false,
        COMPLETE => true,
        _ => return Decoded::Damaged,
    };
    let header = Header {
        version: ChunkVersion(u64_at(sector, 48)),
        completed: ChunkVersion(u64_at(sector, 56)),
        complete,
        last_grant: GrantId(u64_at(sector, 64)),
        fenced_grant: GrantId(u64_at(sector, 72)),
    };
    let stamp = Stamp { sequence: u64_at(sector, 80), synced: u64_at(sector, 88) };
    let consistent = header.completed <= header.version && complete == (header.completed == header.version);
    if format != FORMAT || !consistent || !stamp.is_valid() {
        return Decoded::Damaged;
    }
    let cluster =
        ClusterIdentity { uuid: array_at(sector, 16), generation: u16_at(sector, 12), nonce: u64_at(sector, 32) };
    let owner = Owner { cluster, disk_uuid: array_at(sector, 96), chunk: ChunkId(u64_at(sector, 40)) };
    Decoded::Valid(StoredHeader { owner, header, stamp })
}
