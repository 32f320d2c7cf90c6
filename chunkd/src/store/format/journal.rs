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
/// No chunk has this id.
const NO_VANISHING: u64 = 0;
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

/// Stands for the data folders of a server (M17). 0: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FolderSet(pub(crate) u32);

impl FolderSet {
    pub(crate) fn of(disks: impl IntoIterator<Item = [u8; 16]>) -> Self {
        let mut disks: Vec<[u8; 16]> = disks.into_iter().collect();
        disks.sort_unstable();
        Self(crc(&disks.concat()).max(1))
    }
}

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// The first record of a file. `boot`: in which it was begun (M16); `None` if that was not known, or the file was written before there
    /// was this field. `folders`: of the server then.
    Start { format: u16, boot: Option<Boot>, folders: FolderSet },
    /// The chunk has, or may get, un-synced writes.
    Open { chunk: ChunkId, version: ChunkVersion, grant: GrantId, doubt: Doubt },
    /// All its writes are synced.
    Close { chunk: ChunkId },
    /// All ids from here on may have un-synced writes. `grant`: the highest seen on this disk (V5). `vanishing`: those from there on may have
    /// vanished (M17); older releases neither write nor read it.
    Watermark { chunk: ChunkId, grant: GrantId, vanishing: Option<ChunkId> },
}

pub(crate) fn encode(sequence: u64, disk_uuid: [u8; 16], record: &Record) -> [u8; RECORD] {
    let (kind, chunk, version, grant) = match *record {
        Record::Start { format, boot, .. } => {
            let boot = boot.unwrap_or(UNKNOWN_BOOT);
            (1, boot.kernel, u64::from(format), boot.mount)
        }
        Record::Open { chunk, version, grant, .. } => (2, chunk.0, version.0, grant.0),
        Record::Close { chunk } => (3, chunk.0, 0, 0),
        Record::Watermark { chunk, grant, vanishing } => {
            (4, chunk.0, vanishing.map_or(NO_VANISHING, |from| from.0.max(1)), grant.0)
        }
    };
    let mut bytes = [0; RECORD];
    put(&mut bytes, 0, MAGIC);
    bytes[4] = kind;
    match record {
        Record::Open { doubt, .. } => bytes[5] = *doubt as u8,
        Record::Start { folders, .. } => put(&mut bytes, 56, &folders.0.to_le_bytes()),
        _ => {}
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
            let (format, folders) = (u16::try_from(version).unwrap_or(u16::MAX), FolderSet(u32_at(bytes, 56)));
            Some(Record::Start { format, boot, folders })
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
        4 => {
            let vanishing = (version != NO_VANISHING).then_some(ChunkId(version));
            Some(Record::Watermark { chunk, grant, vanishing })
        }
        _ => None,
    }
}
