//! Self-describing blocks: file, place and sequence number of the write, and every word derived from them, so that a reader tells
//! new from old, whole from mixed, own from foreign.

/// Size of one block in bytes.
pub const BLOCK: usize = 4096;
const WORDS: usize = BLOCK / 8;

/// What a block says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Never written: all zeros.
    Hole,
    /// One whole write.
    Write { sequence: u64 },
    /// Parts of several writes, another file's bytes, or garbage.
    Mixed,
}

/// The block of `file` at `place` as write `sequence` leaves it.
pub fn make(file: u64, place: u64, sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(BLOCK);
    for value in [file, place, sequence] {
        bytes.extend(value.to_le_bytes());
    }
    for word in 3..WORDS as u64 {
        bytes.extend(derived(file, place, sequence, word).to_le_bytes());
    }
    bytes
}

/// What was read at `place` of `file`.
pub fn read(file: u64, place: u64, bytes: &[u8]) -> Content {
    if bytes.iter().all(|b| *b == 0) {
        return Content::Hole;
    }
    let word = |i: usize| bytes.get(i * 8..i * 8 + 8).and_then(|b| b.try_into().ok()).map(u64::from_le_bytes);
    match (word(0), word(1), word(2)) {
        (Some(f), Some(p), Some(sequence)) if f == file && p == place && bytes == make(file, place, sequence) => {
            Content::Write { sequence }
        }
        _ => Content::Mixed,
    }
}

/// SplitMix64 over the four numbers: every word differs with every one of them.
fn derived(file: u64, place: u64, sequence: u64, word: u64) -> u64 {
    let mut x = file.rotate_left(48) ^ place.rotate_left(24) ^ sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_blocks_are_recognised_and_mixed_ones_too() {
        let (old, new) = (make(1, 2, 3), make(1, 2, 4));
        assert_eq!(read(1, 2, &old), Content::Write { sequence: 3 });
        assert_eq!(read(1, 2, &[0; BLOCK]), Content::Hole);
        assert_eq!(read(1, 3, &old), Content::Mixed, "another place");
        assert_eq!(read(9, 2, &old), Content::Mixed, "another file");
        let mixed: Vec<u8> = new[..512].iter().chain(&old[512..]).copied().collect();
        assert_eq!(read(1, 2, &mixed), Content::Mixed);
    }
}
