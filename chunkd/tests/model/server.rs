//! Chunk servers: fragments down the chain, syncs, and obeying the leader's commands.

use crate::action::Action;
use crate::rules::Rule;
use crate::scenario::Chunk;
use crate::state::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Fragment number `frag` arrives at its next server, however late.
    Deliver { frag: usize },
    /// The ack of a fragment that all have travels back to the client.
    Ack { frag: usize },
    /// W6: one holder syncs for writer `w`'s fsync.
    Sync { w: usize, server: usize },
}

pub fn offer(s: &State, out: &mut Vec<Action>) {
    for (n, frag) in s.frags.iter().enumerate() {
        // One stream: a fragment does not overtake an earlier one of its grant.
        if s.frags[..n].iter().any(|f| f.grant.id == frag.grant.id && f.hop <= frag.hop) {
            continue;
        }
        if frag.hop == SERVERS {
            out.push(Action::Server(Step::Ack { frag: n }));
        } else if s.servers[frag.hop].up {
            out.push(Action::Server(Step::Deliver { frag: n }));
        }
    }
    for (w, writer) in s.writers.iter().enumerate() {
        let (Some(grant), Some(done), false) = (writer.grant, writer.fsync, writer.broken) else { continue };
        for server in ids(grant.holders & !done) {
            // The flag rides on the last fragment: a holder syncs as soon as it has written, whatever the others do.
            let behind = s.frags.iter().any(|f| f.grant.id == grant.id && f.hop <= server);
            if s.servers[server].up && !behind {
                out.push(Action::Server(Step::Sync { w, server }));
            }
        }
    }
}

pub fn step(m: &Chunk, s: &mut State, step: Step) {
    match step {
        Step::Deliver { frag } => {
            if accept(m, s, frag) {
                let f = &mut s.frags[frag];
                f.hop = ids(f.grant.holders).find(|i| *i > f.hop).unwrap_or(SERVERS);
            } else {
                break_stream(s, frag);
            }
        }
        Step::Ack { frag } => {
            let f = s.frags[frag].clone();
            let whole = ids(f.grant.holders).all(|i| s.servers[i].up && same_inc(m, s, &f.grant, i));
            if !whole {
                break_stream(s, frag);
                return;
            }
            s.frags.remove(frag);
            for i in ids(f.grant.holders) {
                // Only if this was the last write here: a later one may never have come further.
                let last = |r: &&mut Replica| r.version == f.grant.version && r.cells[f.block] == f.cell;
                if let Some(r) = s.servers[i].replica.as_mut().filter(last) {
                    r.unacked &= !(1 << f.block);
                    trim(m, r);
                }
            }
        }
        Step::Sync { w, server } => {
            let grant = s.writers[w].grant.expect("offered with a grant");
            let same = same_inc(m, s, &grant, server);
            match s.servers[server].replica.as_mut() {
                // V1: Prepare fences v, and with it the syncs at v.
                Some(r) if same && r.version == grant.version && r.complete => {
                    sync(m, r);
                    let done = s.writers[w].fsync.as_mut().expect("offered during an fsync");
                    *done |= 1 << server;
                }
                _ => s.writers[w].broken = true,
            }
        }
    }
}

fn same_inc(m: &Chunk, s: &State, grant: &Grant, i: usize) -> bool {
    s.servers[i].inc == grant.incs[i] || !m.keeps(Rule::Incarnation) // F3
}

fn sync(m: &Chunk, r: &mut Replica) {
    r.disk = r.cells;
    r.born = true;
    trim(m, r);
}

/// V3: the entry leaves the journal when a sync has covered everything *and* all behind have everything: the list of un-acknowledged blocks is
/// in memory only, and the entry is what is left of it after an unclean start.
fn trim(m: &Chunk, r: &mut Replica) {
    let acked = r.unacked == 0 || !m.keeps(Rule::JournalUntilAcked);
    if r.doubt == Doubt::None && r.born && r.disk == r.cells && acked {
        r.journal = false;
    }
}

fn accept(m: &Chunk, s: &mut State, frag: usize) -> bool {
    let f = s.frags[frag].clone();
    let i = f.hop;
    if !same_inc(m, s, &f.grant, i) {
        return false;
    }
    let stale = s.row.phase == Phase::Live && s.row.intent.is_none() && s.row.grant != Some(f.grant);
    let named = has(s.row.holders, i) && s.row.version == f.grant.version;
    let last = ids(f.grant.holders).last() == Some(i);
    let server = &mut s.servers[i];
    if server.replica.is_none() {
        let may = f.grant.create || !m.keeps(Rule::CreateMark); // W2
        let again = server.created && m.keeps(Rule::CreateOnce);
        let deleted = server.tombstone && m.keeps(Rule::Tombstone); // ADR 9
        if !may || again || deleted {
            return false;
        }
        if has(s.ghost.deleted, i) {
            s.ghost.broken = Some(Violation::Undead);
        }
        server.created = true;
        server.replica = Some(blank(f.grant.version, true));
    }
    let r = server.replica.as_mut().expect("made above");
    // F3: grant ids are compared per chunk.
    if r.version != f.grant.version || !r.complete || f.grant.id < r.grant {
        return false;
    }
    r.cells[f.block] = f.cell;
    r.grant = f.grant.id;
    r.journal = true; // V3
    if !last {
        r.unacked |= 1 << f.block;
    }
    if stale && named {
        s.ghost.broken = Some(Violation::Stale);
    }
    true
}

pub fn blank(version: u8, complete: bool) -> Replica {
    Replica {
        version,
        complete,
        cells: [HOLE; BLOCKS],
        disk: [HOLE; BLOCKS],
        born: false,
        journal: true,
        doubt: Doubt::None,
        grant: 0,
        unacked: 0,
        fixing: false,
        copy: false,
    }
}

fn break_stream(s: &mut State, frag: usize) {
    let f = s.frags.remove(frag);
    let writer = &mut s.writers[f.grant.writer];
    if writer.grant.is_some_and(|g| g.id == f.grant.id) {
        writer.broken = true;
    }
}

/// Obeys one command at once; a Fix is carried out whole. F2: an older term is refused.
pub fn obey(m: &Chunk, s: &mut State, command: Command) {
    let i = command.server;
    let fence = (command.term, command.round);
    if fence < s.servers[i].term && m.keeps(Rule::TermFence) {
        return;
    }
    match command.order {
        Order::Prepare { version } => prepare(m, &mut s.servers[i], fence, version),
        Order::Fix(plan) => {
            if may_fix(m, s, &plan, i) {
                fix_write(m, s, &plan, i);
                fix_sync(m, s, i);
            }
        }
        Order::Delete { version } => delete(s, i, version),
    }
    let term = &mut s.servers[i].term;
    *term = fence.max(*term);
}

/// V1: persists `version, incomplete`, which fences everything older and serves nothing.
fn prepare(m: &Chunk, server: &mut Server, fence: (u8, u8), version: u8) {
    if server.replica.is_none() && server.vanished && m.keeps(Rule::VanishedIsDirty) {
        server.vanished = false;
        server.replica = Some(Replica { born: true, doubt: Doubt::Power, ..blank(version, false) });
    }
    let Some(r) = server.replica.as_mut() else { return };
    let reopened = r.version == version && fence > server.term && m.keeps(Rule::RoundReopens);
    if r.version < version || reopened {
        r.version = version;
        r.complete = false;
        r.born = true;
    }
    r.fixing = false;
}

/// The member and its sources are as the plan found them.
pub fn may_fix(m: &Chunk, s: &State, plan: &Plan, i: usize) -> bool {
    let ready = |i: usize| s.servers[i].up && s.servers[i].replica.as_ref().is_some_and(|r| r.version == plan.version);
    let same = |i: usize| s.servers[i].inc == plan.incs[i];
    let source = |i: &usize| ready(*i) && (same(*i) || !m.keeps(Rule::FixSource));
    ready(i) && same(i) && plan.source[..m.scenario.blocks].iter().all(source)
}

pub fn fix_write(m: &Chunk, s: &mut State, plan: &Plan, i: usize) {
    let fetched: [Cell; BLOCKS] = std::array::from_fn(|b| match () {
        () if b as u8 >= plan.cut => HOLE, // W9
        () => {
            let from = if m.keeps(Rule::Equalise) { plan.source[b] } else { i };
            s.servers[from].replica.as_ref().map_or(HOLE, |r| r.cells[b])
        }
    });
    let r = s.servers[i].replica.as_mut().expect("checked by may_fix");
    r.fixing = true;
    // F2: what is complete already is confirmed, not repeated.
    if !r.complete && r.cells != fetched {
        r.cells = fetched;
        r.journal |= m.keeps(Rule::FixJournals);
    }
}

/// V1: only after the sync `complete` is persisted.
pub fn fix_sync(m: &Chunk, s: &mut State, i: usize) {
    let r = s.servers[i].replica.as_mut().expect("checked by may_fix");
    r.doubt = Doubt::None;
    r.unacked = 0;
    sync(m, r);
    r.complete = true;
    r.copy = false;
    r.fixing = false;
}

/// R4. The id is remembered even if there was no replica (ADR 9).
fn delete(s: &mut State, i: usize, version: u8) {
    let server = &mut s.servers[i];
    if server.replica.as_ref().is_some_and(|r| r.version > version) {
        return;
    }
    if server.replica.is_some() && s.row.phase == Phase::Live && has(s.row.holders, i) {
        s.ghost.broken = Some(Violation::Removed);
    }
    if s.row.phase == Phase::Garbage {
        s.ghost.deleted |= 1 << i;
    }
    server.replica = None;
    server.vanished = false;
    server.tombstone = true;
}
