//! Claims: open files by session, in the leader's memory (S7), and which orphans nobody has open any more.
//!
//! A claim is one per session and inode, however many handles there are: the client counts them, and releases with the last. Invariants: an
//! open begins *before* the service looks whether the inode still has links, and ends after its claim; a create's claim is registered before
//! its reply leaves. An orphan is offered for its purge only when every live session has re-asserted its claims in this term, none claims it,
//! none is opening it, and no create that was under way when it became an orphan is still unanswered. `apply` re-checks that it has no links.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use caribou_proto::ids::{InodeId, SessionId};

/// A create whose reply has not left yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CreateTicket(u64);

/// Who has what open. One per term.
#[derive(Debug, Default)]
pub struct Claims {
    sessions: HashMap<SessionId, HashSet<InodeId>>,
    /// Opens between their look at the inode and their claim, by inode.
    opening: HashMap<InodeId, u64>,
    /// How many sessions claim an inode.
    claimed: HashMap<InodeId, u64>,
    complete: HashSet<SessionId>,
    /// Ended in this term: what they still had under way claims nothing any more (S4).
    ended: HashSet<SessionId>,
    next_ticket: u64,
    creating: BTreeSet<u64>,
    /// Orphans, and the ticket that the next create had when they were noticed.
    orphans: BTreeMap<InodeId, u64>,
    /// Purges that have been proposed.
    purging: HashSet<InodeId>,
}

impl Claims {
    /// A session that was opened in this term has nothing to re-assert.
    pub fn session_opened(&mut self, session: SessionId) {
        self.complete.insert(session);
    }

    /// The session has re-asserted all its claims in this term.
    pub fn claims_complete(&mut self, session: SessionId) {
        self.complete.insert(session);
    }

    pub fn session_ended(&mut self, session: SessionId) {
        self.complete.remove(&session);
        self.ended.insert(session);
        for inode in self.sessions.remove(&session).unwrap_or_default() {
            self.unclaim(inode);
        }
    }

    /// The session has the inode open.
    pub fn claim(&mut self, session: SessionId, inode: InodeId) {
        if !self.ended.contains(&session) && self.sessions.entry(session).or_default().insert(inode) {
            *self.claimed.entry(inode).or_insert(0) += 1;
        }
    }

    /// The session has closed its last handle; a claim that is not known is ignored.
    pub fn release(&mut self, session: SessionId, inode: InodeId) {
        let Some(inodes) = self.sessions.get_mut(&session) else { return };
        if inodes.remove(&inode) {
            if inodes.is_empty() {
                self.sessions.remove(&session);
            }
            self.unclaim(inode);
        }
    }

    /// Before an open looks at the inode.
    pub fn begin_open(&mut self, inode: InodeId) {
        *self.opening.entry(inode).or_insert(0) += 1;
    }

    /// When the open is decided: with the session that has it open now, if any.
    pub fn end_open(&mut self, inode: InodeId, opened: Option<SessionId>) {
        if let Some(session) = opened {
            self.claim(session, inode);
        }
        if let Some(count) = self.opening.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.opening.remove(&inode);
            }
        }
    }

    /// Before a create is proposed.
    pub fn begin_create(&mut self) -> CreateTicket {
        self.next_ticket += 1;
        self.creating.insert(self.next_ticket);
        CreateTicket(self.next_ticket)
    }

    /// Before its reply leaves, with what it has opened; or when it is given up.
    pub fn end_create(&mut self, ticket: CreateTicket, opened: Option<(SessionId, InodeId)>) {
        if let Some((session, inode)) = opened {
            self.claim(session, inode);
        }
        self.creating.remove(&ticket.0);
    }

    /// Inodes that a session has open.
    pub fn count(&self, session: SessionId) -> u64 {
        self.sessions.get(&session).map_or(0, |inodes| inodes.len() as u64)
    }

    pub fn is_complete(&self, session: SessionId) -> bool {
        self.complete.contains(&session)
    }

    /// An inode has lost its last link.
    pub(crate) fn orphaned(&mut self, inode: InodeId) {
        self.orphans.entry(inode).or_insert(self.next_ticket);
    }

    #[cfg(test)]
    pub(crate) fn has_orphans(&self) -> bool {
        !self.orphans.is_empty()
    }

    /// Up to `limit` orphans that can be purged, if all `live` sessions have told their claims.
    pub(crate) fn purgeable(&mut self, live: &[SessionId], limit: usize) -> Vec<InodeId> {
        if !live.iter().all(|s| self.complete.contains(s)) {
            return Vec::new();
        }
        let oldest_create = self.creating.first().copied().unwrap_or(u64::MAX);
        let free = |(inode, noticed): (&InodeId, &u64)| {
            // A create that began before the orphan was noticed may be the one that made it.
            let unseen = oldest_create <= *noticed;
            let wanted = self.claimed.contains_key(inode) || self.opening.contains_key(inode);
            (!unseen && !wanted && !self.purging.contains(inode)).then_some(*inode)
        };
        let found: Vec<InodeId> = self.orphans.iter().filter_map(free).take(limit).collect();
        self.purging.extend(&found);
        found
    }

    /// A proposed purge has been applied; `finished`: they are gone, or have links again.
    pub(crate) fn purged(&mut self, inodes: &[InodeId], finished: bool) {
        for inode in inodes {
            self.purging.remove(inode);
            if finished {
                self.orphans.remove(inode);
            }
        }
    }

    fn unclaim(&mut self, inode: InodeId) {
        if let Some(count) = self.claimed.get_mut(&inode) {
            *count -= 1;
            if *count == 0 {
                self.claimed.remove(&inode);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: SessionId = SessionId(1);
    const B: SessionId = SessionId(2);
    const FILE: InodeId = InodeId(9);

    #[test]
    fn an_orphan_is_purged_only_when_all_have_spoken_and_none_claims_it() {
        let mut claims = Claims::default();
        claims.orphaned(FILE);
        assert!(claims.purgeable(&[A, B], 8).is_empty(), "nobody has spoken");
        claims.session_opened(A);
        claims.claim(B, FILE);
        claims.claim(B, FILE);
        claims.claims_complete(B);
        assert!(claims.purgeable(&[A, B], 8).is_empty(), "claimed");
        assert_eq!(claims.count(B), 1, "one claim, however many handles");
        claims.begin_open(FILE);
        claims.release(B, FILE);
        claims.release(B, FILE);
        assert!(claims.purgeable(&[A, B], 8).is_empty(), "being opened");
        claims.end_open(FILE, None);
        assert_eq!(claims.purgeable(&[A, B], 8), [FILE]);
        assert!(claims.purgeable(&[A, B], 8).is_empty(), "proposed once");
        claims.purged(&[FILE], false);
        assert_eq!(claims.purgeable(&[A, B], 8), [FILE], "not finished: again");
        claims.purged(&[FILE], true);
        assert!(!claims.has_orphans());
    }

    #[test]
    fn what_a_session_had_under_way_claims_nothing_after_its_end() {
        let mut claims = Claims::default();
        let create = claims.begin_create();
        claims.begin_open(FILE);
        claims.session_ended(A);
        claims.end_create(create, Some((A, FILE)));
        claims.end_open(FILE, Some(A));
        claims.orphaned(FILE);
        assert_eq!(claims.purgeable(&[], 8), [FILE]);
    }

    #[test]
    fn the_end_of_a_session_ends_its_claims() {
        let mut claims = Claims::default();
        claims.claim(A, FILE);
        claims.claim(B, FILE);
        claims.orphaned(FILE);
        claims.claims_complete(B);
        claims.session_ended(A);
        assert!(claims.purgeable(&[B], 8).is_empty());
        claims.session_ended(B);
        assert_eq!(claims.purgeable(&[], 8), [FILE]);
    }

    #[test]
    fn a_file_is_not_purged_between_its_creation_and_its_claim() {
        let mut claims = Claims::default();
        claims.session_opened(A);
        let ticket = claims.begin_create();
        claims.orphaned(FILE);
        assert!(claims.purgeable(&[A], 8).is_empty());
        claims.end_create(ticket, Some((A, FILE)));
        assert!(claims.purgeable(&[A], 8).is_empty());
        claims.release(A, FILE);
        let _later = claims.begin_create();
        assert_eq!(claims.purgeable(&[A], 8), [FILE]);
    }
}
