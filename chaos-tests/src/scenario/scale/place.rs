//! Where the n-th file lies and what it is called: scattered over folders and names, and found again without a list.

/// What keeps draws apart from places.
const DRAWS: u64 = 0x5851_f42d_4c95_7f2d;

/// A file's folder, by its place in the list, and its name there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) folder: usize,
    pub(super) name: String,
}

/// The place of a file: neighbouring numbers are in other folders and under names far apart.
pub(super) fn place(number: u64, folders: usize) -> Place {
    let mixed = mixed(number);
    Place { folder: (mixed % folders as u64) as usize, name: format!("{mixed:016x}") }
}

/// The n-th of a row of numbers below `count` in an order of chance, the same in every run.
pub(super) fn drawn(draw: u64, count: u64) -> u64 {
    mixed(draw ^ DRAWS) % count
}

/// The n-th number of SplitMix64 from the seed 0. No two are the same, as each step can be undone.
fn mixed(number: u64) -> u64 {
    let z = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_numbers_are_those_of_splitmix64() {
        assert_eq!([0, 1, 2].map(mixed), [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }

    #[test]
    fn places_are_distinct_and_even_over_the_folders() {
        let places: Vec<Place> = (0..20_000).map(|number| place(number, 20)).collect();
        assert_eq!(places.iter().map(|p| &p.name).collect::<BTreeSet<_>>().len(), places.len());
        for folder in 0..20 {
            let files = places.iter().filter(|p| p.folder == folder).count();
            assert!((900..1100).contains(&files), "folder {folder} has {files} of 20,000 files");
        }
    }

    #[test]
    fn the_next_file_is_elsewhere() {
        let places: Vec<Place> = (0..10_000).map(|number| place(number, 2000)).collect();
        let together = places.windows(2).filter(|pair| pair[0].folder == pair[1].folder).count();
        assert!(together < 20, "{together} of 10,000 files are in the folder of the one before");
        let ordered = places.windows(2).filter(|pair| pair[0].name < pair[1].name).count();
        assert!((4800..5200).contains(&ordered), "{ordered} of 10,000 names come after the one before");
    }

    #[test]
    fn draws_are_below_the_count_and_reach_most_of_it() {
        let drawn: BTreeSet<u64> = (0..5000).map(|draw| drawn(draw, 1000)).collect();
        assert!(drawn.iter().all(|n| *n < 1000) && drawn.len() > 950, "{} of 1000", drawn.len());
    }
}
