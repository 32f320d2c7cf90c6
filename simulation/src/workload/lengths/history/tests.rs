//! What a reader may find of a file, and what it may not.

use super::*;

const INODE: u64 = 7;

fn nowhere(_: u32) -> Option<Place> {
    None
}

/// A file with a synced write of its first 1000 bytes.
fn history() -> History {
    let mut history = History::new(INODE);
    write(&mut history, 0..1000);
    history.sync();
    history
}

fn write(history: &mut History, range: Range<u64>) {
    history.call(Change::Write(range), nowhere);
}

fn resize(history: &mut History, size: u64) {
    history.call(Change::Resize(size), nowhere);
}

/// The bytes of these calls, one behind the other.
fn bytes(parts: &[(u64, Range<u64>)]) -> Vec<u8> {
    let of = |(write, range): &(u64, Range<u64>)| -> Vec<u8> {
        match write {
            0 => vec![0; (range.end - range.start) as usize],
            _ => pattern(INODE, *write, range).collect(),
        }
    };
    parts.iter().flat_map(of).collect()
}

/// The rule that is broken by what was read of the first 1000 bytes; with and without an excuse for what may be lost.
fn broken(history: &History, bound: &Bound, parts: &[(u64, Range<u64>)]) -> [Option<&'static str>; 2] {
    [false, true].map(|is_lost| history.judge(bound, &(0..1000), &bytes(parts), |_, _| is_lost).map(|(rule, _)| rule))
}

const RIGHT: [Option<&str>; 2] = [None, None];

#[test]
fn a_reader_sees_what_was_closed_or_something_newer() {
    let mut history = history();
    write(&mut history, 100..300);
    let before = history.bound();
    let (old, new) = ([(1, 0..1000)], [(1, 0..100), (2, 100..300), (1, 300..1000)]);
    assert_eq!(broken(&history, &before, &old), RIGHT, "nobody has closed it");
    assert_eq!(broken(&history, &before, &new), RIGHT);
    let mixed = [(1, 0..200), (2, 200..300), (1, 300..1000)];
    assert_eq!(broken(&history, &before, &mixed), [Some("P2"), None], "a block is not mixed, unless it may be torn");
    history.close(nowhere);
    let closed = history.bound();
    assert_eq!(broken(&history, &closed, &new), RIGHT);
    assert_eq!(broken(&history, &closed, &old), [Some("P2"), None], "only what may be lost goes back");
    assert_eq!(broken(&history, &before, &old), RIGHT, "it was opened before");
    let nothing = [(0, 0..100), (2, 100..300), (1, 300..1000)];
    assert_eq!(broken(&history, &closed, &nothing), [Some("P1"); 2], "synced bytes are never lost");
}

#[test]
fn lost_bytes_are_torn_between_words_only() {
    let mut history = history();
    write(&mut history, 100..300);
    history.close(nowhere);
    let bound = history.bound();
    let torn = |at: u64| [(1, 0..at), (2, at..300), (1, 300..1000)];
    assert_eq!(broken(&history, &bound, &torn(104)), [Some("P2"), None]);
    assert_eq!(broken(&history, &bound, &torn(106)), [Some("P2"); 2]);
}

#[test]
fn what_was_cut_off_does_not_come_back() {
    let mut history = history();
    write(&mut history, 500..900);
    resize(&mut history, 600);
    history.close(nowhere);
    let short = history.bound();
    assert_eq!(broken(&history, &short, &[(1, 0..500), (2, 500..600)]), RIGHT);
    assert_eq!(broken(&history, &short, &[(1, 0..600)]), [Some("P2"), None], "what was not cut off may be lost");
    let rule = "P2, close to open";
    assert_eq!(broken(&history, &short, &[(1, 0..500), (2, 500..900)]), [Some(rule); 2], "it is too long");
    resize(&mut history, 1000);
    history.close(nowhere);
    let long = history.bound();
    assert_eq!(broken(&history, &long, &[(1, 0..500), (2, 500..600), (0, 600..1000)]), RIGHT);
    let back = [(1, 0..500), (2, 500..900), (0, 900..1000)];
    assert_eq!(broken(&history, &long, &back), [Some("P2"); 2]);
    write(&mut history, 700..800);
    let again = [(1, 0..500), (2, 500..600), (0, 600..700), (5, 700..800), (0, 800..1000)];
    assert_eq!(broken(&history, &long, &again), RIGHT, "written since");
    history.sync();
    assert_eq!(broken(&history, &history.bound(), &back), [Some("P1"); 2]);
}

#[test]
fn a_cut_without_an_answer_may_have_been_made() {
    let mut history = history();
    resize(&mut history, 400);
    let bound = history.bound();
    assert_eq!(broken(&history, &bound, &[(1, 0..1000)]), RIGHT);
    assert_eq!(broken(&history, &bound, &[(1, 0..400)]), RIGHT);
    assert_eq!(broken(&history, &bound, &[(1, 0..400), (0, 400..1000)]), RIGHT, "bytes and length are read one by one");
    assert_eq!(broken(&history, &bound, &[(1, 0..500)]), [Some("P2, close to open"); 2]);
}

#[test]
fn the_owner_sees_one_state() {
    let mut history = history();
    write(&mut history, 900..990);
    resize(&mut history, 950);
    let now = [(1, 0..900), (2, 900..950)];
    assert_eq!(broken(&history, &history.all(), &now), RIGHT);
    assert_eq!(broken(&history, &history.all(), &[(1, 0..950)]), [Some("P1"); 2]);
    assert_eq!(broken(&history, &history.all(), &[(1, 0..900), (2, 900..990)]), [Some("P2, close to open"); 2]);
    assert!(history.judge(&history.all(), &(960..980), &[], |_, _| false).is_none());
    assert!(history.judge(&history.all(), &(940..980), &[], |_, _| false).is_some());
}

#[test]
fn a_size_is_that_of_a_state_or_ends_with_a_block() {
    let mut history = history();
    write(&mut history, 70_000..200_000);
    let right = |history: &History| -> Vec<u64> {
        let asked = [0, 500, 1000, 65_536, 70_000, 131_072, 150_000, 196_608, 200_000, 300_000];
        asked.into_iter().filter(|size| history.judge_size(&history.bound(), *size).is_none()).collect()
    };
    assert_eq!(right(&history), [1000, 131_072, 196_608, 200_000]);
    resize(&mut history, 500);
    write(&mut history, 0..300);
    assert_eq!(right(&history), [500, 1000, 131_072, 196_608, 200_000]);
    history.close(nowhere);
    assert_eq!(right(&history), [500]);
}

#[test]
fn bytes_are_judged_block_by_block() {
    let mut history = History::new(INODE);
    let range = 0..3 * BLOCK;
    write(&mut history, range.clone());
    history.sync();
    write(&mut history, range.clone());
    let read = |first: u64, second: u64| bytes(&[(1, 0..first), (2, first..second), (1, second..3 * BLOCK)]);
    let judge = |read: &[u8]| history.judge(&history.bound(), &range, read, |_, _| false);
    assert!(judge(&read(BLOCK, 2 * BLOCK)).is_none());
    assert!(judge(&read(BLOCK + 1, 2 * BLOCK)).is_some_and(|(rule, _)| rule == "P2"));
}

/// Simulation, seed 615 with 50,000 steps.
#[test]
fn a_reader_that_knows_an_older_end_may_see_newer_bytes_before_it() {
    let mut history = History::new(INODE);
    resize(&mut history, 600);
    history.sync();
    let bound = history.bound();
    write(&mut history, 0..1000);
    assert_eq!(broken(&history, &bound, &[(2, 0..600)]), RIGHT);
    assert_eq!(broken(&history, &bound, &[(2, 0..304), (0, 304..600)]), [Some("P2"), None]);
}
