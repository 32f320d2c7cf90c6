//! Registers: blocks that several clients write and read, each time with an opening of their own. Whoever opens sees what was closed before
//! (close to open), so the history of each block must have an order in which every read gives what was written last. That is asked of reads
//! during a write as well: once one of them has given the new value, no later one gives the old (P2).
//!
//! Every value is written once, so that is decided in one pass over all operations (Gibbons and Korach, "Testing shared memories", 1997): the
//! operations of one value must lie together, so no two values may both have to be there at one moment. A write that nobody knows the end of
//! may happen at any time after its call, or never. Values that may be lost are left out of this; what is true of them stands in `doubts`.

mod doubts;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Moment, Operation};
pub use doubts::{Doubt, Doubts, is_over, unknown};

/// The value of a register that nobody has written to.
pub const START: u64 = 0;
/// When an operation is answered that nobody knows the end of.
pub const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Write,
    Read,
}

/// One operation. Calls and answers are numbered in the order in which they happened, or have times of one clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub client: usize,
    pub kind: Kind,
    /// What was written or read: another value for each write.
    pub value: u64,
    pub called: u64,
    /// [`NEVER`]: nobody knows the end.
    pub answered: u64,
}

/// Operations that have no order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    pub why: String,
    /// The operations that contradict each other, in the order of their calls.
    pub events: Vec<Event>,
}

/// The operations of each value.
type Values<'a> = BTreeMap<u64, Vec<&'a Event>>;

/// What there is in the beginning is like a write.
static BEGINNING: Event = Event { client: 0, kind: Kind::Write, value: START, called: 0, answered: 0 };

/// The operations of one value.
#[derive(Debug)]
struct Cluster<'a> {
    value: u64,
    events: &'a [&'a Event],
    /// The first answer and the last call: if the answer came before, the value had to be there from then to that call.
    first_answer: u64,
    last_call: u64,
}

/// The write of this value has ended. Reads of it that have been answered before stay as they were: what they saw was there then.
pub fn answer(events: &mut [Event], value: u64, answered: u64) {
    let write = events.iter_mut().find(|event| event.kind == Kind::Write && event.value == value);
    write.expect("it was noted when it began").answered = answered;
}

/// What has no order, if anything. A write without an end may have happened or not, but not twice.
pub fn contradiction(events: &[Event], doubts: &Doubts) -> Option<Contradiction> {
    let values = by_value(events);
    let mut clusters = Vec::new();
    for (value, events) in &values {
        let Some(write) = write_of(events) else {
            return Some(Contradiction::new(format!("nobody has written {value}"), vec![*events[0]]));
        };
        if let Some(early) = events.iter().find(|event| event.answered < write.called) {
            let why = format!("{value} was read before it was written");
            return Some(Contradiction::new(why, vec![**early, *write]));
        }
        if doubts.get(value).is_some_and(|doubt| doubt.may_be_lost) {
            continue;
        }
        let first_answer = events.iter().map(|event| event.answered).min().unwrap_or(0);
        let last_call = events.iter().map(|event| event.called).max().unwrap_or(0);
        clusters.push(Cluster { value: *value, events, first_answer, last_call });
    }
    at_one_moment(clusters).or_else(|| doubts.keys().find_map(|value| doubts::returned(&values, doubts, *value)))
}

fn by_value(events: &[Event]) -> Values<'_> {
    let mut values = Values::from([(START, vec![&BEGINNING])]);
    for event in events {
        values.entry(event.value).or_default().push(event);
    }
    values
}

fn write_of<'a>(events: &[&'a Event]) -> Option<&'a Event> {
    events.iter().copied().find(|event| event.kind == Kind::Write)
}

/// Two values that both had to be there at one moment, if there are any.
fn at_one_moment(clusters: Vec<Cluster<'_>>) -> Option<Contradiction> {
    let (mut lasting, brief): (Vec<Cluster<'_>>, Vec<Cluster<'_>>) =
        clusters.into_iter().partition(|cluster| cluster.first_answer < cluster.last_call);
    lasting.sort_by_key(|cluster| cluster.first_answer);
    if let Some(pair) = lasting.windows(2).find(|pair| pair[0].last_call > pair[1].first_answer) {
        let why = format!("value {} and value {} both had to be there at one moment", pair[0].value, pair[1].value);
        return Some(Contradiction::of(why, &pair[0], &pair[1]));
    }
    brief.iter().find_map(|inner| {
        let after = lasting.partition_point(|outer| outer.first_answer < inner.last_call);
        let outer = after.checked_sub(1).map(|index| &lasting[index])?;
        let is_within = inner.first_answer < outer.last_call;
        let why = || format!("value {} was there before and after value {}", outer.value, inner.value);
        is_within.then(|| Contradiction::of(why(), outer, inner))
    })
}

impl Cluster<'_> {
    /// The write, and the operations that show from when to when the value had to be there.
    fn told(&self) -> Vec<Event> {
        let write = write_of(self.events);
        let first = self.events.iter().copied().find(|event| event.answered == self.first_answer);
        let last = self.events.iter().copied().find(|event| event.called == self.last_call);
        [write, first, last].into_iter().flatten().copied().collect()
    }
}

impl Contradiction {
    fn new(why: String, mut events: Vec<Event>) -> Self {
        // What there is in the beginning was written by nobody.
        events.retain(|event| event.value != START || event.kind == Kind::Read);
        events.sort_by_key(|event| (event.called, event.answered));
        events.dedup();
        Self { why, events }
    }

    fn of(why: String, one: &Cluster<'_>, other: &Cluster<'_>) -> Self {
        Self::new(why, [one.told(), other.told()].concat())
    }

    /// For a person; `at` says when a time of the events was.
    pub fn finding(&self, at: impl Fn(u64) -> Moment) -> Finding {
        // The last read is the one that cannot be, as far as one of them is.
        let wrong = self.events.iter().rposition(|event| event.kind == Kind::Read);
        let told = self.events.iter().enumerate().map(|(number, event)| Operation {
            client: event.client,
            call: event.call(),
            answer: event.answer(),
            called_at: at(event.called),
            answered_at: at(event.answered),
            is_wrong: Some(number) == wrong,
        });
        let operations: Vec<Operation> = told.collect();
        let when = operations.iter().find(|operation| operation.is_wrong);
        let when = when.map(|operation| (operation.called_at, operation.answered_at));
        Finding { text: format!("the operations have no order: {}", self.why), when, operations }
    }
}

impl Event {
    fn call(&self) -> String {
        match self.kind {
            Kind::Write => format!("write {}", self.value),
            Kind::Read => "read".to_owned(),
        }
    }

    fn answer(&self) -> String {
        match self.kind {
            Kind::Write if self.answered == NEVER => "none".to_owned(),
            Kind::Write => "done".to_owned(),
            Kind::Read => self.value.to_string(),
        }
    }
}

/// In one line, for those who have numbers instead of times.
impl fmt::Display for Contradiction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.why)?;
        for event in &self.events {
            let Event { client, called, answered, .. } = event;
            write!(f, "; {called}–{answered} client {client}: {} → {}", event.call(), event.answer())?;
        }
        Ok(())
    }
}
