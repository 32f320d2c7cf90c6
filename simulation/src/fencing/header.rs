//! The header of a chunk's file, read as docs/on-disk-format.md has it, by code of its own.

use caribou_proto::ids::{ChunkVersion, GrantId};

/// Where its copies are.
pub const PLACES: [u64; 3] = [0, 4096, 8192];
/// Where block 0 begins.
pub const DATA_AT: u64 = 64 << 10;
const BYTES: usize = 512;
const CHECKSUM_AT: usize = 508;
const COMPLETE: u8 = 2;

/// What one copy says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The highest is the newest.
    pub sequence: u64,
    pub version: ChunkVersion,
    pub is_complete: bool,
    /// The highest grant that wrote.
    pub last_grant: GrantId,
    /// Grants up to this one are refused.
    pub fenced_grant: GrantId,
}

impl Header {
    /// `None`: it was never written, or it is torn.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let sector = bytes.get(..BYTES)?;
        let number = |at: usize| Some(u64::from_le_bytes(sector.get(at..at + 8)?.try_into().ok()?));
        let sum = u32::from_le_bytes(sector[CHECKSUM_AT..].try_into().ok()?);
        if !sector.starts_with(b"CARIBCHK") || crc32c::crc32c(&sector[..CHECKSUM_AT]) != sum {
            return None;
        }
        Some(Self {
            sequence: number(80)?,
            version: ChunkVersion(number(48)?),
            is_complete: sector[10] == COMPLETE,
            last_grant: GrantId(number(64)?),
            fenced_grant: GrantId(number(72)?),
        })
    }

    /// The newest of the copies at a file's beginning.
    pub fn newest(beginning: &[u8]) -> Option<Self> {
        let copies = PLACES.iter().filter_map(|at| Self::read(beginning.get(*at as usize..)?));
        copies.max_by_key(|header| header.sequence)
    }

    /// V1, F3: whether bytes of this version and grant may come into the file.
    pub fn admits(&self, version: ChunkVersion, grant: GrantId) -> bool {
        self.is_complete && self.version == version && grant >= self.last_grant && grant > self.fenced_grant
    }
}
