//! Plans carried out on replicas of a few blocks.

use std::collections::BTreeMap;

use caribou_proto::ids::CHUNK_BYTES;
use proptest::prelude::*;

use super::*;

const BLOCKS: u32 = 4;

/// A block on a disk: a hole, or a value that is whole or torn.
type Cell = Option<(u32, bool)>;

fn member(server: u64, standing: Standing, cells: &[Cell]) -> Member {
    let block = |cell: &Cell| match cell {
        None => Block::default(),
        Some((value, whole)) => Block { written: true, matches: *whole, crc: *value },
    };
    Member {
        server: ServerId(server),
        standing,
        stayed: standing == Standing::Clean,
        last_grant: 1,
        blocks: cells.iter().map(block).collect(),
    }
}

fn cells(member: &Member) -> Vec<Cell> {
    (0..BLOCKS).map(|b| member.block(b)).map(|b| b.written.then_some((b.crc, b.matches))).collect()
}

/// Carries the plan out, the first one first, the rest in the order given by `turn`; `Err` where a source would refuse.
fn carry_out(members: &[Member], plan: &Plan, turn: usize) -> Result<BTreeMap<ServerId, Vec<Cell>>, String> {
    let mut disks: BTreeMap<ServerId, Vec<Cell>> = members.iter().map(|m| (m.server, cells(m))).collect();
    let mut order: Vec<&(ServerId, Fix)> = plan.fixes.iter().collect();
    let places = order.len().max(1);
    order.rotate_left(turn % places);
    order.sort_by_key(|(server, _)| Some(*server) != plan.first);
    for (server, fix) in order {
        for (source, ranges) in &fix.fetches {
            for block in ranges.iter().flat_map(|r| r.first..r.first + r.count) {
                let cell = disks[source][block as usize];
                if cell.is_some_and(|(_, whole)| !whole) {
                    return Err(format!("{source} refuses to give damaged block {block} to {server}"));
                }
                disks.get_mut(server).unwrap()[block as usize] = cell;
            }
        }
        if fix.resum {
            for cell in disks.get_mut(server).unwrap().iter_mut().flatten() {
                cell.1 = true;
            }
        }
    }
    disks.retain(|server, _| !plan.left_out.contains(server));
    Ok(disks)
}

fn cell() -> impl Strategy<Value = Cell> {
    prop::option::of((0u32..3, prop::bool::weighted(0.7)))
}

fn members() -> impl Strategy<Value = Vec<Member>> {
    let standing =
        prop_oneof![Just(Standing::Clean), Just(Standing::SameBoot), Just(Standing::Dirty), Just(Standing::Missing)];
    let one = (standing, prop::collection::vec(cell(), BLOCKS as usize), 0u64..3, any::<bool>());
    prop::collection::vec(one, 1..4).prop_map(|all| {
        let numbered = (1u64..).zip(all);
        numbered
            .map(|(server, (standing, cells, last_grant, stayed))| {
                let cells = if standing == Standing::Missing { Vec::new() } else { cells };
                Member { last_grant, stayed, ..member(server, standing, &cells) }
            })
            .collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn afterwards_all_are_equal_and_nothing_that_counts_is_gone(members in members(), turn in 0usize..3) {
        let Some(plan) = plan(&members, BLOCKS * BLOCK_BYTES) else {
            prop_assert!(members.iter().all(|m| m.standing == Standing::Missing));
            return Ok(());
        };
        let disks = carry_out(&members, &plan, turn).map_err(TestCaseError::fail)?;
        prop_assert!(!disks.is_empty());
        let first = disks.values().next().unwrap();
        let strip = |c: &Cell| c.map(|(value, whole)| if whole { Some(value) } else { None });
        for disk in disks.values() {
            // Damaged blocks are equal in that nobody can read them.
            prop_assert_eq!(disk.iter().map(strip).collect::<Vec<_>>(), first.iter().map(strip).collect::<Vec<_>>());
        }
        for block in 0..BLOCKS {
            let of = |standing| members.iter().filter(move |m| m.standing == standing).map(move |m| m.block(block));
            let clean: Vec<Block> = of(Standing::Clean).collect();
            let now = first[block as usize];
            let held = members.iter().any(|m| m.standing != Standing::Missing && m.block(block).holds());
            prop_assert!(!held || now.is_none_or(|(_, whole)| whole), "P1: damage is mended from any copy that holds");
            if let Some(block) = clean.first().filter(|b| b.holds() && clean.iter().all(|c| c == *b)) {
                prop_assert_eq!(now, Some((block.crc, true)), "what all clean replicas had is kept");
            }
            let kept: Vec<Block> = of(Standing::SameBoot).collect();
            if clean.is_empty()
                && let Some(block) = kept.first().filter(|b| !b.damaged() && kept.iter().all(|k| k == *b))
            {
                prop_assert_eq!(now, block.written.then_some((block.crc, true)), "M16: what the page cache kept wins");
            }
            if clean.is_empty() && kept.is_empty() {
                let holding: Vec<u32> = of(Standing::Dirty).filter(|b| b.holds()).map(|b| b.crc).collect();
                match now {
                    Some((value, whole)) => {
                        prop_assert!(whole);
                        prop_assert!(holding.is_empty() || holding.contains(&value), "V2: a copy that holds wins");
                    }
                    None => prop_assert!(holding.is_empty() && of(Standing::Dirty).any(|b| !b.written), "V2: and it wins over absent"),
                }
            }
        }
        if let Some(source) = plan.clean_source {
            let source = members.iter().find(|m| m.server == source).unwrap();
            prop_assert_eq!(source.standing, Standing::Clean);
            prop_assert!(!plan.left_out.contains(&source.server));
            prop_assert!(source.stayed || members.iter().all(|m| m.standing != Standing::Clean || !m.stayed), "W5: one that stayed is preferred");
        }
    }
}

#[test]
fn only_what_differs_is_copied() {
    let a = member(1, Standing::Clean, &[Some((7, true)), Some((8, true)), None, Some((9, true))]);
    let b = member(2, Standing::Clean, &[Some((7, true)), Some((5, true)), None, None]);
    let plan = plan(&[a, b], CHUNK_BYTES as u32).unwrap();
    assert_eq!(plan.fixes[0].1, Fix::default());
    let ranges = vec![Range { first: 1, count: 1 }, Range { first: 3, count: 1 }];
    assert_eq!(plan.fixes[1].1.fetches, vec![(ServerId(1), ranges)]);
    assert_eq!(plan.clean_source, Some(ServerId(1)));
}

#[test]
fn what_is_cut_away_is_not_copied() {
    let a = member(1, Standing::Clean, &[Some((7, true)), Some((8, true)), Some((9, true))]);
    let b = member(2, Standing::Missing, &[]);
    let plan = plan(&[a, b], BLOCK_BYTES + 1).unwrap();
    assert_eq!(plan.fixes[1].1.fetches, vec![(ServerId(1), vec![Range { first: 0, count: 2 }])]);
}

#[test]
fn a_dirty_copy_is_no_source_beside_a_clean_one_even_if_it_is_whole() {
    let dirty = member(1, Standing::Dirty, &[Some((1, true))]);
    let clean = member(2, Standing::Clean, &[Some((2, true))]);
    let plan = plan(&[dirty, clean], BLOCK_BYTES).unwrap();
    assert_eq!(plan.clean_source, Some(ServerId(2)));
    assert_eq!(plan.fixes[0].1.fetches[0].0, ServerId(2));
}

// M16: a copy that lost power may have gone back in time, and its checksum holds all the same.
#[test]
fn what_was_dirtied_in_this_boot_beats_what_lost_power() {
    let reverted = member(1, Standing::Dirty, &[Some((1, true)), Some((5, true)), Some((6, true)), None]);
    let kept = member(2, Standing::SameBoot, &[Some((2, true)), None, Some((9, false)), Some((4, true))]);
    let plan = plan(&[reverted, kept.clone()], BLOCKS * BLOCK_BYTES).unwrap();
    assert_eq!(plan.clean_source, None, "W5: it has not stayed up, so readers wait for the resend");
    let ranges = vec![Range { first: 0, count: 2 }, Range { first: 3, count: 1 }];
    assert_eq!(plan.fixes[0].1.fetches, vec![(ServerId(2), ranges)]);
    assert_eq!(plan.fixes[1].1.fetches, vec![(ServerId(1), vec![Range { first: 2, count: 1 }])], "but not damage");
    assert!(!plan.trusted, "M15: another holder may have that block");
    let plan = super::plan(std::slice::from_ref(&kept), 2 * BLOCK_BYTES).unwrap();
    assert!(plan.trusted, "nobody can have acknowledged more");
    let mut later = member(1, Standing::Dirty, &[Some((1, true)), None, None, None]);
    later.last_grant = kept.last_grant + 1;
    let plan = super::plan(&[later, kept], 2 * BLOCK_BYTES).unwrap();
    assert!(!plan.trusted, "V5: the folder was put back within its boot");
}

#[test]
fn damage_on_every_clean_copy_is_not_turned_into_zeros() {
    let clean = member(1, Standing::Clean, &[Some((2, false)), Some((3, true))]);
    let joined = member(2, Standing::Missing, &[]);
    let plan = plan(&[clean, joined], 2 * BLOCK_BYTES).unwrap();
    assert_eq!(plan.left_out, vec![ServerId(2)]);
    assert!(!plan.fixes[0].1.resum, "a clean replica's damage is never summed as it is");
}

// P1: its checksum holds, so it has at least what was synced; and left out, it would be deleted.
#[test]
fn what_has_rotted_on_every_clean_copy_is_mended_from_a_dirty_one() {
    for standing in [Standing::SameBoot, Standing::Dirty] {
        let rotten = member(1, Standing::Clean, &[Some((1, false)), Some((2, true))]);
        let whole = member(2, standing, &[Some((1, true)), Some((2, true))]);
        let plan = plan(&[rotten, whole], 2 * BLOCK_BYTES).unwrap();
        assert!(plan.left_out.is_empty());
        assert_eq!(plan.fixes[0].1.fetches, vec![(ServerId(2), vec![Range { first: 0, count: 1 }])]);
        assert_eq!(plan.fixes[1].1, Fix::default());
        assert_eq!(plan.clean_source, None, "W5: it has not stayed up, so readers wait for the resend");
        assert!(plan.trusted, "one block is not worth waiting for ever for a holder that is away");
    }
}

#[test]
fn damage_is_mended_from_the_best_copy() {
    let rotten = member(1, Standing::Clean, &[Some((1, false)), Some((2, false)), Some((3, false))]);
    let dirty = member(2, Standing::Dirty, &[Some((7, true)), Some((7, true)), Some((7, true))]);
    let kept = member(3, Standing::SameBoot, &[Some((8, true)), Some((8, true)), None]);
    let clean = member(4, Standing::Clean, &[Some((1, true)), Some((2, false)), Some((3, false))]);
    let plan = plan(&[rotten, dirty, kept, clean], 3 * BLOCK_BYTES).unwrap();
    let one = |first| vec![Range { first, count: 1 }];
    let fetches = vec![(ServerId(4), one(0)), (ServerId(3), one(1)), (ServerId(2), one(2))];
    assert_eq!(plan.fixes[0].1.fetches, fetches);
    assert!(plan.left_out.is_empty() && plan.clean_source.is_none() && plan.trusted);
}

#[test]
fn an_old_disk_image_is_not_the_source() {
    let mut old = member(1, Standing::Clean, &[Some((1, true))]);
    (old.stayed, old.last_grant) = (false, 3);
    let mut new = member(2, Standing::Clean, &[Some((2, true))]);
    (new.stayed, new.last_grant) = (false, 4);
    assert_eq!(plan(&[old, new], BLOCK_BYTES).unwrap().clean_source, Some(ServerId(2)));
}

#[test]
fn answers_are_read_and_judged() {
    let mut state = vec![0u8; BLOCKS_PER_CHUNK as usize * BLOCK_STATE_BYTES];
    state[5..10].copy_from_slice(&[7, 1, 2, 3, 4]);
    let prepared = Prepared { found: true, had_version: 3, clean: true, blocks: state.into(), ..Default::default() };
    let table = blocks(&prepared).unwrap();
    assert_eq!(table[0], Block::default());
    assert_eq!(table[1], Block { written: true, matches: true, crc: 0x0403_0201 });
    assert_eq!(standing(&prepared, ChunkVersion(3)), Standing::Clean);
    assert_eq!(standing(&prepared, ChunkVersion(4)), Standing::Missing, "V5: it missed a Ready");
    let dirty = Prepared { clean: false, ..prepared.clone() };
    assert_eq!(standing(&dirty, ChunkVersion(3)), Standing::Dirty, "M16: not told, so of another boot");
    let dirty = Prepared { same_boot: true, ..dirty };
    assert_eq!(standing(&dirty, ChunkVersion(3)), Standing::SameBoot);
    assert_eq!(standing(&dirty, ChunkVersion(4)), Standing::Missing);
    let empty = Prepared { found: true, clean: false, ..Default::default() };
    assert_eq!(standing(&empty, ChunkVersion(1)), Standing::Dirty, "vanished, and joined by an earlier round (M17)");
    assert_eq!(standing(&Prepared { clean: true, ..empty }, ChunkVersion(1)), Standing::Missing, "an unfinished copy");
    let prepared = Prepared { found: false, clean: false, ..Default::default() };
    assert_eq!(standing(&prepared, ChunkVersion(1)), Standing::Dirty, "vanished in a power cut");
    assert_eq!(standing(&Prepared { clean: true, ..prepared }, ChunkVersion(1)), Standing::Missing, "an emptied disk");
    assert!(blocks(&Prepared { blocks: vec![0; 7].into(), ..Default::default() }).is_none());
}
