//! The small single-value files of a data folder: `incarnation` (F3), `fence` (F2) and `clean`. One sector each, replaced by rename.

use super::{Decoded, SECTOR, array_at, put, seal, u16_at, u64_at, unsealed};

pub(crate) const FORMAT: u16 = 1;
const MAGIC: &[u8; 8] = b"CARIBREC";

/// Which file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// `first`: the highest incarnation used.
    Incarnation = 1,
    /// `first`: generation, `second`: term.
    Fence = 2,
    /// `first`: the incarnation that stopped cleanly.
    Clean = 3,
}

/// Two numbers, by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) first: u64,
    pub(crate) second: u64,
}

pub(crate) fn encode(kind: Kind, disk_uuid: [u8; 16], record: Record) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    put(&mut sector, 0, MAGIC);
    put(&mut sector, 8, &FORMAT.to_le_bytes());
    sector[10] = kind as u8;
    put(&mut sector, 16, &record.first.to_le_bytes());
    put(&mut sector, 24, &record.second.to_le_bytes());
    put(&mut sector, 32, &disk_uuid);
    seal(&mut sector);
    sector
}

/// A record of another kind or another disk is damage.
pub(crate) fn decode(sector: &[u8; SECTOR], kind: Kind, disk_uuid: [u8; 16]) -> Decoded<Record> {
    if let Some(wrong) = unsealed(sector) {
        return wrong;
    }
    let format = u16_at(sector, 8);
    if &sector[..8] == MAGIC && format > FORMAT {
        return Decoded::TooNew(format);
    }
    if &sector[..8] != MAGIC || sector[10] != kind as u8 || array_at::<16>(sector, 32) != disk_uuid {
        return Decoded::Damaged;
    }
    Decoded::Valid(Record { first: u64_at(sector, 16), second: u64_at(sector, 24) })
}
