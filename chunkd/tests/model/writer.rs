//! Clients that write: grants, the buffer of un-synced bytes, fsync, write-end, and what they do about a broken stream.

use crate::action::Action;
use crate::record;
use crate::rules::Rule;
use crate::scenario::Chunk;
use crate::state::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Ask {
        w: usize,
    },
    /// The application writes a block; it goes into the buffer and down the chain.
    Issue {
        w: usize,
        block: usize,
    },
    Resend {
        w: usize,
        block: usize,
    },
    WriteEnd {
        w: usize,
    },
    /// Held, but there is nothing to resend.
    Release {
        w: usize,
    },
    FsyncStart {
        w: usize,
    },
    FsyncDone {
        w: usize,
    },
    End {
        w: usize,
    },
    Report {
        w: usize,
    },
    Learn {
        w: usize,
    },
}

pub fn offer(m: &Chunk, s: &State, out: &mut Vec<Action>) {
    for w in 0..m.scenario.writers {
        let me = &s.writers[w];
        if !me.alive || !me.session {
            continue;
        }
        match me.grant {
            Some(grant) => with_grant(m, s, w, grant, out),
            None => without_grant(m, s, w, out),
        }
    }
}

fn without_grant(m: &Chunk, s: &State, w: usize, out: &mut Vec<Action>) {
    let me = &s.writers[w];
    let wants = me.unsent != 0 || s.used.writes < m.scenario.max.writes;
    if wants && record::may_grant(s, w) {
        out.push(Action::Writer(Step::Ask { w }));
    }
    if me.unsent == 0 && s.row.hold.is_some_and(|h| h.writer == w) {
        out.push(Action::Writer(Step::Release { w }));
    }
}

fn with_grant(m: &Chunk, s: &State, w: usize, grant: Grant, out: &mut Vec<Action>) {
    let me = &s.writers[w];
    let live = s.row.grant == Some(grant);
    if !live {
        out.push(Action::Writer(Step::Learn { w }));
    }
    if me.broken || (live && !chain_is_whole(s, &grant)) {
        out.push(Action::Writer(Step::Report { w }));
    }
    if me.broken {
        return;
    }
    let idle = !s.frags.iter().any(|f| f.grant.id == grant.id);
    let sent = me.unsent == 0;
    if me.fsync.is_none() {
        for block in 0..m.scenario.blocks {
            if has(me.unsent, block) {
                out.push(Action::Writer(Step::Resend { w, block }));
            } else if sent && s.used.writes < m.scenario.max.writes {
                out.push(Action::Writer(Step::Issue { w, block }));
            }
        }
        let some = me.buf != [HOLE; BLOCKS];
        if sent && some && s.used.fsyncs < m.scenario.max.fsyncs {
            out.push(Action::Writer(Step::FsyncStart { w }));
        }
    }
    if live && idle && sent && needs_write_end(s, w) {
        out.push(Action::Writer(Step::WriteEnd { w }));
    }
    // W6: every holder, and the length is committed (W5).
    let synced = me.fsync.is_some_and(|by| if m.keeps(Rule::AllSync) { by == grant.holders } else { by != 0 });
    if synced && idle && top(&me.buf) <= s.row.len {
        out.push(Action::Writer(Step::FsyncDone { w }));
    }
    // W7, ADR 2: a clean end is a synced end.
    let used = me.wrote || s.used.writes >= m.scenario.max.writes;
    let clean = idle && me.buf == [HOLE; BLOCKS] || !m.keeps(Rule::CleanEnd);
    if used && live && clean && !needs_write_end(s, w) && chain_is_whole(s, &grant) {
        out.push(Action::Writer(Step::End { w }));
    }
}

pub fn step(m: &Chunk, s: &mut State, step: Step) {
    match step {
        Step::Ask { w } => {
            clip(m, s, w);
            let grant = record::grant(s, w);
            s.writers[w].grant = Some(grant);
            s.writers[w].wrote = false;
        }
        Step::Issue { w, block } => {
            s.used.writes += 1;
            s.writers[w].buf[block] = s.ghost.next;
            s.ghost.next += 1;
            send(s, w, block);
        }
        Step::Resend { w, block } => {
            s.writers[w].unsent &= !(1 << block);
            send(s, w, block);
        }
        Step::WriteEnd { w } => record::write_end(s, w, top(&s.writers[w].buf)),
        Step::Release { .. } => record::release(s),
        Step::FsyncStart { w } => {
            s.used.fsyncs += 1;
            s.writers[w].fsync = Some(0);
        }
        Step::FsyncDone { w } => crate::oracle::acknowledge(s, w),
        Step::End { w } => {
            record::end_cleanly(s);
            s.writers[w].grant = None;
        }
        Step::Report { w } => {
            record::end_by_force(m, s, w, record::Cause::BrokenStream);
            forget(m, s, w);
        }
        Step::Learn { w } => forget(m, s, w),
    }
}

fn send(s: &mut State, w: usize, block: usize) {
    let grant = s.writers[w].grant.expect("only a writer with a grant sends");
    let cell = s.writers[w].buf[block];
    let hop = ids(grant.holders).next().expect("a grant has holders");
    s.writers[w].wrote = true;
    s.frags.push(Frag { grant, block, cell, hop });
}

/// The grant is gone; everything un-synced goes out again under the next one (W4, ADR 6).
fn forget(m: &Chunk, s: &mut State, w: usize) {
    let me = &mut s.writers[w];
    me.grant = None;
    me.broken = false;
    me.wrote = false;
    me.fsync = None;
    clip(m, s, w);
    let me = &mut s.writers[w];
    me.unsent = (0..BLOCKS).fold(0, |set, b| set | u8::from(me.buf[b] != HOLE) << b);
}

/// The end of a grant and the next grant both carry the lowest truncation since.
fn clip(m: &Chunk, s: &mut State, w: usize) {
    let Some(hold) = s.row.hold.filter(|h| h.writer == w && m.keeps(Rule::ClipResend)) else { return };
    for b in hold.clip as usize..BLOCKS {
        s.writers[w].buf[b] = HOLE;
        s.writers[w].unsent &= !(1 << b);
    }
}

fn needs_write_end(s: &State, w: usize) -> bool {
    let held = s.row.hold.is_some_and(|h| h.writer == w);
    s.row.phase == Phase::New && s.writers[w].buf != [HOLE; BLOCKS] || top(&s.writers[w].buf) > s.row.len || held
}

fn chain_is_whole(s: &State, grant: &Grant) -> bool {
    ids(grant.holders).all(|i| {
        s.servers[i].up && s.servers[i].inc == grant.incs[i] && s.servers[i].replica.is_some() || fresh(s, grant, i)
    })
}

/// A create has not reached this server yet.
fn fresh(s: &State, grant: &Grant, i: usize) -> bool {
    grant.create && s.servers[i].up && s.servers[i].inc == grant.incs[i]
}

pub fn top(buf: &[Cell; BLOCKS]) -> u8 {
    (0..BLOCKS).filter(|b| buf[*b] != HOLE).map(|b| b as u8 + 1).max().unwrap_or(0)
}
