//! Where a file is changed and read, and how much of it: within a few windows, in which the same blocks are met again and again.

use std::ops::Range;

use caribou_proto::ids::{BLOCK_BYTES, CHUNK_BYTES};
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::rest::EDGE_BYTES;

const BLOCK: u64 = BLOCK_BYTES as u64;
const EDGE: u64 = EDGE_BYTES as u64;
/// The beginnings of three chunks and the end of the first one: where replicas are compared (`rest.rs`).
pub static WINDOWS: [Range<u64>; 3] =
    [0..EDGE, CHUNK_BYTES - EDGE..CHUNK_BYTES + EDGE, 2 * CHUNK_BYTES..2 * CHUNK_BYTES + EDGE];
/// The longest file.
const END: u64 = 2 * CHUNK_BYTES + EDGE;
/// Somewhat more than the metadata take of a file.
const SMALL: u64 = 20 << 10;
/// Most writes have no more bytes than this …
const FEW: u64 = 4 << 10;
/// … and none has more than this.
const MANY: u64 = 200 << 10;
/// Over a border of chunks, on either side.
const OVER: u64 = 20 << 10;

fn position(rng: &mut StdRng) -> u64 {
    let within = match rng.random_range(0..10) {
        0..3 => 0..SMALL,
        3..6 => WINDOWS[0].clone(),
        6..9 => WINDOWS[1].clone(),
        _ => WINDOWS[2].clone(),
    };
    rng.random_range(within)
}

/// Rather few than many.
fn length(rng: &mut StdRng) -> u64 {
    let most = MANY >> rng.random_range(0..6_u32);
    rng.random_range(1..=most)
}

fn window_of(position: u64) -> Option<&'static Range<u64>> {
    WINDOWS.iter().find(|window| window.contains(&position))
}

/// Anywhere, whatever the file's size.
pub fn write(rng: &mut StdRng) -> Range<u64> {
    let at = position(rng);
    let range = match rng.random_range(0..10) {
        // Whole blocks.
        0 => {
            let start = at - at % BLOCK;
            start..start + BLOCK * rng.random_range(1..=2_u64)
        }
        // Two chunks.
        1 => CHUNK_BYTES - rng.random_range(1..=OVER)..CHUNK_BYTES + rng.random_range(1..=OVER),
        2..8 => at..at + rng.random_range(1..=FEW),
        _ => at..at + length(rng),
    };
    let window = window_of(range.start).expect("it was drawn from one");
    range.start..range.end.min(window.end)
}

/// Behind the end; `None`: no window goes on there.
pub fn append(rng: &mut StdRng, size: u64) -> Option<Range<u64>> {
    let window = window_of(size)?;
    Some(size..(size + length(rng)).min(window.end))
}

/// A smaller size of a file that is not empty.
pub fn shorter(rng: &mut StdRng, size: u64) -> u64 {
    let at = position(rng);
    let to = match rng.random_range(0..6) {
        0 => 0,
        1 => at - at % BLOCK,
        2 => size - rng.random_range(1..=size.min(FEW)),
        _ => at,
    };
    to.min(size - 1)
}

/// A size that is no smaller.
pub fn longer(rng: &mut StdRng, size: u64) -> u64 {
    let at = position(rng).max(size);
    (at + rng.random_range(0..=FEW)).min(END)
}

/// Anywhere, and over the end.
pub fn read(rng: &mut StdRng, size: u64) -> Range<u64> {
    let start = match rng.random_ratio(1, 4) {
        true => size.saturating_sub(rng.random_range(0..=FEW)),
        false => position(rng),
    };
    start..start + length(rng)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng as _;

    use super::*;

    #[test]
    fn writes_stay_where_replicas_are_compared() {
        let mut rng = StdRng::seed_from_u64(1);
        let (mut size, mut crossed) = (0, 0);
        for _ in 0..10_000 {
            let written = write(&mut rng);
            let appended = append(&mut rng, size).unwrap_or_else(|| written.clone());
            for range in [&written, &appended] {
                let window = window_of(range.start).expect("a window");
                assert!(!range.is_empty() && range.end <= window.end, "{range:?}");
            }
            crossed += u32::from(written.start < CHUNK_BYTES && written.end > CHUNK_BYTES);
            size = size.max(written.end);
            let shorter = shorter(&mut rng, size);
            assert!(shorter < size);
            size = longer(&mut rng, shorter);
            assert!((shorter..=END).contains(&size));
            assert!(!read(&mut rng, size).is_empty());
        }
        assert!(crossed > 0);
    }
}
