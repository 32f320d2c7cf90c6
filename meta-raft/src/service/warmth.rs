//! Whether it is worth a try to answer a stream's questions from memory alone.
//!
//! A try that misses is paid twice: the question is asked again where it may wait for the disk. While one after the other misses, as with many
//! more rows than cache, only some are tried; the first that is found brings the others back.

/// After so many misses in a row the rows count as cold.
const COLD: u32 = 8;
/// One of so many is tried then.
const TRIED: u32 = 8;

#[derive(Debug, Default)]
pub(super) struct Warmth {
    misses: u32,
    passed: u32,
}

impl Warmth {
    pub(super) fn is_worth_a_try(&mut self) -> bool {
        if self.misses < COLD {
            return true;
        }
        self.passed = (self.passed + 1) % TRIED;
        self.passed == 0
    }

    pub(super) fn tried(&mut self, found: bool) {
        self.misses = if found { 0 } else { self.misses.saturating_add(1) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cold_rows_are_tried_now_and_then_and_one_that_is_found_warms_them() {
        let mut warmth = Warmth::default();
        for _ in 1..COLD {
            assert!(warmth.is_worth_a_try());
            warmth.tried(false);
        }
        warmth.tried(true);
        for _ in 0..COLD {
            assert!(warmth.is_worth_a_try(), "not so many in a row");
            warmth.tried(false);
        }
        let tries = (0..10 * TRIED).filter(|_| warmth.is_worth_a_try()).count();
        assert_eq!(tries, 10);
        warmth.tried(true);
        assert!(warmth.is_worth_a_try() && warmth.is_worth_a_try());
    }
}
