//! The committed row and the records that change it. Each function is one record: atomic, and answered from `apply`.

use crate::action::Action;
use crate::oracle;
use crate::rules::Rule;
use crate::scenario::Chunk;
use crate::state::*;

/// Records that no writer asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// W8: a recall was not answered for 2 s.
    Recall,
    /// S4: a session's time is over.
    Expire {
        w: usize,
    },
    Truncate {
        len: u8,
    },
    /// Another client makes the file longer without writing.
    Extend,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    BrokenStream,
    Recall,
    Expiry,
    Truncate,
    /// A holder restarted, lost its replica or is in doubt, and no grant is live.
    Idle,
}

pub fn offer(m: &Chunk, s: &State, out: &mut Vec<Action>) {
    let max = &m.scenario.max;
    if s.row.phase == Phase::Garbage {
        return;
    }
    if s.row.grant.is_some() && s.used.recalls < max.recalls {
        out.push(Action::Record(Step::Recall));
    }
    for w in 0..m.scenario.writers {
        let me = &s.writers[w];
        if me.session && (!me.alive || s.used.expiries < max.expiries) {
            out.push(Action::Record(Step::Expire { w }));
        }
    }
    if s.row.phase == Phase::Live {
        if s.used.truncates < max.truncates {
            for len in 0..s.row.len {
                out.push(Action::Record(Step::Truncate { len }));
            }
        }
        let may_grow = s.row.intent.is_none() || !m.keeps(Rule::GrowthWaits);
        if may_grow && s.used.extends < max.extends && s.row.len < m.scenario.blocks as u8 {
            out.push(Action::Record(Step::Extend));
        }
    }
}

pub fn step(m: &Chunk, s: &mut State, step: Step) {
    match step {
        Step::Recall => {
            s.used.recalls += 1;
            let w = s.row.grant.expect("offered with a grant").writer;
            end_by_force(m, s, w, Cause::Recall);
        }
        Step::Expire { w } => {
            s.used.expiries += u8::from(s.writers[w].alive);
            // The client is told and gives up: EIO for what it has not synced (W5).
            s.writers[w] = Writer {
                alive: false,
                session: false,
                grant: None,
                buf: [HOLE; BLOCKS],
                unsent: 0,
                wrote: false,
                broken: false,
                fsync: None,
            };
            end_by_force(m, s, w, Cause::Expiry);
            if s.row.hold.is_some_and(|h| h.writer == w) {
                s.row.hold = None;
            }
            if let Some(i) = s.row.intent.as_mut().filter(|i| i.ended == Some(w)) {
                i.ended = None;
            }
            oracle::writer_gone(s, w);
        }
        Step::Truncate { len } => {
            s.used.truncates += 1;
            s.row.len = len;
            oracle::truncated(s);
            let owner = s.row.grant.map(|g| g.writer);
            match owner {
                Some(w) => end_by_force(m, s, w, Cause::Truncate),
                None => intend(m, s, None, Cause::Truncate),
            }
            if let Some(hold) = s.row.hold.as_mut() {
                hold.clip = hold.clip.min(len);
            }
        }
        Step::Extend => {
            s.used.extends += 1;
            oracle::extended(s);
            s.row.len += 1;
        }
    }
}

/// F3: one live grant; W5: a hold belongs to one session.
pub fn may_grant(s: &State, w: usize) -> bool {
    let r = &s.row;
    r.phase != Phase::Garbage && r.grant.is_none() && r.intent.is_none() && r.hold.is_none_or(|h| h.writer == w)
}

/// W1. The first grant of a new chunk carries the create mark.
pub fn grant(s: &mut State, w: usize) -> Grant {
    let r = &mut s.row;
    r.last_grant += 1;
    let create = r.phase == Phase::New;
    let grant = Grant { id: r.last_grant, writer: w, version: r.version, holders: r.holders, incs: r.incs, create };
    r.grant = Some(grant);
    r.owner = Some(w);
    grant
}

/// W9: counts only under the current grant, which the caller has checked. It is also marked `resent` if the row is held.
pub fn write_end(s: &mut State, w: usize, end: u8) {
    s.row.phase = Phase::Live;
    s.row.len = s.row.len.max(end);
    if s.row.hold.is_some_and(|h| h.writer == w) {
        release(s);
    }
}

pub fn release(s: &mut State) {
    s.row.hold = None;
    s.ghost.excuse = false;
}

/// W7: leaves the version as it is.
pub fn end_cleanly(s: &mut State) {
    s.row.grant = None;
    if s.row.phase == Phase::New {
        s.row.phase = Phase::Garbage;
    }
}

/// Ends `w`'s grant, if it has the live one, and writes the Intent in the same record (ADR 3).
pub fn end_by_force(m: &Chunk, s: &mut State, w: usize, cause: Cause) {
    if s.row.grant.is_none_or(|g| g.writer != w) {
        return;
    }
    s.row.grant = None;
    if s.row.phase == Phase::New {
        s.row.phase = Phase::Garbage; // W2
        return;
    }
    let ended = s.writers[w].session.then_some(w);
    if let Some(w) = ended.filter(|_| m.keeps(Rule::HoldWriters)) {
        let reads = s.row.hold.is_some_and(|h| h.reads);
        s.row.hold = Some(Hold { writer: w, reads, clip: BLOCKS as u8 });
    }
    intend(m, s, ended, cause);
}

/// `Intent(v+1)`; one that is under way is replaced by the next.
pub fn intend(m: &Chunk, s: &mut State, ended: Option<usize>, cause: Cause) {
    let before = s.row.intent;
    let bump = cause == Cause::BrokenStream && !m.keeps(Rule::BumpCuts);
    let cuts = cause == Cause::Truncate || m.keeps(Rule::CutAtLength) && !bump;
    let cut = if cuts { s.row.len } else { BLOCKS as u8 };
    s.row.intent = Some(Intent {
        version: before.map_or(s.row.version, |i| i.version) + 1,
        cut: before.map_or(cut, |i| i.cut.min(cut)),
        ended: ended.or(before.and_then(|i| i.ended)),
    });
    crate::leader::start_over(s);
}

/// `Ready(v+1, members, incarnations, source)`.
pub fn ready(m: &Chunk, s: &mut State, plan: &Plan) {
    let intent = s.row.intent.take().expect("Ready follows an Intent");
    oracle::ready(s, plan.members);
    let r = &mut s.row;
    r.version = intent.version;
    r.holders = plan.members;
    for i in ids(plan.members) {
        r.incs[i] = plan.incs[i];
    }
    // W5: with no source that stayed up, readers wait for the resend.
    let reads = !plan.stayed && intent.ended.is_some() && m.keeps(Rule::HoldReads);
    r.hold = match (r.hold, intent.ended) {
        (Some(h), _) => Some(Hold { reads: reads || h.reads && m.keeps(Rule::HoldSticks), ..h }),
        (None, Some(writer)) if reads => Some(Hold { writer, reads, clip: BLOCKS as u8 }),
        (None, _) => None,
    };
    s.leader.waited = 0;
    crate::leader::start_over(s);
}
