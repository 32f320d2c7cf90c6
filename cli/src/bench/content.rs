//! Bytes that say which file, place and time of writing they belong to, so that a reader knows whether it got the right ones.
//!
//! A block is random bytes, the same in all of them, behind a stamp: blocks differ, and filling one costs a copy of 4 KiB.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Bytes of a block; offsets and lengths are multiples of it.
pub const BLOCK_BYTES: usize = 4096;
/// File, place and generation.
const STAMP_BYTES: usize = 24;
const SEED: u64 = 0x0ca1_b0c4;

/// Makes and checks blocks.
#[derive(Debug, Clone)]
pub struct Content {
    template: Vec<u8>,
}

impl Default for Content {
    fn default() -> Self {
        let mut template = vec![0; BLOCK_BYTES];
        StdRng::seed_from_u64(SEED).fill_bytes(&mut template);
        Self { template }
    }
}

impl Content {
    /// Whole blocks of a file from block number `first` on; `generation_of` says which write of a block this is.
    pub fn fill(&self, buffer: &mut [u8], file: u64, first: u64, generation_of: impl Fn(u64) -> u64) {
        for (number, block) in (first..).zip(buffer.chunks_mut(BLOCK_BYTES)) {
            block.copy_from_slice(&self.template[..block.len()]);
            let stamp = stamp(file, number, generation_of(number));
            let end = block.len().min(STAMP_BYTES);
            block[..end].copy_from_slice(&stamp[..end]);
        }
    }

    /// The first block that is not what [`Self::fill`] wrote.
    pub fn first_wrong(&self, bytes: &[u8], file: u64, first: u64, generation_of: impl Fn(u64) -> u64) -> Option<u64> {
        let is_wrong = |number: u64, block: &[u8]| {
            let end = block.len().min(STAMP_BYTES);
            block[..end] != stamp(file, number, generation_of(number))[..end]
                || block[end..] != self.template[end..block.len()]
        };
        (first..)
            .zip(bytes.chunks(BLOCK_BYTES))
            .find(|(number, block)| is_wrong(*number, block))
            .map(|(number, _)| number)
    }
}

fn stamp(file: u64, block: u64, generation: u64) -> [u8; STAMP_BYTES] {
    let mut stamp = [0; STAMP_BYTES];
    for (to, value) in stamp.chunks_mut(8).zip([file, block, generation]) {
        to.copy_from_slice(&value.to_le_bytes());
    }
    stamp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn right_bytes_pass_and_any_other_byte_file_place_or_generation_is_found() {
        let content = Content::default();
        let mut bytes = vec![0; 3 * BLOCK_BYTES];
        content.fill(&mut bytes, 7, 100, |_| 1);
        let check = |bytes: &[u8], file, first, generation| content.first_wrong(bytes, file, first, |_| generation);
        assert_eq!(check(&bytes, 7, 100, 1), None);
        assert_eq!(check(&bytes, 8, 100, 1), Some(100));
        assert_eq!(check(&bytes, 7, 101, 1), Some(101));
        assert_eq!(check(&bytes, 7, 100, 0), Some(100));
        bytes[2 * BLOCK_BYTES + 4095] ^= 1;
        assert_eq!(check(&bytes, 7, 100, 1), Some(102));
    }

    #[test]
    fn a_piece_shorter_than_a_block_is_checked_too() {
        let content = Content::default();
        let mut bytes = vec![0; BLOCK_BYTES + 100];
        content.fill(&mut bytes, 1, 0, |n| n);
        assert_eq!(content.first_wrong(&bytes, 1, 0, |n| n), None);
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        assert_eq!(content.first_wrong(&bytes, 1, 0, |n| n), Some(1));
    }
}
