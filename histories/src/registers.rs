//! Registers: blocks that several clients write and read, each time with an opening of their own. Whoever opens sees what was closed before
//! (close to open), so the history of each block must have an order in which every read gives what was written last. That is asked of reads
//! during a write as well: once one of them has given the new value, no later one gives the old (P2).
//!
//! Every value is written once, so that is decided in one pass over all operations (Gibbons and Korach, "Testing shared memories", 1997): the
//! operations of one value must lie together, so no two values may both have to be there at one moment. A write that nobody knows the end of
//! may happen at any time after its call, or never: its value is left out.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::finding::{Finding, Moment, Operation};

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

/// The operations of one value.
#[derive(Debug)]
struct Cluster<'a> {
    value: u64,
    events: Vec<&'a Event>,
    /// The first answer and the last call: if the answer came before, the value had to be there from then to that call.
    first_answer: u64,
    last_call: u64,
}

/// The write of this value has ended. Reads of it that have been answered before stay as they were: what they saw was there then.
pub fn answer(events: &mut [Event], value: u64, answered: u64) {
    let write = events.iter_mut().find(|event| event.kind == Kind::Write && event.value == value);
    write.expect("it was noted when it began").answered = answered;
}

/// Values whose writes nobody knows the end of.
pub fn unknown(events: &[Event]) -> Vec<u64> {
    let writes = events.iter().filter(|event| event.kind == Kind::Write && event.answered == NEVER);
    writes.map(|event| event.value).collect()
}

/// What has no order, if anything; `lost` values are not asked for. A write without an end may have happened or not, but not twice.
pub fn contradiction(events: &[Event], lost: &[u64]) -> Option<Contradiction> {
    let start = Event { client: 0, kind: Kind::Write, value: START, called: 0, answered: 0 };
    let mut by_value: BTreeMap<u64, Vec<&Event>> = BTreeMap::from([(START, vec![&start])]);
    for event in events {
        by_value.entry(event.value).or_default().push(event);
    }
    let mut clusters = Vec::new();
    for (value, events) in by_value {
        let Some(write) = events.iter().find(|event| event.kind == Kind::Write) else {
            return Some(Contradiction::new(format!("nobody has written {value}"), vec![*events[0]]));
        };
        if let Some(early) = events.iter().find(|event| event.answered < write.called) {
            let why = format!("{value} was read before it was written");
            return Some(Contradiction::new(why, vec![**early, **write]));
        }
        if lost.contains(&value) {
            continue;
        }
        let first_answer = events.iter().map(|event| event.answered).min().unwrap_or(0);
        let last_call = events.iter().map(|event| event.called).max().unwrap_or(0);
        clusters.push(Cluster { value, events, first_answer, last_call });
    }
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
        let write = self.events.iter().find(|event| event.kind == Kind::Write);
        let first = self.events.iter().find(|event| event.answered == self.first_answer);
        let last = self.events.iter().find(|event| event.called == self.last_call);
        [write, first, last].into_iter().flatten().map(|event| **event).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: Kind, value: u64, called: u64, answered: u64) -> Event {
        Event { client: 1, kind, value, called, answered }
    }

    fn write(value: u64, called: u64, answered: u64) -> Event {
        event(Kind::Write, value, called, answered)
    }

    fn read(value: u64, called: u64, answered: u64) -> Event {
        event(Kind::Read, value, called, answered)
    }

    fn why(events: &[Event]) -> String {
        contradiction(events, &[]).expect("there is no order").why
    }

    #[test]
    fn values_that_follow_each_other_have_an_order() {
        let events = [read(0, 1, 2), write(1, 3, 6), read(0, 4, 5), read(1, 7, 8), write(2, 9, 12), read(2, 10, 11)];
        assert_eq!(contradiction(&events, &[]), None);
        // Two writes at one time: either may be the last.
        let events = [write(1, 1, 4), write(2, 2, 3), read(1, 5, 6)];
        assert_eq!(contradiction(&events, &[]), None);
    }

    #[test]
    fn a_read_that_goes_back_is_found() {
        let events = [write(1, 1, 2), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)];
        assert!(contradiction(&events, &[]).is_some());
        assert_eq!(contradiction(&events, &[2]), None, "if the second was lost");
        assert!(why(&[write(1, 1, 2), read(0, 3, 4)]).contains("value 1"), "an update that vanished");
    }

    #[test]
    fn two_values_that_alternate_are_found() {
        let events = [write(1, 1, 9), write(2, 2, 10), read(1, 3, 4), read(2, 5, 6), read(1, 7, 8)];
        assert!(contradiction(&events, &[]).is_some());
    }

    #[test]
    fn a_read_within_a_write_that_goes_back_is_found() {
        let mut events = vec![write(1, 1, 2), write(2, 3, NEVER), read(2, 4, 5), read(1, 6, 7)];
        answer(&mut events, 2, 8);
        assert!(contradiction(&events, &[]).is_some(), "2 was there before 1 was read again");
    }

    #[test]
    fn values_from_nowhere_and_from_the_future_are_found() {
        assert!(why(&[read(7, 1, 2)]).contains("nobody has written 7"));
        assert!(why(&[read(1, 1, 2), write(1, 3, 4)]).contains("before it was"));
    }

    #[test]
    fn a_write_that_was_never_answered_may_have_happened_or_not() {
        let never = write(1, 1, NEVER);
        assert_eq!(contradiction(&[never, read(0, 2, 3)], &[]), None);
        assert_eq!(contradiction(&[never, read(1, 2, 3)], &[]), None);
    }

    #[test]
    fn a_write_that_was_never_answered_happens_once() {
        let twice = [write(1, 1, NEVER), read(1, 2, 3), write(2, 4, 5), read(2, 6, 7), read(1, 8, 9)];
        assert!(contradiction(&twice, &[]).is_some());
        assert_eq!(contradiction(&twice, &unknown(&twice)), None, "if it may have been lost");
        assert_eq!(unknown(&twice), [1]);
    }

    #[test]
    fn what_contradicts_each_other_is_told_and_nothing_else() {
        let events = [
            write(1, 1, 2),
            read(1, 3, 4),
            write(2, 5, 6),
            read(2, 7, 8),
            read(2, 9, 10),
            read(1, 11, 12),
            write(3, 13, 14),
        ];
        let found = contradiction(&events, &[]).expect("there is no order");
        assert_eq!(found.events, [events[0], events[2], events[4], events[5]]);
        assert!(found.to_string().ends_with("; 11–12 client 1: read → 1"), "{found}");
        let finding = found.finding(|at| Moment(at * 1000));
        assert_eq!(finding.when, Some((Moment(11_000), Moment(12_000))));
        assert_eq!(
            finding.text,
            "the operations have no order: value 1 and value 2 both had to be there at one moment"
        );
        let told: Vec<(&str, &str, bool)> =
            finding.operations.iter().map(|told| (told.call.as_str(), told.answer.as_str(), told.is_wrong)).collect();
        assert_eq!(
            told,
            [("write 1", "done", false), ("write 2", "done", false), ("read", "2", false), ("read", "1", true)]
        );
    }

    #[test]
    fn what_was_there_in_the_beginning_is_not_told_as_a_write() {
        let found = contradiction(&[write(1, 1, 2), read(0, 3, 4)], &[]).expect("there is no order");
        assert_eq!(found.events, [write(1, 1, 2), read(0, 3, 4)]);
    }

    #[test]
    fn a_long_history_is_checked_in_one_pass() {
        let mut events: Vec<Event> = (1..100_000)
            .flat_map(|value| [write(value, value * 10, value * 10 + 5), read(value, value * 10 + 2, value * 10 + 8)])
            .collect();
        assert_eq!(contradiction(&events, &[]), None);
        events.push(read(500, 2_000_000, 2_000_001));
        assert!(why(&events).contains("value 500"));
    }
}
