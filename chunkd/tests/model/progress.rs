//! P5: once faults stop, everything comes to rest.
//!
//! From a state, servers restart, links heal, dead sessions expire, and everybody does what there is to do, in one fixed fair order. That must end
//! with no Intent, grant or hold, with nothing un-synced at a living client, and with every block of the file readable. It shows that from every
//! reachable state there is a way out and that the plain schedule finds it; it does not show that *every* schedule does.

use crate::action::{self, Action};
use crate::scenario::Chunk;
use crate::state::*;
use crate::{fault, leader, oracle, record, server, writer};

const MOST_STEPS: usize = 120;

pub fn settles(m: &Chunk, start: &State) -> bool {
    let mut calm = m.clone();
    calm.scenario.max = Used { fsyncs: u8::MAX, ..Used::default() };
    let mut s = start.clone();
    s.used = Used { writes: u8::MAX, ..Used::default() };
    let mut offered = Vec::new();
    for _ in 0..MOST_STEPS {
        if at_rest(m, &s) {
            return true;
        }
        offered.clear();
        writer::offer(&calm, &s, &mut offered);
        server::offer(&s, &mut offered);
        leader::offer(&calm, &s, &mut offered);
        record::offer(&calm, &s, &mut offered);
        fault::offer(&calm, &s, &mut offered);
        let Some(next) = offered.iter().copied().filter(wanted).min_by_key(urgency) else { return false };
        action::step(&calm, &mut s, next);
        s.used.fsyncs = 0;
        if s.ghost.broken.is_some() {
            return true; // P1–P3 is reported where it is found.
        }
    }
    false
}

fn at_rest(m: &Chunk, s: &State) -> bool {
    if s.row.phase == Phase::Garbage || s.row.phase == Phase::New && s.row.grant.is_none() {
        return s.writers.iter().all(|w| w.grant.is_none());
    }
    let row = s.row.intent.is_none() && s.row.grant.is_none() && s.row.hold.is_none();
    let writers = s.writers.iter().all(|w| w.grant.is_none() && w.unsent == 0);
    row && writers
        && s.servers.iter().all(|i| i.up && i.linked)
        && (0..s.row.len as usize).all(|b| oracle::readable(m, s, b) != 0)
}

fn wanted(a: &Action) -> bool {
    !matches!(a, Action::Leader(leader::Step::RepairStart { .. } | leader::Step::Delete { .. }))
}

/// Faults are undone first; then clients, chunk servers, sessions' ends, and the leader.
fn urgency(a: &Action) -> u8 {
    match a {
        Action::Fault(_) => 0,
        Action::Server(_) => 1,
        Action::Record(_) => 3,
        Action::Leader(_) => 2,
        Action::Writer(writer::Step::Learn { .. } | writer::Step::Report { .. }) => 1,
        Action::Writer(_) => 4,
    }
}
