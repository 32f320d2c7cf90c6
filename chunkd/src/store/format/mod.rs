//! Bytes on a chunk server's disks. docs/on-disk-format.md has the tables; `tests/store_format.rs` pins the bytes.
//!
//! Everything is little endian and written in units that carry magic, format and an own CRC-32C. Decoders take any bytes and
//! say *empty* (all zeros: never written), *damaged*, *too new* or the value; they never panic.

pub(crate) mod header;
pub(crate) mod identity;
pub(crate) mod journal;
pub(crate) mod record;
pub(crate) mod table;

#[cfg(test)]
mod tests;

use super::crc::crc;

/// What the format relies on being written as one: old or new, nothing between.
pub(crate) const SECTOR: usize = 512;
/// Where a sector's checksum is, over all bytes before it. Never moves in any format.
const CHECKSUM_AT: usize = SECTOR - 4;

/// What some bytes turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Decoded<T> {
    Valid(T),
    /// All zeros: never written.
    Empty,
    Damaged,
    /// Valid, but of a later format.
    TooNew(u16),
}

/// Seals a sector: puts its checksum at its end.
fn seal(sector: &mut [u8; SECTOR]) {
    let sum = crc(&sector[..CHECKSUM_AT]);
    sector[CHECKSUM_AT..].copy_from_slice(&sum.to_le_bytes());
}

/// `None` if the checksum holds, else what is wrong.
fn unsealed<T>(sector: &[u8; SECTOR]) -> Option<Decoded<T>> {
    if sector.iter().all(|byte| *byte == 0) {
        return Some(Decoded::Empty);
    }
    let sum = u32_at(sector, CHECKSUM_AT);
    (sum != crc(&sector[..CHECKSUM_AT])).then_some(Decoded::Damaged)
}

/// The sector at the start of `bytes`, zeros where they are too short.
pub(crate) fn sector_of(bytes: &[u8]) -> [u8; SECTOR] {
    let mut sector = [0; SECTOR];
    let length = bytes.len().min(SECTOR);
    sector[..length].copy_from_slice(&bytes[..length]);
    sector
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, at))
}
fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}
fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}
fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}
