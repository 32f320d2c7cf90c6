//! The registry of open inodes (S7), and what a new leader has to be told of them.
//!
//! A claim is per session and inode: many handles are one claim, and its release is sent when the last of them is gone and
//! nothing is under way that may make the claim again. After each new stream all claims are re-asserted, and `claims complete`
//! follows once these, and the opens and creates that were unanswered then, are answered.
//!
//! The leader may handle the messages of a stream in any order. So a release and an open of one inode are never on their way
//! together, and a create that finds an existing file whose release was on its way at the same time asserts its claim again.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

/// Re-assertions on their way at once: a client with a million open files must not flood its new leader.
const MAX_REASSERTIONS: usize = 256;

#[derive(Clone, Copy, Debug, Default)]
struct Claim {
    handles: u64,
    /// Opens and re-assertions that are not answered yet.
    opening: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Claims {
    inodes: HashMap<u64, Claim>,
    /// Inodes whose last handle went, with the newest create then under way: it may be opening the same inode, and its claim must
    /// not be undone by a release that overtakes it.
    releases: VecDeque<(Option<u64>, u64)>,
    /// Releases that are not answered yet.
    releasing: HashSet<u64>,
    /// Inodes that were claimed and let go again while their release was on its way: they are released once more after its answer.
    release_again: HashSet<u64>,
    /// Opens that wait for the release of their inode, by query id.
    held_opens: Vec<(u64, u64)>,
    /// Inodes released while creates were on their way, with the newest of those: if one of them opened such an inode, the
    /// leader may have handled the release after it.
    suspects: HashMap<u64, u64>,
    /// The oldest create under way when the suspects were last gone through.
    suspects_looked_at: Option<Option<u64>>,
    to_reassert: VecDeque<u64>,
    reasserting: HashSet<u64>,
    waits_for_creates: BTreeSet<u64>,
    waits_for_opens: BTreeSet<u64>,
    /// `claims complete` has been sent on this stream.
    complete: bool,
}

impl Claims {
    pub(crate) fn len(&self) -> usize {
        self.inodes.values().filter(|claim| claim.handles > 0).count()
    }

    pub(crate) fn opening(&mut self, inode: u64) {
        self.inodes.entry(inode).or_default().opening += 1;
    }

    /// An open was answered. `held`: successfully, and its caller took the handle.
    pub(crate) fn opened(&mut self, id: u64, inode: u64, held: bool, newest_create: Option<u64>) {
        self.waits_for_opens.remove(&id);
        self.opening_ended(inode, held, newest_create);
    }

    /// A create was answered: nothing is known of it any more, successful or not.
    pub(crate) fn create_settled(&mut self, seq: u64) {
        self.waits_for_creates.remove(&seq);
    }

    /// A create was executed. `held`: its caller took the handle.
    pub(crate) fn created(&mut self, inode: u64, held: bool, newest_create: Option<u64>) {
        self.opening(inode);
        self.opening_ended(inode, held, newest_create);
        if held && self.suspects.contains_key(&inode) {
            self.to_reassert.push_back(inode);
        }
    }

    /// Whether the open with this query id may be sent now; else it is among those that [`Self::released`] returns.
    pub(crate) fn may_open(&mut self, id: u64, inode: u64) -> bool {
        let free = !self.releasing.contains(&inode);
        if !free {
            self.held_opens.push((id, inode));
        }
        free
    }

    /// A release was answered. Returns the query ids of the opens that waited for it.
    pub(crate) fn released(&mut self, inode: u64, newest_create: Option<u64>) -> Vec<u64> {
        self.releasing.remove(&inode);
        if let Some(newest) = newest_create {
            self.suspects.insert(inode, newest);
        }
        let again = self.release_again.remove(&inode);
        match self.inodes.get(&inode) {
            Some(claim) if claim.handles > 0 => self.to_reassert.push_back(inode), // a create opened it meanwhile
            None if again => self.releases.push_back((newest_create, inode)),
            _ => {}
        }
        let (free, held) = self.held_opens.drain(..).partition(|(_, held)| *held == inode);
        self.held_opens = held;
        let free: Vec<(u64, u64)> = free;
        free.into_iter().map(|(id, _)| id).collect()
    }

    /// One handle less.
    pub(crate) fn release(&mut self, inode: u64, newest_create: Option<u64>) {
        if let Some(claim) = self.inodes.get_mut(&inode) {
            claim.handles = claim.handles.saturating_sub(1);
        }
        self.drop_if_unused(inode, newest_create);
    }

    /// A new stream: everything is asserted again. `unsure`: inodes that the leader may hold a claim of though no handle is left.
    pub(crate) fn stream_began(&mut self, creates: BTreeSet<u64>, opens: Vec<u64>, unsure: Vec<u64>) {
        self.to_reassert = self.inodes.iter().filter(|(_, claim)| claim.handles > 0).map(|(inode, _)| *inode).collect();
        self.waits_for_opens = opens.into_iter().collect();
        let newest_create = creates.last().copied();
        self.waits_for_creates = creates;
        self.complete = false;
        for inode in unsure {
            self.drop_if_unused(inode, newest_create);
        }
    }

    /// The stream is gone, and re-assertions with it.
    pub(crate) fn stream_lost(&mut self) {
        for inode in std::mem::take(&mut self.reasserting) {
            if let Some(claim) = self.inodes.get_mut(&inode) {
                claim.opening = claim.opening.saturating_sub(1);
            }
        }
        self.to_reassert.clear();
        // All claims are asserted again on the next stream, and its opens are sent anew.
        self.releasing.clear();
        self.release_again.clear();
        self.held_opens.clear();
        self.suspects.clear();
    }

    /// An open that was given up is not asked again.
    pub(crate) fn opening_dropped(&mut self, inode: u64) {
        if let Some(claim) = self.inodes.get_mut(&inode) {
            claim.opening = claim.opening.saturating_sub(1);
        }
    }

    /// S4: the leader has forgotten every claim; those of open handles are asserted in the new session.
    pub(crate) fn session_ended(&mut self) {
        self.stream_lost();
        self.releases.clear();
        self.waits_for_creates.clear();
        self.waits_for_opens.clear();
        self.complete = false;
    }

    /// The next claim to assert again, while there is room.
    pub(crate) fn next_reassertion(&mut self) -> Option<u64> {
        while self.reasserting.len() < MAX_REASSERTIONS {
            let inode = self.to_reassert.pop_front()?;
            if self.inodes.get(&inode).is_some_and(|claim| claim.handles > 0) {
                self.opening(inode);
                self.reasserting.insert(inode);
                return Some(inode);
            }
        }
        None
    }

    pub(crate) fn reasserted(&mut self, inode: u64, newest_create: Option<u64>) {
        if self.reasserting.remove(&inode) {
            self.opening_ended(inode, false, newest_create);
        }
    }

    /// Whether `claims complete` is due; true once per stream.
    pub(crate) fn is_complete_due(&mut self) -> bool {
        let due = !self.complete
            && self.to_reassert.is_empty()
            && self.reasserting.is_empty()
            && self.waits_for_creates.is_empty()
            && self.waits_for_opens.is_empty();
        self.complete |= due;
        due
    }

    /// Whether [`Self::next_release`] may have one.
    pub(crate) fn has_releases(&self) -> bool {
        !self.releases.is_empty()
    }

    /// The next inode to release, given the oldest create under way.
    pub(crate) fn next_release(&mut self, oldest_create: Option<u64>) -> Option<u64> {
        if !self.suspects.is_empty() && self.suspects_looked_at != Some(oldest_create) {
            self.suspects_looked_at = Some(oldest_create);
            self.suspects.retain(|_, newest| oldest_create.is_some_and(|oldest| oldest <= *newest));
        }
        loop {
            let (newest_then, inode) = *self.releases.front()?;
            if newest_then.is_some_and(|newest| oldest_create.is_some_and(|oldest| oldest <= newest)) {
                return None;
            }
            self.releases.pop_front();
            // Else it was opened again meanwhile.
            if !self.inodes.contains_key(&inode) {
                if self.releasing.insert(inode) {
                    return Some(inode);
                }
                self.release_again.insert(inode);
            }
        }
    }

    fn opening_ended(&mut self, inode: u64, held: bool, newest_create: Option<u64>) {
        if let Some(claim) = self.inodes.get_mut(&inode) {
            claim.opening = claim.opening.saturating_sub(1);
            claim.handles += u64::from(held);
        }
        self.drop_if_unused(inode, newest_create);
    }

    fn drop_if_unused(&mut self, inode: u64, newest_create: Option<u64>) {
        if self.inodes.get(&inode).is_none_or(|claim| claim.handles == 0 && claim.opening == 0) {
            self.inodes.remove(&inode);
            self.releases.push_back((newest_create, inode));
        }
    }
}
