//! What goes wrong, each within its budget, and what comes back: servers, links, leaders, late commands of dead leaders, writers.

use crate::action::Action;
use crate::leader;
use crate::rules::Rule;
use crate::scenario::Chunk;
use crate::server;
use crate::state::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The process dies; the page cache stays.
    Crash {
        server: usize,
    },
    /// Each un-synced block keeps its new bytes, falls back to the synced ones, or is torn (base 3); a file never synced may be gone.
    PowerCut {
        server: usize,
        outcome: u8,
    },
    /// One disk of a running server is gone.
    DiskLoss {
        server: usize,
    },
    Restart {
        server: usize,
    },
    CutOff {
        server: usize,
    },
    Heal {
        server: usize,
    },
    /// The leader dies or is deposed, with at most one of its commands in the network.
    NewLeader {
        late: Option<Command>,
        deposed: bool,
    },
    Arrive,
    WriterDies {
        w: usize,
    },
}

pub const VANISH: u8 = 9;

pub fn offer(m: &Chunk, s: &State, out: &mut Vec<Action>) {
    let mut steps = Vec::new();
    for server in 0..m.scenario.servers {
        of_server(m, s, server, &mut steps);
    }
    let max = &m.scenario.max;
    // A leader with nothing in its memory and nothing under way can be replaced unnoticed.
    let commands = in_flight(m, s);
    let busy = s.row.intent.is_some() || s.leader.repair.is_some() || !commands.is_empty();
    if busy && s.used.leader_deaths < max.leader_deaths {
        steps.push(Step::NewLeader { late: None, deposed: false });
        if s.servers.iter().any(|i| !i.linked) {
            steps.push(Step::NewLeader { late: None, deposed: true });
        }
        steps.extend(commands.into_iter().map(|c| Step::NewLeader { late: Some(c), deposed: false }));
    }
    if s.late.is_some_and(|c| s.servers[c.server].up) {
        steps.push(Step::Arrive);
    }
    for w in 0..m.scenario.writers {
        if s.writers[w].alive && s.used.writer_deaths < max.writer_deaths {
            steps.push(Step::WriterDies { w });
        }
    }
    out.extend(steps.into_iter().map(Action::Fault));
}

fn of_server(m: &Chunk, s: &State, i: usize, out: &mut Vec<Step>) {
    let max = &m.scenario.max;
    let server = &s.servers[i];
    if !server.up {
        out.push(Step::Restart { server: i });
        if !server.linked {
            out.push(Step::Heal { server: i });
        }
        return;
    }
    if s.used.crashes < max.crashes {
        out.push(Step::Crash { server: i });
    }
    if s.used.power_cuts < max.power_cuts {
        out.extend(outcomes(m, server).into_iter().map(|outcome| Step::PowerCut { server: i, outcome }));
    }
    // The promise: as long as one named holder keeps its disk.
    let kept = !s.ghost.emptied & !(1 << i);
    let others = s.row.holders & kept & s.leader.plan.map_or(u8::MAX, |p| p.members);
    if server.replica.is_some() && s.used.disk_losses < max.disk_losses && (others != 0 || !has(s.row.holders, i)) {
        out.push(Step::DiskLoss { server: i });
    }
    if !server.linked {
        out.push(Step::Heal { server: i });
    } else if s.used.partitions < max.partitions {
        out.push(Step::CutOff { server: i });
    }
}

fn outcomes(m: &Chunk, server: &Server) -> Vec<u8> {
    let Some(r) = server.replica.as_ref() else { return vec![0] };
    let choices = |b: usize| match r.cells[b] == r.disk[b] {
        true => 0..1,
        false => 0..if m.scenario.tears { 3 } else { 2 },
    };
    let mut all: Vec<u8> = choices(0).flat_map(|a| choices(1).map(move |b| a + 3 * b)).collect();
    if !r.born {
        all.push(VANISH);
    }
    all
}

/// Commands that the leader may just have sent.
fn in_flight(m: &Chunk, s: &State) -> Vec<Command> {
    let mut steps = Vec::new();
    leader::offer(m, s, &mut steps);
    let order = |a: &Action| match *a {
        Action::Leader(leader::Step::Prepare { server }) => {
            Some((server, Order::Prepare { version: s.row.intent?.version }))
        }
        Action::Leader(leader::Step::FixWrite { server }) => Some((server, Order::Fix(s.leader.plan?))),
        Action::Leader(leader::Step::Delete { server }) => Some((server, Order::Delete { version: s.row.version })),
        _ => None,
    };
    steps.iter().filter_map(order).map(|(server, order)| leader::command(s, server, order)).collect()
}

pub fn step(m: &Chunk, s: &mut State, step: Step) {
    match step {
        Step::Crash { server } => {
            s.used.crashes += 1;
            stop(m, s, server, Doubt::Process);
        }
        Step::PowerCut { server, outcome } => {
            s.used.power_cuts += 1;
            power_cut(m, s, server, outcome);
        }
        Step::DiskLoss { server } => {
            s.used.disk_losses += 1;
            s.servers[server].replica = None;
            s.ghost.emptied |= 1 << server;
            s.ghost.powerless |= 1 << server;
        }
        Step::Restart { server } => {
            s.servers[server].up = true;
            s.servers[server].lease = s.servers[server].linked;
            s.leader.waited &= !(u8::from(s.servers[server].linked) << server);
        }
        Step::CutOff { server } => {
            s.used.partitions += 1;
            s.servers[server].linked = false;
        }
        Step::Heal { server } => {
            s.servers[server].linked = true;
            s.servers[server].lease = s.servers[server].up;
            if s.servers[server].up {
                s.leader.waited &= !(1 << server);
            }
        }
        Step::NewLeader { late, deposed } => {
            s.used.leader_deaths += 1;
            s.late = late.or(s.late);
            s.leader = Leader {
                term: s.leader.term + 1,
                round: 0,
                prepared: [0; SERVERS],
                waited: 0,
                plan: None,
                fixed: 0,
                repair: None,
                deposed,
            };
        }
        Step::Arrive => {
            let command = s.late.take().expect("offered with a late command");
            server::obey(m, s, command);
        }
        Step::WriterDies { w } => {
            s.used.writer_deaths += 1;
            let me = &mut s.writers[w];
            *me = Writer {
                alive: false,
                session: me.session,
                grant: None,
                buf: [HOLE; BLOCKS],
                unsent: 0,
                wrote: false,
                broken: false,
                fsync: None,
            };
        }
    }
}

fn power_cut(m: &Chunk, s: &mut State, i: usize, outcome: u8) {
    stop(m, s, i, Doubt::Power);
    let server = &mut s.servers[i];
    let Some(r) = server.replica.as_mut() else { return };
    if r.journal || r.cells != r.disk {
        s.ghost.powerless |= 1 << i;
    }
    if outcome == VANISH {
        server.replica = None;
        server.vanished = true;
        return;
    }
    for b in 0..BLOCKS {
        r.cells[b] = match outcome / 3u8.pow(b as u32) % 3 {
            0 => r.disk[b],
            1 => r.cells[b],
            _ => TORN,
        };
    }
    r.disk = r.cells;
    r.born = true;
}

/// F3: the next incarnation. V1: what was in memory is gone, so everything in the journal is in doubt.
fn stop(m: &Chunk, s: &mut State, i: usize, doubt: Doubt) {
    lapse(m, s, i);
    let server = &mut s.servers[i];
    server.up = false;
    server.inc += 1;
    server.tombstone = false;
    server.created = false;
    if let Some(r) = server.replica.as_mut() {
        r.unacked = 0;
        r.fixing = false;
        if r.journal && m.keeps(Rule::DirtyJournal) {
            r.doubt = r.doubt.max(doubt);
        }
    }
}

/// The server's read lease ends; the next one has another number, so locations handed out for this one are void.
pub fn lapse(m: &Chunk, s: &mut State, i: usize) {
    s.servers[i].lease = false;
    if m.keeps(Rule::LeaseNumber) {
        s.ghost.located[i] = 0;
    }
}
