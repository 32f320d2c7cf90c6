//! The pure function of ADR 4: from the members' block tables to the one cell that everybody gets in each block (V1, V2).

use crate::rules::Rule;
use crate::scenario::Chunk;
use crate::state::*;

/// What a member answered to Prepare.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    pub server: usize,
    pub cells: [Cell; BLOCKS],
    pub doubt: Doubt,
    /// Same incarnation as the ended grant named.
    pub stayed: bool,
}

/// The sources, block by block, and whether one of them stayed up.
pub fn sources(m: &Chunk, reports: &[Report]) -> ([usize; BLOCKS], bool) {
    let clean =
        reports.iter().filter(|r| r.doubt == Doubt::None).max_by_key(|r| (r.stayed, std::cmp::Reverse(r.server)));
    let process = reports.iter().find(|r| r.doubt == Doubt::Process && m.keeps(Rule::ProcessBeatsPower));
    match clean.or(process) {
        Some(r) => ([r.server; BLOCKS], r.stayed && r.doubt == Doubt::None),
        None => (std::array::from_fn(|block| best_of_dirty(reports, block)), false),
    }
}

/// V2: a written copy whose checksum holds wins over absent; none holds: as it is; absent on all: a hole.
fn best_of_dirty(reports: &[Report], block: usize) -> usize {
    let rank = |r: &Report| match r.cells[block] {
        HOLE => 0,
        TORN => 1,
        _ => 2,
    };
    reports.iter().max_by_key(|r| (rank(r), std::cmp::Reverse(r.server))).expect("a plan has members").server
}
