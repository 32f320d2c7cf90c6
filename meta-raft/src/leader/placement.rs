//! Where new replicas go: distinct servers that are up and have room, more often those with more room, a different head each time.

use caribou_proto::ids::ServerId;

use super::limits;

/// A server that may get replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) server: ServerId,
    pub(crate) free_bytes: u64,
}

/// A snapshot of the candidates, and how often it has been asked.
#[derive(Debug, Default)]
pub(crate) struct Placement {
    candidates: Vec<Candidate>,
    turn: u64,
}

impl Placement {
    pub(crate) fn replace(&mut self, candidates: Vec<Candidate>) {
        self.candidates = candidates;
    }

    /// Up to `count` servers, in chain order.
    pub(crate) fn next(&mut self, count: usize, except: &[ServerId]) -> Vec<ServerId> {
        self.turn = self.turn.wrapping_add(1);
        choose(&self.candidates, count, except, self.turn)
    }
}

/// The same answer for the same question: `turn` is what makes answers differ.
pub(crate) fn choose(candidates: &[Candidate], count: usize, except: &[ServerId], turn: u64) -> Vec<ServerId> {
    let roomy = |c: &&Candidate| c.free_bytes >= limits::MIN_FREE_BYTES && !except.contains(&c.server);
    let mut left: Vec<Candidate> = candidates.iter().filter(roomy).copied().collect();
    let mut chosen = Vec::with_capacity(count.min(left.len()));
    let mut seed = turn;
    while chosen.len() < count && !left.is_empty() {
        // In MiB, so that the sum cannot overflow.
        let weights: Vec<u64> = left.iter().map(|c| (c.free_bytes >> 20).max(1)).collect();
        let total: u64 = weights.iter().sum();
        seed = mix(seed);
        let mut point = seed % total;
        let place = weights.iter().position(|w| {
            let here = point < *w;
            point = point.saturating_sub(*w);
            here
        });
        chosen.push(left.remove(place.expect("the point lies below the sum")).server);
    }
    chosen
}

/// splitmix64: spreads consecutive turns evenly.
fn mix(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn candidates(free_gib: &[u64]) -> Vec<Candidate> {
        (1..).zip(free_gib).map(|(s, free)| Candidate { server: ServerId(s), free_bytes: free << 30 }).collect()
    }

    #[test]
    fn servers_are_distinct_and_heads_rotate() {
        let all = candidates(&[100, 100, 100]);
        let mut heads = BTreeMap::new();
        for turn in 0..3000 {
            let chosen = choose(&all, 2, &[], turn);
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), 2);
            *heads.entry(chosen[0]).or_insert(0) += 1;
        }
        assert!(heads.values().all(|n| (850..1150).contains(n)), "{heads:?}");
    }

    #[test]
    fn more_room_is_chosen_more_often_and_a_full_server_never() {
        let all = candidates(&[300, 100, 0]);
        let first = (0..4000).filter(|turn| choose(&all, 1, &[], *turn) == [ServerId(1)]).count();
        assert!((2800..3200).contains(&first), "{first}");
        assert_eq!(choose(&all, 3, &[], 1).len(), 2);
        assert_eq!(choose(&all, 3, &[ServerId(1)], 1), [ServerId(2)]);
        assert!(choose(&[], 2, &[], 1).is_empty());
    }
}
