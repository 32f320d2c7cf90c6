//! Why a history has no order: the answer that nothing explains, what would have been right, and the few operations that matter.
//!
//! A replay goes from call to call and from answer to answer, and keeps everything that may be by then: the names, and which of the operations
//! under way have been carried out. Where nothing is left, the history contradicts itself. Of the names that the answer depends on, an operation
//! does not matter if the contradiction remains without it: a question is left out, a change may happen at any time after its call, or never.
//! Both only allow more, so what remains is a contradiction by itself, whatever the others did.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::finding::{Finding, Operation};
use crate::names::{Answer, Event, Name, Op, apply, carry_out, in_words, names_of, until};

/// Possibilities above which nothing is explained: so many operations have an unknown end.
const MOST_WORLDS: usize = 5_000;
/// Changes that may happen at any time, at once: each doubles the possibilities.
const MOST_LOOSE: usize = 4;
/// Calls and answers before the contradiction that are looked at.
const MOST_STEPS: usize = 80;
/// Operations that are told.
const MOST_TOLD: usize = 12;
/// Right answers, or states of the names, that are told.
const MOST_WORDS: usize = 3;

/// Explains a history whose shortest beginning without an order ends with the answer of number `end`.
pub(super) fn explain(events: &[Event], end: u64) -> Finding {
    let told: Vec<&Event> = events.iter().filter(|event| event.called <= end).collect();
    let known = until(events, end);
    let wrong = known.iter().position(|event| event.answered == end).expect("it ends with the answer of an operation");
    let Event { client, op, answer, called_at, answered_at, .. } = told[wrong];
    let mut text = format!("no order of the operations explains the answer {answer} to \"{op}\" of client {client}");
    let matter = match explained(&known, wrong) {
        Some(Explained { possible, before, matter }) => {
            text += &format!("; possible would be: {}", either(&possible, ToString::to_string));
            text += &format!(". Before the operations that matter there were: {}", either(&before, in_words));
            matter
        }
        None => (0..known.len()).filter(|at| shares_a_name(&known[*at], &known[wrong])).collect(),
    };
    let mut matter: Vec<usize> = matter.into_iter().collect();
    matter.sort_by_key(|at| (*at == wrong, told[*at].called));
    let mut matter = matter.split_off(matter.len().saturating_sub(MOST_TOLD));
    matter.sort_by_key(|at| told[*at].called);
    let operations = matter.into_iter().map(|at| in_operation(told[at], at == wrong)).collect();
    Finding { operations, ..Finding::between(*called_at, *answered_at, text) }
}

fn in_operation(event: &Event, is_wrong: bool) -> Operation {
    Operation {
        client: event.client,
        call: event.op.to_string(),
        answer: event.answer.to_string(),
        called_at: event.called_at,
        answered_at: event.answered_at,
        is_wrong,
    }
}

/// Some of several possibilities in words.
fn either<T>(possible: &BTreeSet<T>, words: impl Fn(&T) -> String) -> String {
    let mut told: Vec<String> = possible.iter().take(MOST_WORDS).map(words).collect();
    if possible.len() > MOST_WORDS {
        told.push(format!("{} others", possible.len() - MOST_WORDS));
    }
    told.join(", or ")
}

fn shares_a_name(event: &Event, other: &Event) -> bool {
    let (mine, others) = (names_of(event.op), names_of(other.op));
    mine.is_empty() || others.is_empty() || mine.iter().any(|name| others.contains(name))
}

/// Why an answer cannot be.
struct Explained {
    /// What could have been answered instead.
    possible: BTreeSet<Answer>,
    /// What the names may have been before the first operation that matters.
    before: BTreeSet<BTreeMap<Name, u64>>,
    /// The operations that contradict each other.
    matter: BTreeSet<usize>,
}

/// Nothing: there are too many possibilities to look at.
fn explained(known: &[Event], wrong: usize) -> Option<Explained> {
    let steps = steps(known);
    let last = steps.iter().position(|step| *step == Step::Answer(wrong))?;
    let replayed = Replay::new().through(known, &steps[..last])?;
    let possible = replayed.right_answers(known, wrong)?;
    let names = involved(&known[wrong], &replayed, &possible);
    let cut = beginning(known, &steps[..last], wrong, &names);
    let start = Replay::new().through(known, &steps[..cut])?;
    let story = Story { events: known.to_vec(), start, steps: steps[cut..=last].to_vec() };
    if !story.is_contradiction() {
        return None;
    }
    let mut matter = story.shortened(wrong, &names);
    matter.retain(|at| {
        let event = &known[*at];
        let is_answered_question = !is_open(event) && !is_change(event);
        is_answered_question || (may_change(event.op) && is_about(&names, event.op))
    });
    let first = matter.iter().map(|at| known[*at].called).min()?;
    let calls = steps.iter().position(|step| matches!(step, Step::Call(at) if known[*at].called == first))?;
    let before = Replay::new().through(known, &steps[..calls])?;
    let before = before.worlds.into_iter().map(|world| world.names).collect();
    Some(Explained { possible, before, matter })
}

/// The names that the answer depends on.
fn involved(wrong: &Event, before: &Replay, possible: &BTreeSet<Answer>) -> BTreeSet<Name> {
    let mut names: BTreeSet<Name> = names_of(wrong.op).into_iter().collect();
    let mut inodes = BTreeSet::new();
    for answer in possible.iter().chain([&wrong.answer]) {
        if let Answer::File { inode, .. } = answer {
            inodes.insert(*inode);
        }
    }
    if let Op::Link { inode, .. } = wrong.op {
        inodes.insert(inode);
    }
    for world in &before.worlds {
        names.extend(world.names.iter().filter(|(_, inode)| inodes.contains(inode)).map(|(name, _)| *name));
    }
    if let Answer::Names(listed) = &wrong.answer {
        let differing = possible.iter().filter_map(|answer| match answer {
            Answer::Names(right) => Some(differences(listed, right)),
            _ => None,
        });
        names.extend(differing.min_by_key(BTreeSet::len).unwrap_or_default());
    }
    names
}

fn differences(one: &BTreeMap<Name, u64>, other: &BTreeMap<Name, u64>) -> BTreeSet<Name> {
    one.keys().chain(other.keys()).filter(|name| one.get(name) != other.get(name)).copied().collect()
}

/// Where the story begins: with the last change of each of the names that was over before the wrong operation was called.
fn beginning(known: &[Event], steps: &[Step], wrong: usize, names: &BTreeSet<Name>) -> usize {
    let called = known[wrong].called;
    let place = |at: usize| steps.iter().position(|step| *step == Step::Call(at));
    let last_change = |name: &Name| {
        let changes = (0..known.len()).filter(|at| {
            let event = &known[*at];
            is_change(event) && event.answered < called && names_of(event.op).contains(name)
        });
        changes.max_by_key(|at| known[*at].answered)
    };
    let first = names.iter().filter_map(last_change).chain([wrong]).filter_map(place).min().unwrap_or(0);
    first.max(steps.len().saturating_sub(MOST_STEPS))
}

/// An operation that has changed something, and was told so.
fn is_change(event: &Event) -> bool {
    may_change(event.op) && matches!(event.answer, Answer::Done | Answer::File { .. })
}

fn may_change(op: Op) -> bool {
    !matches!(op, Op::Lookup(_) | Op::List)
}

/// Nobody knows yet how it ends.
fn is_open(event: &Event) -> bool {
    matches!(event.answer, Answer::Unknown { .. })
}

fn is_about(names: &BTreeSet<Name>, op: Op) -> bool {
    names_of(op).iter().any(|name| names.contains(name))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Call(usize),
    Answer(usize),
}

/// Calls and known answers in their order.
fn steps(events: &[Event]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (at, event) in events.iter().enumerate() {
        steps.push((event.called, Step::Call(at)));
        if !is_open(event) {
            steps.push((event.answered, Step::Answer(at)));
        }
    }
    steps.sort_by_key(|(number, _)| *number);
    steps.into_iter().map(|(_, step)| step).collect()
}

/// What may be: the names, and the operations under way that have been carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
struct World {
    names: BTreeMap<Name, u64>,
    done: BTreeSet<usize>,
}

/// Everything that may be after some steps.
#[derive(Debug, Clone)]
struct Replay {
    worlds: BTreeSet<World>,
    under_way: BTreeSet<usize>,
}

impl Replay {
    /// An empty directory.
    fn new() -> Self {
        Self { worlds: BTreeSet::from([World::default()]), under_way: BTreeSet::new() }
    }

    fn through(mut self, events: &[Event], steps: &[Step]) -> Option<Self> {
        for step in steps {
            match *step {
                Step::Call(at) => {
                    self.under_way.insert(at);
                }
                Step::Answer(at) => {
                    let reached = self.reached(events, Some(at))?.into_iter();
                    self.worlds = reached.filter(|world| world.done.contains(&at)).collect();
                    self = self.without(at);
                }
            }
        }
        Some(self)
    }

    /// What may be once any of the operations under way have been carried out, in any order, up to one of them.
    fn reached(&self, events: &[Event], last: Option<usize>) -> Option<BTreeSet<World>> {
        let mut reached = self.worlds.clone();
        let mut ahead: Vec<World> = self.worlds.iter().cloned().collect();
        while let Some(world) = ahead.pop() {
            if last.is_some_and(|last| world.done.contains(&last)) {
                continue;
            }
            for at in self.under_way.difference(&world.done) {
                let (event, mut next) = (&events[*at], world.clone());
                let is_right = apply(event.op, &event.answer, &mut next.names);
                // What nobody was told the end of and changes nothing may as well come later.
                if !is_right || (is_open(event) && next.names == world.names) {
                    continue;
                }
                next.done.insert(*at);
                if reached.insert(next.clone()) {
                    ahead.push(next);
                }
            }
            if reached.len() > MOST_WORLDS {
                return None;
            }
        }
        Some(reached)
    }

    /// What an operation under way could be answered.
    fn right_answers(&self, events: &[Event], wrong: usize) -> Option<BTreeSet<Answer>> {
        let worlds = self.clone().without(wrong).reached(events, None)?;
        let open = Answer::Unknown { inode: None };
        Some(worlds.into_iter().filter_map(|mut world| carry_out(events[wrong].op, &open, &mut world.names)).collect())
    }

    /// An operation is over, or was never there.
    fn without(mut self, at: usize) -> Self {
        self.under_way.remove(&at);
        let forget = |mut world: World| {
            world.done.remove(&at);
            world
        };
        self.worlds = self.worlds.into_iter().map(forget).collect();
        self
    }
}

/// A part of a history, from what may have been before it.
#[derive(Debug, Clone)]
struct Story {
    events: Vec<Event>,
    start: Replay,
    steps: Vec<Step>,
}

impl Story {
    fn is_contradiction(&self) -> bool {
        let end = self.start.clone().through(&self.events, &self.steps);
        end.is_some_and(|end| end.worlds.is_empty())
    }

    /// The same with one operation that does not matter.
    fn without(&self, at: usize) -> Self {
        let mut story = self.clone();
        if is_change(&self.events[at]) {
            let inode = match self.events[at].answer {
                Answer::File { inode, .. } => Some(inode),
                _ => None,
            };
            story.events[at].answer = Answer::Unknown { inode };
            story.steps.retain(|step| *step != Step::Answer(at));
        } else {
            story.steps.retain(|step| *step != Step::Call(at) && *step != Step::Answer(at));
            story.start = story.start.without(at);
        }
        story
    }

    /// The operations that are needed for the contradiction. Questions go first, then changes of other names, then the newest.
    fn shortened(mut self, wrong: usize, names: &BTreeSet<Name>) -> BTreeSet<usize> {
        let called = self.steps.iter().filter_map(|step| match step {
            Step::Call(at) => Some(*at),
            Step::Answer(_) => None,
        });
        let mut matter: BTreeSet<usize> = called.chain(self.start.under_way.iter().copied()).collect();
        let own: BTreeSet<Name> = names_of(self.events[wrong].op).into_iter().collect();
        let own = if own.is_empty() { names } else { &own };
        // Changes of other names are of no use to the contradiction, nor is what nobody was told the end of.
        let may_go = |event: &Event| !is_open(event) && (is_about(names, event.op) || !is_change(event));
        let mut others: Vec<usize> =
            matter.iter().copied().filter(|at| *at != wrong && may_go(&self.events[*at])).collect();
        others.sort_by_key(|at| {
            let event = &self.events[*at];
            (is_change(event), is_about(own, event.op), Reverse(event.called))
        });
        let mut loose = 0;
        for at in others {
            let is_change = is_change(&self.events[at]);
            let shorter = self.without(at);
            if !(is_change && loose == MOST_LOOSE) && shorter.is_contradiction() {
                loose += usize::from(is_change);
                matter.remove(&at);
                self = shorter;
            }
        }
        matter
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::super::finding::Moment;
    use super::super::names::check;
    use super::*;

    const CLIENTS: usize = 4;
    const NAMES: Name = 4;

    /// What clients of a right directory see: each operation is carried out at some moment between its call and its answer.
    fn history(seed: u64, operations: usize) -> Vec<Event> {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut names, mut inodes, mut clock) = (BTreeMap::new(), 10, 0);
        let mut under_way: Vec<Option<(Event, bool)>> = vec![None; CLIENTS];
        let mut events = Vec::new();
        while events.len() < operations {
            let client = random.random_range(0..CLIENTS);
            clock += 1;
            let now = Moment(clock * 1000);
            match under_way[client].take() {
                None => {
                    let op = random_op(&mut random, inodes);
                    let answer = Answer::Unknown { inode: None };
                    let (called, answered) = (clock, 0);
                    let event = Event { client, op, answer, called, answered, called_at: now, answered_at: now };
                    under_way[client] = Some((event, false));
                }
                Some((mut event, false)) => {
                    inodes += 1;
                    let new = Answer::Unknown { inode: Some(inodes) };
                    event.answer = carry_out(event.op, &new, &mut names).expect("a new inode");
                    under_way[client] = Some((event, true));
                }
                Some((event, true)) => events.push(Event { answered: clock, answered_at: now, ..event }),
            }
        }
        for (event, _) in under_way.into_iter().flatten().filter(|(_, is_done)| *is_done) {
            clock += 1;
            events.push(Event { answered: clock, answered_at: Moment(clock * 1000), ..event });
        }
        events
    }

    fn random_op(random: &mut StdRng, inodes: u64) -> Op {
        let name = random.random_range(0..NAMES);
        let other = (name + random.random_range(1..NAMES)) % NAMES;
        match random.random_range(0..8) {
            0 | 1 => Op::Create(name),
            2 => Op::Unlink(name),
            3 => Op::Rename { from: name, to: other, replace: random.random() },
            4 => Op::Link { inode: random.random_range(10..=inodes), to: name },
            5 | 6 => Op::Lookup(name),
            _ => Op::List,
        }
    }

    #[test]
    fn histories_that_have_an_order_are_replayed_to_their_end() {
        for seed in 0..20 {
            let events = history(seed, 100);
            assert_eq!(check(&events), None, "seed {seed}");
            let replayed = Replay::new().through(&events, &steps(&events)).expect("few possibilities");
            assert!(!replayed.worlds.is_empty(), "seed {seed}");
        }
    }

    #[test]
    fn what_remains_of_a_wrong_answer_is_short_and_contradicts_itself() {
        let (mut explained_ones, mut told) = (0, 0);
        for seed in 0..60 {
            let mut events = history(seed, 80);
            let mut random = StdRng::seed_from_u64(seed);
            let at = random.random_range(20..events.len());
            events[at].answer = match &events[at].answer {
                Answer::Errno(_) => Answer::Done,
                Answer::Names(names) => {
                    Answer::Names(names.iter().skip(1).map(|(name, inode)| (*name, *inode)).collect())
                }
                _ => Answer::Errno(libc::ENOENT),
            };
            // While others were under way, it may be right by chance.
            let Some(found) = check(&events) else { continue };
            assert!(found.text.contains("; possible would be: "), "seed {seed}: {}", found.text);
            assert_eq!(found.operations.iter().filter(|told| told.is_wrong).count(), 1, "seed {seed}: {found:?}");
            explained_ones += 1;
            told += found.operations.len();
        }
        assert!(explained_ones > 30, "{explained_ones}");
        assert!(told < explained_ones * 6, "{told} operations told of {explained_ones} contradictions");
    }

    #[test]
    fn each_operation_that_is_told_is_needed() {
        let mut events = history(3, 80);
        let at = events.iter().rposition(|event| matches!(event.op, Op::Lookup(_))).expect("there are some");
        events[at].answer = Answer::File { inode: 5000, links: 1 };
        let end = events[at].answered;
        let known = until(&events, end);
        let wrong = known.iter().position(|event| event.answered == end).expect("it is there");
        let Explained { matter, possible, .. } = explained(&known, wrong).expect("few possibilities");
        assert!(matter.contains(&wrong) && !possible.is_empty());
        // Without its answer, nothing is wrong.
        let steps = steps(&known);
        let story = Story { events: known, start: Replay::new(), steps };
        assert!(story.is_contradiction());
        assert!(!story.without(wrong).is_contradiction());
    }
}
