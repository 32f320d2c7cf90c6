//! Linearizability of the names in one directory: there must be one order of all operations, each at some moment between its call and its
//! answer, in which every answer is right.
//!
//! A long history cannot be checked as a whole; one of a few hundred operations takes milliseconds. So a directory is used for a round only.

use std::collections::BTreeMap;
use std::fmt;

use todc_utils::linearizability::WGLChecker;
use todc_utils::linearizability::history::{Action, History};
use todc_utils::specifications::Specification;

use crate::explain;
use crate::finding::{Finding, Moment};

/// A name of the directory.
pub type Name = u8;

/// The number of an inode that nobody has seen, less that of its name.
const NEW: u64 = u64::MAX;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
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
    /// The same on this machine's clock, for a person.
    pub called_at: Moment,
    pub answered_at: Moment,
}

/// Says what contradicts, or nothing if the history has an order.
pub fn check(events: &[Event]) -> Option<Finding> {
    let events = &with_inodes(events);
    if is_linearizable(events) {
        return None;
    }
    // The shortest beginning that has no order ends with the answer that cannot be.
    let mut answers: Vec<u64> = events.iter().map(|event| event.answered).collect();
    answers.sort_unstable();
    let first_bad = answers.partition_point(|end| is_linearizable(&until(events, *end)));
    Some(explain::explain(events, answers[first_bad.min(answers.len() - 1)]))
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

/// The names that an operation is about; a list is about all of them.
pub(super) fn names_of(op: Op) -> Vec<Name> {
    match op {
        Op::Create(name) | Op::Unlink(name) | Op::Lookup(name) | Op::Link { to: name, .. } => vec![name],
        Op::Rename { from, to, .. } => vec![from, to],
        Op::List => Vec::new(),
    }
}

/// What was known at a moment: later answers are open, later calls not made.
pub(super) fn until(events: &[Event], end: u64) -> Vec<Event> {
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
pub(super) fn apply(op: Op, answer: &Answer, names: &mut BTreeMap<Name, u64>) -> bool {
    let right = carry_out(op, answer, names);
    right.is_some_and(|right| matches!(answer, Answer::Unknown { .. }) || *answer == right)
}

/// Carries the operation out. Returns the right answer, or nothing if it would have made an inode that is there already.
pub(super) fn carry_out(op: Op, answer: &Answer, names: &mut BTreeMap<Name, u64>) -> Option<Answer> {
    let links = |names: &BTreeMap<Name, u64>, inode: u64| names.values().filter(|other| **other == inode).count();
    let file = |names: &BTreeMap<Name, u64>, inode: u64| {
        let links = u32::try_from(links(names, inode)).expect("a few names");
        Answer::File { inode, links }
    };
    Some(match op {
        Op::Create(name) if names.contains_key(&name) => Answer::Errno(libc::EEXIST),
        Op::Create(name) => {
            // The new inode's number is the cluster's choice. If nobody has seen it, any number that no file has will do.
            let inode = match answer {
                Answer::File { inode, .. } | Answer::Unknown { inode: Some(inode) } => *inode,
                _ => NEW - u64::from(name),
            };
            if links(names, inode) > 0 {
                return None;
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
    })
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(name) => write!(f, "create n{name}"),
            Self::Unlink(name) => write!(f, "unlink n{name}"),
            Self::Rename { from, to, replace: true } => write!(f, "rename n{from} to n{to}"),
            Self::Rename { from, to, replace: false } => write!(f, "rename n{from} to n{to} unless that is there"),
            Self::Link { inode, to } => write!(f, "link {} as n{to}", inode_in_words(*inode)),
            Self::Lookup(name) => write!(f, "look n{name} up"),
            Self::List => write!(f, "list"),
        }
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Done => write!(f, "done"),
            Self::File { inode, links: 1 } => write!(f, "{}, 1 link", inode_in_words(*inode)),
            Self::File { inode, links } => write!(f, "{}, {links} links", inode_in_words(*inode)),
            Self::Names(names) => write!(f, "{}", in_words(names)),
            Self::Errno(libc::ENOENT) => write!(f, "ENOENT"),
            Self::Errno(libc::EEXIST) => write!(f, "EEXIST"),
            Self::Errno(libc::ESTALE) => write!(f, "ESTALE"),
            Self::Errno(errno) => write!(f, "errno {errno}"),
            Self::Unknown { .. } => write!(f, "none"),
        }
    }
}

fn inode_in_words(inode: u64) -> String {
    if inode > NEW - u64::from(Name::MAX) { "a new inode".to_owned() } else { format!("inode {inode}") }
}

/// The names of a directory.
pub(super) fn in_words(names: &BTreeMap<Name, u64>) -> String {
    let each: Vec<String> = names.iter().map(|(name, inode)| format!("n{name} = {}", inode_in_words(*inode))).collect();
    if each.is_empty() { "no names".to_owned() } else { each.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNKNOWN: Answer = Answer::Unknown { inode: None };

    fn event(client: usize, op: Op, answer: Answer, called: u64, answered: u64) -> Event {
        let at = |number| Moment(1_000_000 + number * 1000);
        Event { client, op, answer, called, answered, called_at: at(called), answered_at: at(answered) }
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
        let found = check(&events).expect("is found");
        assert_eq!(found.when, Some((Moment(1_009_000), Moment(1_010_000))));
        assert_eq!(
            found.text,
            "no order of the operations explains the answer ENOENT to \"look n1 up\" of client 3; possible would be: inode 10, 2 links. \
             Before the operations that matter there were: no names"
        );
        // What the link and the other questions were told does not matter: that somebody made the name does.
        let told: Vec<(usize, &str, bool)> =
            found.operations.iter().map(|told| (told.client, told.call.as_str(), told.is_wrong)).collect();
        assert_eq!(told, [(0, "create n1", false), (3, "look n1 up", true)]);
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
