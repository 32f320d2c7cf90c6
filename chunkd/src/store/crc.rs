//! CRC-32C arithmetic: how the checksum of a block follows from those of its parts (W3).
//!
//! CRC-32C is linear up to a constant: for `a`, `b` of equal length `crc(a) ^ crc(b)` depends on `a ^ b` alone, and following
//! bytes act on it as a fixed linear operator. So a block's checksum is updated from the old and the new fragment,
//! without the rest of the block; if the block was damaged at rest, its checksum stays wrong and the damage detectable.

use std::sync::OnceLock;

type Matrix = [u32; 32];
/// Powers of two of zero bytes: 2^0 … 2^26, so that a whole chunk can be shifted over.
const POWERS: usize = 27;

pub(crate) fn crc(data: &[u8]) -> u32 {
    crc32c::crc32c(data)
}

/// The operator "`zeros` zero bytes follow", applied to a difference of checksums.
pub(crate) fn shift(mut difference: u32, zeros: u32) -> u32 {
    assert!(zeros < 1 << POWERS, "longer than a chunk");
    for (power, matrix) in operators().iter().enumerate() {
        if zeros & (1 << power) != 0 {
            difference = times(matrix, difference);
        }
    }
    difference
}

/// The checksum of `a` followed by `b`.
pub(crate) fn concat(a: u32, b: u32, b_length: u32) -> u32 {
    shift(a, b_length) ^ b
}

/// The checksum of `length` zero bytes.
pub(crate) fn of_zeros(length: u32) -> u32 {
    shift(u32::MAX, length) ^ u32::MAX
}

/// The checksum of a block in which a fragment changes: `old` and `new` are the fragment's, `after` the bytes behind it.
pub(crate) fn replace(block: u32, old: u32, new: u32, after: u32) -> u32 {
    block ^ shift(old ^ new, after)
}

fn times(matrix: &Matrix, mut vector: u32) -> u32 {
    let mut sum = 0;
    while vector != 0 {
        sum ^= matrix[vector.trailing_zeros() as usize];
        vector &= vector - 1;
    }
    sum
}

fn operators() -> &'static [Matrix; POWERS] {
    static OPERATORS: OnceLock<[Matrix; POWERS]> = OnceLock::new();
    OPERATORS.get_or_init(|| {
        let mut all = [[0; 32]; POWERS];
        all[0] = std::array::from_fn(|bit| crc32c::crc32c_combine(1 << bit, 0, 1));
        for power in 1..POWERS {
            let half = all[power - 1];
            all[power] = std::array::from_fn(|bit| times(&half, half[bit]));
        }
        all
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        // W3: the linear update equals the checksum of the whole block, for any fragment.
        #[test]
        fn a_fragment_updates_a_block(seed in any::<u64>(), offset in 0usize..65_536, length in 1usize..65_536) {
            let mut block: Vec<u8> = (0..65_536u64).map(|i| (i.wrapping_mul(seed | 1) >> 7) as u8).collect();
            let end = (offset + length).min(block.len());
            let before = crc(&block);
            let old = crc(&block[offset..end]);
            for (i, byte) in block[offset..end].iter_mut().enumerate() {
                *byte = byte.wrapping_mul(31).wrapping_add(i as u8 ^ 0x5a);
            }
            let new = crc(&block[offset..end]);
            prop_assert_eq!(replace(before, old, new, (block.len() - end) as u32), crc(&block));
        }

        // Damage outside the fragment stays visible.
        #[test]
        fn old_damage_stays_detectable(at in 0usize..1000, bit in 0u8..8, offset in 2000usize..3000, length in 1usize..500) {
            let mut block = vec![7u8; 4096];
            let summed = crc(&block);
            block[at] ^= 1 << bit;
            let old = crc(&block[offset..offset + length]);
            block[offset..offset + length].fill(9);
            let new = crc(&block[offset..offset + length]);
            let after = (block.len() - offset - length) as u32;
            prop_assert_ne!(replace(summed, old, new, after), crc(&block));
        }

        #[test]
        fn parts_make_the_whole(a in prop::collection::vec(any::<u8>(), 0..3000), b in prop::collection::vec(any::<u8>(), 0..3000)) {
            let whole: Vec<u8> = a.iter().chain(&b).copied().collect();
            prop_assert_eq!(concat(crc(&a), crc(&b), b.len() as u32), crc(&whole));
        }

        #[test]
        fn zeros(length in 0u32..200_000) {
            prop_assert_eq!(of_zeros(length), crc(&vec![0; length as usize]));
        }
    }
}
