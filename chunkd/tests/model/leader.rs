//! What the leader does by itself: recovery (V1, V2, V6), repair (R2), lost replicas (R3), deletion (R4).

use crate::action::Action;
use crate::plan::{self, Report};
use crate::record::{self, Cause};
use crate::rules::Rule;
use crate::scenario::Chunk;
use crate::server;
use crate::state::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// An Intent without a grant: a holder restarted or is in doubt.
    Idle,
    Prepare {
        server: usize,
    },
    /// TTL + 10 % without a word from this server; its read lease has ended before (ADR 7).
    Silence {
        server: usize,
    },
    Plan,
    /// Something that the plan relied on has changed: a new round.
    Replan,
    FixWrite {
        server: usize,
    },
    FixSync {
        server: usize,
    },
    Ready,
    Lost {
        server: usize,
    },
    RepairStart {
        target: usize,
    },
    Copy {
        block: usize,
    },
    CopyDone,
    RepairDone,
    RepairDrop,
    /// After RepairDone has committed, by whichever leader: the copy may serve.
    Named {
        server: usize,
    },
    Delete {
        server: usize,
    },
}

pub fn offer(m: &Chunk, s: &State, out: &mut Vec<Action>) {
    let mut steps = Vec::new();
    match s.row.intent {
        Some(intent) => recovery(m, s, intent, &mut steps),
        None => upkeep(m, s, &mut steps),
    }
    out.extend(steps.into_iter().map(Action::Leader));
}

fn recovery(m: &Chunk, s: &State, intent: Intent, out: &mut Vec<Step>) {
    let l = &s.leader;
    let Some(plan) = l.plan else {
        for server in ids(s.row.holders) {
            if !reachable(s, server) && !has(l.waited, server) {
                out.push(Step::Silence { server });
            } else if reachable(s, server) && l.prepared[server] != s.servers[server].inc {
                out.push(Step::Prepare { server });
            }
        }
        if make_plan(m, s, intent).is_some() {
            out.push(Step::Plan);
        }
        return;
    };
    for server in ids(plan.members & !l.fixed) {
        let fixing = s.servers[server].replica.as_ref().is_some_and(|r| r.fixing);
        if !server::may_fix(m, s, &plan, server) {
            if !out.contains(&Step::Replan) {
                out.push(Step::Replan);
            }
        } else if !reachable(s, server) {
            out.push(if has(l.waited, server) { Step::Replan } else { Step::Silence { server } });
        } else if fixing {
            out.push(Step::FixSync { server });
        } else {
            out.push(Step::FixWrite { server });
        }
    }
    if l.fixed == plan.members {
        out.push(Step::Ready);
    }
}

fn upkeep(m: &Chunk, s: &State, out: &mut Vec<Step>) {
    let r = &s.row;
    if r.phase == Phase::Live && r.grant.is_none() {
        if ids(r.holders).any(|i| reachable(s, i) && needs_intent(s, i)) {
            out.push(Step::Idle);
        }
        let lost = |i: &usize| reachable(s, *i) && s.servers[*i].replica.is_none() && !s.servers[*i].vanished;
        let copy = |i: &usize| reachable(s, *i) && s.servers[*i].replica.as_ref().is_some_and(|c| c.copy && c.complete);
        out.extend(ids(r.holders).filter(copy).map(|server| Step::Named { server }));
        if let Some(server) = ids(r.holders).find(lost).filter(|i| r.holders != 1 << i) {
            out.push(Step::Lost { server }); // R3
        }
        if s.leader.repair.is_none() && s.used.repairs < m.scenario.max.repairs && r.hold.is_none() {
            let spare = |i: &usize| !has(r.holders, *i) && reachable(s, *i);
            out.extend((0..m.scenario.servers).filter(spare).map(|target| Step::RepairStart { target }));
        }
    }
    if let Some(p) = s.leader.repair {
        let gone = s.servers[p.target].inc != p.inc || s.servers[p.target].replica.is_none() || r.version != p.version;
        if gone {
            out.push(Step::RepairDrop);
        } else if p.done {
            out.push(Step::RepairDone);
        } else {
            let copied = |b: &usize| has(p.copied, *b);
            out.extend(
                (0..m.scenario.blocks)
                    .filter(|b| !copied(b) && copy_source(s, &p, *b).is_some())
                    .map(|block| Step::Copy { block }),
            );
            if (0..m.scenario.blocks).all(|b| copied(&b)) {
                out.push(Step::CopyDone);
            }
        }
    }
    let target = s.leader.repair.map(|p| p.target);
    out.extend(
        (0..m.scenario.servers)
            .filter(|i| target != Some(*i) && deletable(m, s, *i))
            .map(|server| Step::Delete { server }),
    );
}

fn deletable(m: &Chunk, s: &State, i: usize) -> bool {
    let server = &s.servers[i];
    let unnamed = s.row.phase == Phase::Live && !has(s.row.holders, i) && server.replica.is_some();
    let garbage =
        s.row.phase == Phase::Garbage && has(s.row.holders, i) && (server.replica.is_some() || !server.tombstone);
    m.scenario.deletes && reachable(s, i) && (unnamed || garbage)
}

fn needs_intent(s: &State, i: usize) -> bool {
    let server = &s.servers[i];
    server.inc != s.row.incs[i] || server.vanished || server.replica.as_ref().is_none_or(|r| r.doubt != Doubt::None)
}

pub fn reachable(s: &State, i: usize) -> bool {
    s.servers[i].up && s.servers[i].linked
}

/// V2 and V6: a plan as soon as every holder has answered or may be left out.
fn make_plan(m: &Chunk, s: &State, intent: Intent) -> Option<Plan> {
    let answered = |i: &usize| s.leader.prepared[*i] == s.servers[*i].inc;
    let may_leave = |i: usize| !reachable(s, i) && (has(s.leader.waited, i) || !m.keeps(Rule::LeaseWait));
    if !ids(s.row.holders).all(|i| answered(&i) || may_leave(i)) {
        return None;
    }
    let report = |i: usize| {
        let r = s.servers[i].replica.as_ref().filter(|r| r.version == intent.version)?;
        let stayed = s.servers[i].inc == s.row.incs[i] && !has(s.leader.waited, i);
        Some(Report { server: i, cells: r.cells, doubt: r.doubt, stayed })
    };
    let reports: Vec<Report> = ids(s.row.holders).filter(answered).filter_map(report).collect();
    let good = |r: &Report| r.doubt == Doubt::None || r.doubt == Doubt::Process && m.keeps(Rule::ProcessBeatsPower);
    let all = ids(s.row.holders).all(|i| answered(&i));
    if reports.is_empty() || !reports.iter().any(good) && !all && m.keeps(Rule::AllDirtyAnswers) {
        return None;
    }
    let (source, stayed) = plan::sources(m, &reports);
    let members = reports.iter().fold(0, |set, r| set | 1 << r.server);
    let incs = std::array::from_fn(|i| if has(members, i) { s.servers[i].inc } else { 0 });
    Some(Plan { version: intent.version, cut: intent.cut, members, incs, source, stayed })
}

fn copy_source(s: &State, p: &Repair, block: usize) -> Option<usize> {
    ids(s.row.holders).find(|i| {
        let r = s.servers[*i].replica.as_ref();
        s.servers[*i].up
            && r.is_some_and(|r| {
                r.complete && r.version == p.version && r.doubt == Doubt::None && !has(r.unacked, block)
            })
    })
}

/// A new Intent, or none any more: what was prepared and planned is void.
pub fn start_over(s: &mut State) {
    s.leader.prepared = [0; SERVERS];
    s.leader.plan = None;
    s.leader.fixed = 0;
}

pub fn command(s: &State, server: usize, order: Order) -> Command {
    Command { term: s.leader.term, round: s.leader.round, server, order }
}

pub fn step(m: &Chunk, s: &mut State, step: Step) {
    match step {
        Step::Idle => record::intend(m, s, None, Cause::Idle),
        Step::Prepare { server } => {
            let version = s.row.intent.expect("offered with an Intent").version;
            server::obey(m, s, command(s, server, Order::Prepare { version }));
            s.leader.prepared[server] = s.servers[server].inc;
        }
        Step::Silence { server } => silence(m, s, server),
        Step::Plan => s.leader.plan = s.row.intent.and_then(|i| make_plan(m, s, i)),
        Step::Replan => {
            s.leader.round += 1;
            start_over(s);
        }
        Step::FixWrite { server } => {
            let plan = s.leader.plan.expect("offered with a plan");
            server::fix_write(m, s, &plan, server);
        }
        Step::FixSync { server } => {
            server::fix_sync(m, s, server);
            s.leader.fixed |= 1 << server;
        }
        Step::Ready => {
            let plan = s.leader.plan.expect("offered with a plan");
            record::ready(m, s, &plan);
        }
        Step::Named { server } => s.servers[server].replica.as_mut().expect("checked when offered").copy = false,
        Step::Lost { server } => s.row.holders &= !(1 << server),
        Step::Delete { server } => {
            let version = s.row.version;
            server::obey(m, s, command(s, server, Order::Delete { version }));
        }
        _ => repair(m, s, step),
    }
}

fn silence(m: &Chunk, s: &mut State, i: usize) {
    s.leader.waited |= 1 << i;
    let renewed = s.leader.deposed && s.servers[i].up && !m.keeps(Rule::LeaderLease);
    if !renewed {
        crate::fault::lapse(m, s, i);
    }
}

/// R2.
fn repair(m: &Chunk, s: &mut State, step: Step) {
    let mut leader = s.leader.clone();
    match (step, leader.repair.as_mut()) {
        (Step::RepairStart { target }, _) => {
            s.used.repairs += 1;
            let to = &mut s.servers[target];
            to.term = (leader.term, leader.round).max(to.term);
            to.replica = Some(Replica { born: true, ..server::blank(s.row.version, false) });
            to.vanished = false;
            leader.repair = Some(Repair {
                target,
                version: s.row.version,
                inc: to.inc,
                grant: s.row.last_grant,
                copied: 0,
                done: false,
            });
        }
        (Step::Copy { block }, Some(p)) => {
            let from = copy_source(s, p, block).expect("offered with a source");
            let cell = s.servers[from].replica.as_ref().expect("a source has a replica").cells[block];
            s.servers[p.target].replica.as_mut().expect("checked when offered").cells[block] = cell;
            p.copied |= 1 << block;
        }
        (Step::CopyDone, Some(p)) => {
            server::fix_sync(m, s, p.target);
            s.servers[p.target].replica.as_mut().expect("just synced").copy = true;
            p.done = true;
        }
        (Step::RepairDone, Some(p)) => {
            if !refused(m, s, p) {
                s.row.holders |= 1 << p.target;
                s.row.incs[p.target] = p.inc;
                s.ghost.emptied &= !(1 << p.target);
                s.ghost.powerless &= !(1 << p.target);
            }
            leader.repair = None;
        }
        _ => leader.repair = None,
    }
    s.leader = leader;
}

/// R2: the version, and no grant live or given since.
pub fn refused(m: &Chunk, s: &State, p: &Repair) -> bool {
    let since = s.row.grant.is_some() || s.row.last_grant != p.grant;
    s.row.version != p.version || s.row.intent.is_some() || since && m.keeps(Rule::RepairCondition)
}
