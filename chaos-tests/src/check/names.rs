//! Linearizability of the names in one directory: there must be one order of all operations, each at some moment between its call and its
//! answer, in which every answer is right.
//!
//! A long history cannot be checked as a whole; one of a few hundred operations takes milliseconds. So a directory is used for a round only.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

/// A name of the directory.
pub type Name = u8;

/// What is asked of the directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Create a file, exclusively.
    Create(Name),
    Unlink(Name),
    /// `replace`: what has the new name goes.
    Rename {
        from: Name,
        to: Name,
        replace: bool,
    },
    /// One name more for an inode.
    Link {
        inode: u64,
        to: Name,
    },
    Lookup(Name),
    List,
}

/// What was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// Of create, link and lookup.
    File {
        inode: u64,
        links: u32,
    },
    Names(BTreeMap<Name, u64>),
    Errno(i32),
    /// Nobody knows whether it was done, nor when. `inode`: what a create made, if it shows elsewhere.
    Unknown {
        inode: Option<u64>,
    },
}

/// One operation with its place in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub client: usize,
    pub op: Op,
    pub answer: Answer,
    /// Call and answer of all operations are numbered in the order in which they happened.
    pub called: u64,
    pub answered: u64,
}

/// Says what contradicts, or nothing if the history has an order.
pub fn check(events: &[Event]) -> Option<String> {
    let events = &with_inodes(events);
    if is_linearizable(events) {
        return None;
    }
    // The shortest beginning that has no order ends with the answer that cannot be.
    let mut answers: Vec<u64> = events.iter().map(|event| event.answered).collect();
    answers.sort_unstable();
    let first_bad = answers.partition_point(|end| is_linearizable(&until(events, *end)));
    let end = answers[first_bad.min(answers.len() - 1)];
    let bad = events.iter().find(|event| event.answered == end)?;
    let mut text = format!(
        "no order of the operations explains the answer {:?} to {:?} of client {}; the names before, as listed or answered:",
        bad.answer, bad.op, bad.client
    );
    let mut near: Vec<&Event> = events.iter().filter(|event| event.called < end && touches(event, bad)).collect();
    near.sort_by_key(|event| event.called);
    for event in near.iter().rev().take(12).rev() {
        let until = if event.answered > end { "…".to_owned() } else { event.answered.to_string() };
        let _ = write!(
            text,
            "\n    [{}–{until}] client {}: {:?} → {:?}",
            event.called, event.client, event.op, event.answer
        );
    }
    Some(text)
}

/// A create whose answer is unknown made the first inode that is seen under its name and that no known create has made.
fn with_inodes(events: &[Event]) -> Vec<Event> {
    let made = |event: &Event| match (event.op, &event.answer) {
        (Op::Create(_), Answer::File { inode, .. }) => Some(*inode),
        _ => None,
    };
    let known: Vec<u64> = events.iter().filter_map(made).collect();
    let seen_as = |name: Name, event: &Event| match (event.op, &event.answer) {
        (Op::Lookup(seen), Answer::File { inode, .. }) if seen == name => Some((event.answered, *inode)),
        (Op::List, Answer::Names(names)) => names.get(&name).map(|inode| (event.answered, *inode)),
        _ => None,
    };
    let mut told = events.to_vec();
    for event in &mut told {
        if let (Op::Create(name), Answer::Unknown { inode: None }) = (event.op, &event.answer) {
            let seen = events.iter().filter_map(|other| seen_as(name, other));
            let first = seen.filter(|(_, inode)| !known.contains(inode)).min();
            event.answer = Answer::Unknown { inode: first.map(|(_, inode)| inode) };
        }
    }
    told
}

fn touches(event: &Event, other: &Event) -> bool {
    let (mine, others) = (names_of(event.op), names_of(other.op));
    mine.is_empty() || others.is_empty() || mine.iter().any(|name| others.contains(name))
}

fn names_of(op: Op) -> Vec<Name> {
    match op {
        Op::Create(name) | Op::Unlink(name) | Op::Lookup(name) | Op::Link { to: name, .. } => vec![name],
        Op::Rename { from, to, .. } => vec![from, to],
        Op::List => Vec::new(),
    }
}

/// What was known at a moment: later answers are open, later calls not made.
fn until(events: &[Event], end: u64) -> Vec<Event> {
    let known = events.iter().filter(|event| event.called <= end);
    known
        .map(|event| {
            let inode = match event.answer {
                Answer::File { inode, .. } => Some(inode),
                Answer::Unknown { inode } => inode,
                _ => None,
            };
            let answer = if event.answered <= end { event.answer.clone() } else { Answer::Unknown { inode } };
            Event { answer, ..event.clone() }
        })
        .collect()
}

fn is_linearizable(events: &[Event]) -> bool {
    if events.is_empty() {
        return true;
    }
    let mut actions = Vec::new();
    for (process, event) in events.iter().enumerate() {
        let what = (event.op, event.answer.clone());
        // What nobody knows the end of may be done at any later time, or never: never is as good as after everything else.
        let answered = if matches!(event.answer, Answer::Unknown { .. }) { u64::MAX } else { event.answered };
        actions.push((event.called, process, Action::Call(what.clone())));
        actions.push((answered, process, Action::Response(what)));
    }
    actions.sort_by_key(|(at, process, _)| (*at, *process));
    let actions = actions.into_iter().map(|(_, process, action)| (process, action)).collect();
    WGLChecker::<Directory>::is_linearizable(History::from_actions(actions))
}

/// The directory as it must be: each name's inode.
struct Directory;

impl Specification for Directory {
    type State = BTreeMap<Name, u64>;
    type Operation = (Op, Answer);

    fn init() -> Self::State {
        BTreeMap::new()
    }

    fn apply((op, answer): &Self::Operation, state: &Self::State) -> (bool, Self::State) {
        let mut next = state.clone();
        let right = apply(*op, answer, &mut next);
        (right, next)
    }
}

/// Carries the operation out; whether the answer is the right one.
fn apply(op: Op, answer: &Answer, names: &mut BTreeMap<Name, u64>) -> bool {
    let links = |names: &BTreeMap<Name, u64>, inode: u64| names.values().filter(|other| **other == inode).count();
    let file = |names: &BTreeMap<Name, u64>, inode: u64| {
        let links = u32::try_from(links(names, inode)).expect("a few names");
        Answer::File { inode, links }
    };
    let right = match op {
        Op::Create(name) if names.contains_key(&name) => Answer::Errno(libc::EEXIST),
        Op::Create(name) => {
            // The new inode's number is the cluster's choice. If nobody has seen it, any number that no file has will do.
            let inode = match answer {
                Answer::File { inode, .. } | Answer::Unknown { inode: Some(inode) } => *inode,
                _ => u64::MAX - u64::from(name),
            };
            if links(names, inode) > 0 {
                return false;
            }
            names.insert(name, inode);
            file(names, inode)
        }
        Op::Unlink(name) => match names.remove(&name) {
            Some(_) => Answer::Done,
            None => Answer::Errno(libc::ENOENT),
        },
        Op::Rename { from, to, replace } => match (names.get(&from).copied(), names.get(&to).copied()) {
            (None, _) => Answer::Errno(libc::ENOENT),
            (Some(_), Some(_)) if !replace => Answer::Errno(libc::EEXIST),
            // Two names of one file: POSIX has both stay.
            (Some(inode), Some(other)) if inode == other => Answer::Done,
            (Some(inode), _) => {
                names.remove(&from);
                names.insert(to, inode);
                Answer::Done
            }
        },
        // Without a name it may be gone for good, or still be open somewhere; which is looked at first is nobody's promise.
        Op::Link { inode, .. } if links(names, inode) == 0 && *answer == Answer::Errno(libc::ESTALE) => answer.clone(),
        Op::Link { to, .. } if names.contains_key(&to) => Answer::Errno(libc::EEXIST),
        Op::Link { inode, .. } if links(names, inode) == 0 => Answer::Errno(libc::ENOENT),
        Op::Link { inode, to } => {
            names.insert(to, inode);
            file(names, inode)
        }
        Op::Lookup(name) => match names.get(&name) {
            Some(inode) => file(names, *inode),
            None => Answer::Errno(libc::ENOENT),
        },
        Op::List => Answer::Names(names.clone()),
    };
    matches!(answer, Answer::Unknown { .. }) || *answer == right
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: Answer = Answer::Unknown { inode: None };

    fn event(client: usize, op: Op, answer: Answer, called: u64, answered: u64) -> Event {
        Event { client, op, answer, called, answered }
    }

    fn file(inode: u64, links: u32) -> Answer {
        Answer::File { inode, links }
    }

    #[test]
    fn a_create_that_was_lost_is_found_and_explained() {
        let mut events = vec![
            event(0, Op::Create(1), file(10, 1), 0, 1),
            event(1, Op::Link { inode: 10, to: 2 }, file(10, 2), 2, 5),
            event(2, Op::Lookup(1), file(10, 2), 3, 6),
            event(0, Op::List, Answer::Names([(1, 10), (2, 10)].into()), 7, 8),
        ];
        assert_eq!(check(&events), None);
        events.push(event(3, Op::Lookup(1), Answer::Errno(libc::ENOENT), 9, 10));
        let text = check(&events).expect("is found");
        assert!(text.contains("Errno(2) to Lookup(1) of client 3") && text.contains("client 0: Create(1)"), "{text}");
    }

    #[test]
    fn answers_out_of_order_are_found() {
        // The rename is answered before the lookup is called: the old name cannot be there.
        let events = [
            event(0, Op::Create(1), file(10, 1), 0, 1),
            event(0, Op::Rename { from: 1, to: 2, replace: false }, Answer::Done, 2, 3),
            event(1, Op::Lookup(1), file(10, 1), 4, 5),
        ];
        assert!(check(&events).is_some());
        // While it is under way, it may still be.
        let mut concurrent = events.to_vec();
        concurrent[1].answered = 6;
        assert_eq!(check(&concurrent), None);
    }

    #[test]
    fn done_twice_is_found_and_an_unknown_end_may_be_either() {
        let unlink = |answer| event(0, Op::Unlink(1), answer, 2, 3);
        let create = event(0, Op::Create(1), file(10, 1), 0, 1);
        // A retried unlink that does not find its first answer.
        assert!(check(&[create.clone(), unlink(Answer::Errno(libc::ENOENT))]).is_some());
        for seen in [file(10, 1), Answer::Errno(libc::ENOENT)] {
            let events = [create.clone(), unlink(UNKNOWN), event(1, Op::Lookup(1), seen, 4, 5)];
            assert_eq!(check(&events), None);
        }
        // But not first one and then the other.
        let seen = |answer, at| event(1, Op::Lookup(1), answer, at, at + 1);
        let back = [create, unlink(UNKNOWN), seen(Answer::Errno(libc::ENOENT), 4), seen(file(10, 1), 6)];
        assert!(check(&back).is_some());
    }

    #[test]
    fn what_an_unknown_create_made_is_known_once_it_is_seen() {
        let create = event(0, Op::Create(1), UNKNOWN, 0, 1);
        let seen = event(1, Op::Lookup(1), file(10, 1), 2, 3);
        let other = event(1, Op::Lookup(1), file(11, 1), 4, 5);
        assert_eq!(check(&[create.clone(), seen.clone()]), None);
        assert!(check(&[create, seen, other]).is_some());
    }

    #[test]
    fn two_names_of_one_file_both_stay_when_one_is_renamed_over_the_other() {
        let events = [
            event(0, Op::Create(1), file(10, 1), 0, 1),
            event(0, Op::Link { inode: 10, to: 2 }, file(10, 2), 2, 3),
            event(0, Op::Rename { from: 1, to: 2, replace: true }, Answer::Done, 4, 5),
            event(0, Op::List, Answer::Names([(1, 10), (2, 10)].into()), 6, 7),
        ];
        assert_eq!(check(&events), None);
    }
}
