//! One step of the machine, and the glue to stateright.
//!
//! Each part of the system owns its steps: `offer` lists those that are possible, `step` takes one. After every step the oracle looks at all
//! that a reader could see.

use stateright::{Model, Property};

use crate::scenario::Chunk;
use crate::state::State;
use crate::{fault, leader, oracle, progress, record, server, writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    Writer(writer::Step),
    Server(server::Step),
    Record(record::Step),
    Leader(leader::Step),
    Fault(fault::Step),
}

pub const SAFETY: &str = "P1, P2, P3";
pub const PROGRESS: &str = "P5";

pub fn step(m: &Chunk, s: &mut State, action: Action) {
    match action {
        Action::Writer(a) => writer::step(m, s, a),
        Action::Server(a) => server::step(m, s, a),
        Action::Record(a) => record::step(m, s, a),
        Action::Leader(a) => leader::step(m, s, a),
        Action::Fault(a) => fault::step(m, s, a),
    }
    oracle::look(m, s);
}

impl Model for Chunk {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut s = self.start();
        oracle::look(self, &mut s);
        vec![s]
    }

    fn actions(&self, s: &State, out: &mut Vec<Action>) {
        if s.ghost.broken.is_some() {
            return;
        }
        writer::offer(self, s, out);
        server::offer(s, out);
        record::offer(self, s, out);
        leader::offer(self, s, out);
        fault::offer(self, s, out);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut s = last.clone();
        step(self, &mut s, action);
        Some(s)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let mut all = vec![Property::always(SAFETY, |_: &Chunk, s: &State| s.ghost.broken.is_none())];
        if self.scenario.progress {
            all.push(Property::always(PROGRESS, |m: &Chunk, s: &State| {
                s.ghost.broken.is_some() || progress::settles(m, s)
            }));
        }
        all.extend(self.scenario.reached.iter().map(|(name, holds)| Property::sometimes(name, *holds)));
        all
    }
}
