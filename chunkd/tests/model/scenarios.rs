//! The scenarios with all rules on: nothing breaks, and what makes each of them worth its time is reached.

use crate::explore::holds;
use crate::scenario::{Reached, Scenario};
use crate::state::*;
use crate::{leader, oracle};

const HELD_READ: Reached =
    ("somebody wants to read during a hold", |_, s| s.row.hold.is_some_and(|h| h.reads) && s.row.intent.is_none());
const RESEND: Reached =
    ("a resend under a hold", |_, s| s.row.hold.is_some() && s.frags.iter().any(|f| s.row.grant == Some(f.grant)));
const DEGRADED: Reached = ("Ready with a holder left out", |_, s| s.row.version > 1 && s.row.holders.count_ones() == 1);
const LEFT_BEHIND: Reached = ("a left-out holder is back with its old replica", |_, s| {
    let old = |i: usize| {
        s.servers[i].lease && s.servers[i].replica.as_ref().is_some_and(|r| r.complete && r.version < s.row.version)
    };
    s.row.intent.is_none() && (0..SERVERS).any(|i| !has(s.row.holders, i) && old(i))
});
const REFUSED: Reached =
    ("a refused RepairDone", |m, s| s.leader.repair.is_some_and(|p| p.done && leader::refused(m, s, &p)));
const REPAIRED: Reached = ("a repaired holder", |_, s| has(s.row.holders, 2));
const EXCUSED: Reached = ("every holder lost power and the writer is gone", |_, s| s.ghost.latest.contains(&UNKNOWN));
const REDRIVEN: Reached = ("an Intent driven again by a new leader", |_, s| {
    s.leader.term > 1
        && s.row.intent.is_some_and(|i| {
            s.servers.iter().any(|v| v.replica.as_ref().is_some_and(|r| r.version == i.version && r.complete))
        })
});
const LATE: Reached =
    ("a late command of a dead leader", |_, s| s.late.is_some_and(|c| (c.term, c.round) < s.servers[c.server].term));
const LATE_FRAGMENT: Reached = ("a late fragment of an ended grant", |_, s| {
    s.row.version > 1
        && s.frags.iter().any(|f| f.grant.version < s.row.version && f.hop < SERVERS && s.servers[f.hop].up)
});
const CUT: Reached = ("bytes beyond the length while a recovery is planned", |_, s| {
    s.leader.plan.is_some_and(|p| {
        ids(p.members)
            .any(|i| s.servers[i].replica.as_ref().is_some_and(|r| r.cells[p.cut.min(1) as usize] > 1 && p.cut < 2))
    })
});
const GARBAGE: Reached = ("garbage", |_, s| s.row.phase == Phase::Garbage);
const OTHERS_TURN: Reached =
    ("the second writer's bytes are read", |_, s| s.row.last_grant > 1 && s.writers[1].buf != [HOLE; BLOCKS]);
const HEAD_HIDES: Reached = ("the head hides what the tail does not have", |m, s| {
    s.servers[0].replica.as_ref().is_some_and(|r| r.unacked != 0 && r.complete) && oracle::readable(m, s, 0) != 0
});
const DOUBT: Reached = ("all holders in doubt", |_, s| {
    ids(s.row.holders).all(|i| s.servers[i].replica.as_ref().is_none_or(|r| r.doubt != Doubt::None))
});

/// One writer overwrites and syncs; power goes at any server, blocks tear.
pub fn overwrite() -> Scenario {
    Scenario {
        name: "overwrite",
        max: Used { writes: 2, fsyncs: 1, power_cuts: 2, writer_deaths: 1, ..Used::default() },
        tears: true,
        reached: &[HELD_READ, RESEND, EXCUSED, HEAD_HIDES, DOUBT],
        ..Scenario::default()
    }
}

pub fn chain_of_three() -> Scenario {
    Scenario {
        name: "chain_of_three",
        holders: 0b111,
        servers: 3,
        max: Used { writes: 2, fsyncs: 1, power_cuts: 1, writer_deaths: 1, ..Used::default() },
        reached: &[HEAD_HIDES, LATE_FRAGMENT],
        ..Scenario::default()
    }
}

/// A server is cut off from the leader, but not from readers; the old leader may not know that it is one.
pub fn partition() -> Scenario {
    Scenario {
        name: "partition",
        max: Used { writes: 1, power_cuts: 1, partitions: 1, leader_deaths: 1, writer_deaths: 1, ..Used::default() },
        tears: true,
        reached: &[DEGRADED, LEFT_BEHIND, LATE_FRAGMENT],
        ..Scenario::default()
    }
}

/// A writer dies beyond the committed length; somebody makes the file longer afterwards.
pub fn dying_writer() -> Scenario {
    Scenario {
        name: "dying_writer",
        blocks: 2,
        max: Used { writes: 2, power_cuts: 1, writer_deaths: 1, extends: 1, ..Used::default() },
        reached: &[CUT],
        ..Scenario::default()
    }
}

pub fn truncate() -> Scenario {
    Scenario {
        name: "truncate",
        blocks: 2,
        len: 2,
        max: Used { writes: 1, crashes: 1, truncates: 1, extends: 1, leader_deaths: 1, ..Used::default() },
        reached: &[CUT, RESEND, LATE],
        ..Scenario::default()
    }
}

/// A spare is filled while a writer comes and goes.
pub fn repair() -> Scenario {
    Scenario {
        name: "repair",
        holders: 0b001,
        servers: 3,
        blocks: 2,
        len: 2,
        max: Used { writes: 2, fsyncs: 2, repairs: 2, leader_deaths: 1, ..Used::default() },
        deletes: true,
        reached: &[REFUSED, REPAIRED, LATE],
        ..Scenario::default()
    }
}

/// A new chunk: create tokens arrive late, and files vanish in power cuts.
pub fn create() -> Scenario {
    Scenario {
        name: "create",
        new: true,
        len: 0,
        max: Used { writes: 2, fsyncs: 1, power_cuts: 2, expiries: 1, ..Used::default() },
        deletes: true,
        reached: &[GARBAGE],
        ..Scenario::default()
    }
}

/// A new chunk whose disk fails under a running server.
pub fn create_on_bad_disk() -> Scenario {
    Scenario {
        name: "create_on_bad_disk",
        new: true,
        len: 0,
        blocks: 2,
        max: Used { writes: 2, fsyncs: 1, disk_losses: 1, ..Used::default() },
        reached: &[GARBAGE],
        ..Scenario::default()
    }
}

/// Every holder loses power with un-synced bytes that have been read; one more process dies while readers wait.
pub fn hold() -> Scenario {
    Scenario {
        name: "hold",
        max: Used { writes: 1, power_cuts: 2, crashes: 1, writer_deaths: 1, ..Used::default() },
        reached: &[HELD_READ, RESEND, EXCUSED, DOUBT],
        ..Scenario::default()
    }
}

pub fn two_writers() -> Scenario {
    Scenario {
        name: "two_writers",
        writers: 2,
        max: Used { writes: 2, fsyncs: 1, recalls: 1, expiries: 1, ..Used::default() },
        reached: &[OTHERS_TURN, LATE_FRAGMENT],
        ..Scenario::default()
    }
}

/// Leaders die at every step of a recovery and leave commands behind.
pub fn leaders() -> Scenario {
    Scenario {
        name: "leaders",
        max: Used { writes: 1, power_cuts: 1, leader_deaths: 2, writer_deaths: 1, ..Used::default() },
        reached: &[REDRIVEN, LATE],
        ..Scenario::default()
    }
}

pub fn disk_loss() -> Scenario {
    Scenario {
        name: "disk_loss",
        servers: 3,
        max: Used { writes: 1, fsyncs: 1, power_cuts: 1, disk_losses: 1, repairs: 1, ..Used::default() },
        reached: &[],
        ..Scenario::default()
    }
}

mod tests {
    use super::*;

    #[test]
    fn overwrite_holds() {
        holds(super::overwrite());
    }

    #[test]
    fn chain_of_three_holds() {
        holds(super::chain_of_three());
    }

    #[test]
    fn partition_holds() {
        holds(super::partition());
    }

    #[test]
    fn dying_writer_holds() {
        holds(super::dying_writer());
    }

    #[test]
    fn truncate_holds() {
        holds(super::truncate());
    }

    #[test]
    fn repair_holds() {
        holds(super::repair());
    }

    #[test]
    fn create_holds() {
        holds(super::create());
    }

    #[test]
    fn create_on_bad_disk_holds() {
        holds(super::create_on_bad_disk());
    }

    #[test]
    fn hold_holds() {
        holds(super::hold());
    }

    #[test]
    fn two_writers_holds() {
        holds(super::two_writers());
    }

    #[test]
    fn leaders_holds() {
        holds(super::leaders());
    }

    #[test]
    fn disk_loss_holds() {
        holds(super::disk_loss());
    }
}
