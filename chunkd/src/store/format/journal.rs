//! Records of the dirty journal (V3): 64 bytes each, so that none crosses a sector. The file begins with a `Start` and ends at the
//! first record that does not decode or does not follow; nothing behind it was ever synced.

use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};

use super::super::crc::crc;
use super::super::disk::Boot;
use super::{array_at, put, u32_at, u64_at};

pub(crate) const FORMAT: u16 = 1;
pub(crate) const RECORD: usize = 64;
const MAGIC: &[u8; 4] = b"CBJ1";
const CHECKSUM_AT: usize = RECORD - 4;
const UNKNOWN_BOOT: Boot = Boot { kernel: 0, mount: 0 };

/// What a dirty chunk may have lost, as far as the journal knows. The numbers are on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Doubt {
    /// Nothing, in the boot of the file's `Start`: all its un-synced writes are of that boot (M16).
    #[default]
    ThisBoot = 0,
    /// Any un-synced write.
    EarlierBoot = 1,
    /// Everything: an empty replica in the place of one that vanished when the power went, before any sync (M17).
    Vanished = 2,
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The first record of a file. `boot`: in which it was begun (M16); `None` if that was not known, or the file was written before there
    /// was this field.
    Start { format: u16, boot: Option<Boot> },
    /// The chunk has, or may get, un-synced writes.
    Open { chunk: ChunkId, version: ChunkVersion, grant: GrantId, doubt: Doubt },
    /// All its writes are synced.
    Close { chunk: ChunkId },
    /// All ids from here on may have un-synced writes. `grant`: the highest seen on this disk (V5).
    Watermark { chunk: ChunkId, grant: GrantId },
}

pub(crate) fn encode(sequence: u64, disk_uuid: [u8; 16], record: &Record) -> [u8; RECORD] {
    let (kind, chunk, version, grant) = match *record {
        Record::Start { format, boot } => {
            let boot = boot.unwrap_or(UNKNOWN_BOOT);
            (1, boot.kernel, u64::from(format), boot.mount)
        }
        Record::Open { chunk, version, grant, .. } => (2, chunk.0, version.0, grant.0),
        Record::Close { chunk } => (3, chunk.0, 0, 0),
        Record::Watermark { chunk, grant } => (4, chunk.0, 0, grant.0),
    };
    let mut bytes = [0; RECORD];
    put(&mut bytes, 0, MAGIC);
    bytes[4] = kind;
    if let Record::Open { doubt, .. } = record {
        bytes[5] = *doubt as u8;
    }
    put(&mut bytes, 8, &sequence.to_le_bytes());
    put(&mut bytes, 16, &chunk.to_le_bytes());
    put(&mut bytes, 24, &version.to_le_bytes());
    put(&mut bytes, 32, &grant.to_le_bytes());
    put(&mut bytes, 40, &disk_uuid);
    let sum = crc(&bytes[..CHECKSUM_AT]);
    put(&mut bytes, CHECKSUM_AT, &sum.to_le_bytes());
    bytes
}

/// `None` unless it is a whole record of this disk with this sequence number.
pub(crate) fn decode(bytes: &[u8], sequence: u64, disk_uuid: [u8; 16]) -> Option<Record> {
    let bytes: &[u8; RECORD] = bytes.try_into().ok()?;
    let sound = &bytes[..4] == MAGIC && u32_at(bytes, CHECKSUM_AT) == crc(&bytes[..CHECKSUM_AT]);
    if !sound || u64_at(bytes, 8) != sequence || array_at::<16>(bytes, 40) != disk_uuid {
        return None;
    }
    let (chunk, grant) = (ChunkId(u64_at(bytes, 16)), GrantId(u64_at(bytes, 32)));
    let version = u64_at(bytes, 24);
    match bytes[4] {
        1 => {
            let boot = Some(Boot { kernel: chunk.0, mount: grant.0 }).filter(|boot| *boot != UNKNOWN_BOOT);
            Some(Record::Start { format: u16::try_from(version).unwrap_or(u16::MAX), boot })
        }
        2 => {
            let doubt = match bytes[5] {
                0 => Doubt::ThisBoot,
                2 => Doubt::Vanished,
                _ => Doubt::EarlierBoot,
            };
            Some(Record::Open { chunk, version: ChunkVersion(version), grant, doubt })
        }
        3 => Some(Record::Close { chunk }),
        4 => Some(Record::Watermark { chunk, grant }),
        _ => None,
    }
}
