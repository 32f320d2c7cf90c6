//! What a run does to the cluster: the kinds of faults of a profile, in which order, for how long.

use std::time::{Duration, Instant};

use clap::ValueEnum;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde::Serialize;

use crate::nemesis::{Class, Kind};

/// Between two faults.
const PAUSE_MS: std::ops::Range<u64> = 500..2500;
const LASTS_MS: std::ops::Range<u64> = 300..4000;
/// One fault of so many comes alone.
const ALONE_ONE_IN: u32 = 3;
/// How long chunk servers keep their power after a mount was killed or its session ended, and the other way round: what such a client had
/// not synced may be lost with the power of all holders (the exception of P2), which a reader could not tell from an error.
const APART: Duration = Duration::from_secs(60);

/// Which faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// A bit of everything, quickly
    Smoke,
    /// Metadata nodes die, stop, pause, hand over and mistake the time
    Failover,
    /// Chunk servers, disks, power, mounts
    Storage,
    /// Lines between hosts
    Network,
    Everything,
}

impl Profile {
    pub fn name(self) -> String {
        self.to_possible_value().expect("no profile is hidden").get_name().to_owned()
    }

    /// Its kinds; without hosts those that need none.
    pub fn kinds(self, hosts: bool) -> Vec<Kind> {
        let belongs = |kind: &Kind| match self {
            Self::Smoke | Self::Everything => true,
            Self::Network => kind.class() == Class::Network,
            Self::Failover => FAILOVER.contains(kind),
            Self::Storage => !FAILOVER.contains(kind) && kind.class() != Class::Network,
        };
        Kind::all().iter().copied().filter(|kind| belongs(kind) && (hosts || !kind.needs_hosts())).collect()
    }
}

const FAILOVER: [Kind; 16] = [
    Kind::KillLeader,
    Kind::KillFollower,
    Kind::KillMajority,
    Kind::KillAllMeta,
    Kind::StopLeader,
    Kind::RestartStorm,
    Kind::KillStartingFollower,
    Kind::TransferLeader,
    Kind::PauseLeader,
    Kind::PauseFollower,
    Kind::PauseAllMeta,
    Kind::FreezeLeader,
    Kind::ClockJumpLeader,
    Kind::ClockJumpFollower,
    Kind::ClockJumpAllMeta,
    Kind::PowerCutLeader,
];

/// The faults of a run, in an order that its seed decides: every kind comes once before any comes again. It has to be told what became of each.
#[derive(Debug)]
pub struct Schedule {
    kinds: Vec<Kind>,
    /// Those that are still to come in this turn, the next one last.
    turn: Vec<Kind>,
    /// Those that could not be inflicted in the last blow.
    refused: Vec<Kind>,
    killed_mount: Option<Instant>,
    cut_power: Option<Instant>,
}

/// What else there is room for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// Time until the last fault has to be lifted.
    pub left: Duration,
    /// A fault that outlasts others is under way: one at a time is enough.
    pub lasting: bool,
}

/// One or two faults at a time.
#[derive(Debug, PartialEq, Eq)]
pub struct Blow {
    pub kinds: Vec<Kind>,
    pub pause: Duration,
    pub lasts: Duration,
}

impl Schedule {
    pub fn new(kinds: Vec<Kind>) -> Self {
        Self { kinds, turn: Vec::new(), refused: Vec::new(), killed_mount: None, cut_power: None }
    }

    pub fn next(&mut self, rng: &mut StdRng, room: Room) -> Blow {
        // What hindered them may be there still: others come first.
        let refused = std::mem::take(&mut self.refused);
        let has_room = |kind: Kind| {
            !refused.contains(&kind) && kind.lasts().is_none_or(|lasts| !room.lasting && lasts <= room.left)
        };
        let mut kinds: Vec<Kind> = self.take(rng, has_room).into_iter().collect();
        if !rng.random_ratio(1, ALONE_ONE_IN) {
            let first = kinds.first().copied();
            let fits = |kind: Kind| has_room(kind) && first.is_none_or(|first| go_together(first, kind));
            kinds.extend(self.take(rng, fits));
        }
        let mut milliseconds = |range| Duration::from_millis(rng.random_range(range));
        Blow { kinds, pause: milliseconds(PAUSE_MS), lasts: milliseconds(LASTS_MS) }
    }

    /// It has been inflicted.
    pub fn inflicted(&mut self, kind: Kind) {
        if kind.ends_session() {
            self.killed_mount = Some(Instant::now());
        } else if kind.cuts_chunk_power() {
            self.cut_power = Some(Instant::now());
        }
    }

    /// It could not be inflicted: it comes again at the end of this turn.
    pub fn put_back(&mut self, kind: Kind) {
        if !self.turn.contains(&kind) {
            self.turn.insert(0, kind);
        }
        self.refused.push(kind);
    }

    /// The next kind that may come now.
    fn take(&mut self, rng: &mut StdRng, fits: impl Fn(Kind) -> bool) -> Option<Kind> {
        let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < APART);
        let (killed, cut) = (recent(self.killed_mount), recent(self.cut_power));
        let may = |kind: &Kind| fits(*kind) && !(killed && kind.cuts_chunk_power()) && !(cut && kind.ends_session());
        if !self.turn.iter().any(may) {
            let mut again: Vec<Kind> = self.kinds.iter().copied().filter(|kind| !self.turn.contains(kind)).collect();
            again.shuffle(rng);
            // Those that had to wait come first.
            self.turn.splice(0..0, again);
        }
        let at = self.turn.iter().rposition(may)?;
        Some(self.turn.remove(at))
    }
}

/// Whether two kinds may share a blow. What waits for the cluster while it is inflicted would wait for as long as its lines are broken.
fn go_together(one: Kind, other: Kind) -> bool {
    let is_barred = |one: Kind, other: Kind| {
        (one.is_of_all_lines() && other.needs_all_lines()) || (one.ends_session() && other.cuts_chunk_power())
    };
    one.class() != other.class()
        && (one.lasts().is_none() || other.lasts().is_none())
        && !is_barred(one, other)
        && !is_barred(other, one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    const ROOM: Room = Room { left: Duration::from_secs(3600), lasting: false };

    #[test]
    fn every_kind_belongs_to_a_profile_beside_everything() {
        for kind in Kind::all() {
            let profiles = [Profile::Failover, Profile::Storage, Profile::Network];
            let having = profiles.into_iter().filter(|profile| profile.kinds(true).contains(kind)).count();
            assert_eq!(having, 1, "{}", kind.name());
        }
        assert!(Profile::Everything.kinds(false).len() >= 12);
        assert!(Profile::Network.kinds(false).is_empty());
    }

    #[test]
    fn faults_overlap_in_most_blows_and_all_kinds_come() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut schedule = Schedule::new(Profile::Everything.kinds(true));
        let mut inflict = || {
            let blow = schedule.next(&mut rng, ROOM);
            blow.kinds.iter().for_each(|kind| schedule.inflicted(*kind));
            blow
        };
        let blows: Vec<Blow> = (0..80).map(|_| inflict()).collect();
        let overlapping = blows.iter().filter(|blow| blow.kinds.len() == 2).count();
        assert!((40..80).contains(&overlapping), "{overlapping}");
        for blow in &blows {
            assert!(blow.kinds.len() == 1 || blow.kinds[0].class() != blow.kinds[1].class());
        }
        let of_all_lines = |blow: &&Blow| blow.kinds.iter().any(|kind| kind.is_of_all_lines());
        let with_them: Vec<Kind> = blows.iter().filter(of_all_lines).flat_map(|blow| blow.kinds.clone()).collect();
        assert!(with_them.iter().any(|kind| matches!(kind.class(), Class::Process | Class::Disk)), "{with_them:?}");
        assert!(!with_them.iter().any(|kind| kind.needs_all_lines()), "{with_them:?}");
        let seen = |kind: &Kind| blows.iter().any(|blow| blow.kinds.contains(kind));
        let missing: Vec<String> = Kind::all().iter().filter(|kind| !seen(kind)).map(|kind| kind.name()).collect();
        // Mounts are not killed near power cuts, nor near disks that fail or go back: one or the other is missing.
        assert!(missing.len() <= 5, "{missing:?}");
        let mut same = Schedule::new(Profile::Everything.kinds(true));
        let mut rng = StdRng::seed_from_u64(1);
        assert_eq!(same.next(&mut rng, ROOM), blows[0]);
    }

    #[test]
    fn what_could_not_be_inflicted_comes_again_at_the_end_of_its_turn() {
        let mut rng = StdRng::seed_from_u64(3);
        // Of one class: they never come together.
        let mut schedule = Schedule::new(vec![Kind::KillLeader, Kind::KillFollower, Kind::KillChunkServer]);
        let mut next = |refuse: bool| {
            let blow = schedule.next(&mut rng, ROOM);
            assert_eq!(blow.kinds.len(), 1);
            if refuse {
                schedule.put_back(blow.kinds[0]);
            }
            blow.kinds[0]
        };
        let refused = next(true);
        let others = [next(false), next(false)];
        assert!(!others.contains(&refused) && others[0] != others[1], "{refused:?} {others:?}");
        assert_eq!(next(false), refused);
    }

    #[test]
    fn what_can_never_be_inflicted_leaves_others_their_blows() {
        let mut rng = StdRng::seed_from_u64(4);
        let mut schedule = Schedule::new(vec![Kind::KillAllMeta, Kind::PowerCutEverything, Kind::KillLeader]);
        let mut inflicted = 0;
        for _ in 0..60 {
            for kind in schedule.next(&mut rng, ROOM).kinds {
                match kind {
                    Kind::KillLeader => inflicted += 1,
                    _ => schedule.put_back(kind),
                }
            }
        }
        assert!(inflicted >= 15, "{inflicted}");
    }

    #[test]
    fn only_what_was_inflicted_keeps_others_away() {
        let mut rng = StdRng::seed_from_u64(5);
        let mut schedule = Schedule::new(vec![Kind::KillMount, Kind::PowerCutChunkServer]);
        let first = schedule.next(&mut rng, ROOM).kinds;
        first.iter().for_each(|kind| schedule.put_back(*kind));
        let second = schedule.next(&mut rng, ROOM).kinds;
        assert_eq!((first.len(), second.len()), (1, 1));
        assert_ne!(first, second);
        schedule.inflicted(second[0]);
        for _ in 0..10 {
            assert_eq!(schedule.next(&mut rng, ROOM).kinds, second);
        }
    }

    #[test]
    fn what_lasts_comes_one_at_a_time_and_only_if_it_fits() {
        let lasting = |blow: &Blow| blow.kinds.iter().filter(|kind| kind.lasts().is_some()).count();
        let blows = |left, lasting| -> Vec<Blow> {
            let mut rng = StdRng::seed_from_u64(2);
            let mut schedule = Schedule::new(Profile::Everything.kinds(true));
            let room = Room { left: Duration::from_secs(left), lasting };
            (0..100).map(|_| schedule.next(&mut rng, room)).collect()
        };
        let has = |blows: &[Blow], kind: Kind| blows.iter().any(|blow| blow.kinds.contains(&kind));
        assert!(has(&blows(100, false), Kind::FreezeLeader) && !has(&blows(60, false), Kind::FreezeLeader));
        assert!(has(&blows(60, false), Kind::HungDiskLeader));
        assert!(blows(100, false).iter().all(|blow| lasting(blow) <= 1));
        assert!(blows(5, false).iter().chain(&blows(100, true)).all(|blow| lasting(blow) == 0));
    }
}
