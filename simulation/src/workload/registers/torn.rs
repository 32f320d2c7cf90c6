//! Blocks that are of no single write: what a power cut in the middle of one leaves (P2's exception).

use bytes::Bytes;

/// Whether every word is that of one of the `others`, always the same one, or of a `lost` block, and some are of a lost one.
pub fn is_torn(bytes: &[u8], lost: &[Bytes], others: &[Bytes]) -> bool {
    let words = (0..bytes.len()).step_by(8).map(|at| at..at + 8);
    let of_lost = |word: &std::ops::Range<usize>| lost.iter().any(|block| block[word.clone()] == bytes[word.clone()]);
    let rest: Vec<_> = words.filter(|word| !of_lost(word)).collect();
    !lost.is_empty() && others.iter().any(|block| rest.iter().all(|word| block[word.clone()] == bytes[word.clone()]))
}

/// Which value each part of a block is of, as far as its eight-byte words say.
pub fn in_parts(bytes: &[u8]) -> String {
    let word = |at: usize| bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes);
    let values: Vec<u64> = (0..bytes.len() / 32).map(|unit| word(unit * 32 + 16)).collect();
    let mut parts: Vec<(usize, u64)> = values.into_iter().enumerate().collect();
    parts.dedup_by_key(|(_, value)| *value);
    parts.iter().map(|(unit, value)| format!("value {value} from byte {}", unit * 32)).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::blocks::{BLOCK, content};

    #[test]
    fn only_lost_values_explain_a_torn_block() {
        let block = |value| content(5, 1, value);
        let mixed = |first, second| [&block(first)[..104], &block(second)[104..]].concat();
        let others = [block(1), block(2), vec![0; BLOCK].into()];
        assert!(is_torn(&mixed(3, 1), &[block(3)], &others));
        assert!(!is_torn(&mixed(2, 1), &[block(3)], &others), "neither of them is lost");
        assert!(!is_torn(&mixed(3, 1), &[], &others), "nothing is lost");
        assert!(!is_torn(&mixed(3, 9), &[block(3)], &others), "nobody has written that");
    }
}
