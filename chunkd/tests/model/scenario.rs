//! Bounds of one exploration: how it starts and how much of each kind of action there may be.

use crate::rules::Rule;
use crate::state::*;

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    /// The chunk does not exist yet: the first grant is a create.
    pub new: bool,
    /// Servers 0..holders hold the chunk; one more may be a spare.
    pub holders: u8,
    pub servers: usize,
    pub writers: usize,
    pub blocks: usize,
    pub len: u8,
    /// Most of everything that there may be.
    pub max: Used,
    /// Power cuts may tear blocks.
    pub tears: bool,
    pub deletes: bool,
    /// Also check P5 in every state.
    pub progress: bool,
    /// What must come up for the exploration to mean anything.
    pub reached: &'static [Reached],
}

/// A name and a predicate that some state has to satisfy.
pub type Reached = (&'static str, fn(&Chunk, &State) -> bool);

impl Default for Scenario {
    fn default() -> Self {
        Scenario {
            name: "",
            new: false,
            holders: 0b011,
            servers: 2,
            writers: 1,
            blocks: 1,
            len: 1,
            max: Used::default(),
            tears: false,
            deletes: false,
            progress: true,
            reached: &[],
        }
    }
}

/// A scenario with at most one rule dropped.
#[derive(Clone, Debug)]
pub struct Chunk {
    pub scenario: Scenario,
    pub dropped: Option<Rule>,
}

impl Chunk {
    pub fn keeps(&self, rule: Rule) -> bool {
        self.dropped != Some(rule)
    }

    pub fn start(&self) -> State {
        let s = &self.scenario;
        let held = |i: usize| !s.new && has(s.holders, i);
        let first: Cell = if s.new { HOLE } else { 1 };
        let mut cells = [HOLE; BLOCKS];
        cells[..s.len as usize].fill(first);
        let replica = |grant| Replica {
            version: 1,
            complete: true,
            cells,
            disk: cells,
            born: true,
            journal: false,
            doubt: Doubt::None,
            grant,
            unacked: 0,
            fixing: false,
            copy: false,
        };
        State {
            row: Row {
                phase: if s.new { Phase::New } else { Phase::Live },
                version: 1,
                holders: s.holders,
                incs: [1; SERVERS],
                len: if s.new { 0 } else { s.len },
                grant: None,
                last_grant: 0,
                owner: None,
                intent: None,
                hold: None,
            },
            leader: Leader {
                term: 1,
                round: 0,
                prepared: [0; SERVERS],
                waited: 0,
                plan: None,
                fixed: 0,
                repair: None,
                deposed: false,
            },
            servers: std::array::from_fn(|i| Server {
                up: true,
                inc: 1,
                term: (1, 0),
                linked: true,
                lease: true,
                replica: held(i).then(|| replica(0)),
                vanished: false,
                tombstone: false,
                created: false,
            }),
            writers: std::array::from_fn(|i| Writer {
                alive: i < s.writers,
                session: i < s.writers,
                grant: None,
                buf: [HOLE; BLOCKS],
                unsent: 0,
                wrote: false,
                broken: false,
                fsync: None,
            }),
            frags: Vec::new(),
            late: None,
            used: Used::default(),
            ghost: Ghost {
                next: first + 1,
                latest: cells,
                past: std::array::from_fn(|b| u16::from(cells[b] != HOLE)),
                sealed: std::array::from_fn(|b| u16::from(cells[b] != HOLE)),
                located: [0; SERVERS],
                powerless: 0,
                emptied: 0,
                deleted: 0,
                excuse: false,
                torn_ok: 0,
                broken: None,
            },
        }
    }
}
