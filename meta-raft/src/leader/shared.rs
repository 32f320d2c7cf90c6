//! What the leader's task shares with the service and the control streams: small tables under locks that are never held across an await.

use std::collections::{HashMap, HashSet};

use caribou_proto::ids::{ChunkId, ServerId, SessionId};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::claims::Claims;
use super::placement::Placement;

/// One term's shared tables.
#[derive(Default)]
pub(crate) struct Shared {
    pub(crate) leases: Leases,
    pub(crate) seen: Seen,
    pub(crate) claims: Mutex<Claims>,
    pub(crate) placement: Mutex<Placement>,
    /// R2: no new grant of these chunks before the time given.
    pub(crate) held_back: Mutex<HashMap<ChunkId, Instant>>,
}

/// The read leases of chunk servers (F2, ADR 7).
///
/// A new stream gets no answer to its heartbeats before the leader's task has opened its gate: by then every replica that the server must not
/// serve any more is named in a command that precedes the answer on the stream. Shutting the gate and answering exclude each other.
#[derive(Default)]
pub(crate) struct Leases {
    servers: Mutex<HashMap<ServerId, Lease>>,
}

#[derive(Default)]
struct Lease {
    /// The stream whose heartbeats may be answered.
    open: Option<u64>,
    answered: Option<Instant>,
}

impl Leases {
    /// Answers one heartbeat of a stream: `answer` runs after the time has been noted, and before the gate can be shut.
    pub(crate) fn answer(&self, server: ServerId, stream: u64, now: Instant, answer: impl FnOnce()) -> bool {
        let mut servers = self.servers.lock();
        let Some(lease) = servers.get_mut(&server).filter(|l| l.open == Some(stream)) else { return false };
        lease.answered = lease.answered.max(Some(now));
        answer();
        true
    }

    pub(crate) fn open(&self, server: ServerId, stream: u64) {
        self.servers.lock().entry(server).or_default().open = Some(stream);
    }

    pub(crate) fn shut(&self, server: ServerId) {
        if let Some(lease) = self.servers.lock().get_mut(&server) {
            lease.open = None;
        }
    }

    /// Shuts the gate if no heartbeat has been answered after `by`: then no lease is left, and none begins before the gate opens again.
    pub(crate) fn shut_if_silent(&self, server: ServerId, by: Instant) -> bool {
        let mut servers = self.servers.lock();
        let lease = servers.entry(server).or_default();
        let silent = lease.answered.is_none_or(|at| at <= by);
        if silent {
            lease.open = None;
        }
        silent
    }

    #[cfg(test)]
    pub(crate) fn is_open(&self, server: ServerId) -> bool {
        self.servers.lock().get(&server).is_some_and(|l| l.open.is_some())
    }

    pub(crate) fn answered(&self, server: ServerId) -> Option<Instant> {
        self.servers.lock().get(&server).and_then(|l| l.answered)
    }
}

/// When each session was last heard of in this term, and whose idle time is being added to (S3).
#[derive(Default)]
pub(crate) struct Seen {
    table: Mutex<SeenTable>,
    /// An addition of idle time has been applied.
    pub(crate) added: Notify,
}

#[derive(Default)]
struct SeenTable {
    last: HashMap<SessionId, Instant>,
    adding: HashSet<SessionId>,
}

impl Seen {
    /// Notes that the session has been heard of; false while idle time is being added to it.
    pub(crate) fn note(&self, session: SessionId, now: Instant) -> bool {
        let mut table = self.table.lock();
        let last = table.last.entry(session).or_insert(now);
        *last = (*last).max(now);
        !table.adding.contains(&session)
    }

    pub(crate) fn last(&self, session: SessionId) -> Option<Instant> {
        self.table.lock().last.get(&session).copied()
    }

    /// Begins to add idle time, unless the session has been heard of since `silent_since`.
    pub(crate) fn begin(&self, session: SessionId, silent_since: Instant) -> bool {
        let mut table = self.table.lock();
        let silent = table.last.get(&session).is_none_or(|last| *last <= silent_since);
        silent && table.adding.insert(session)
    }

    pub(crate) fn finish(&self, sessions: &[SessionId]) {
        let mut table = self.table.lock();
        for session in sessions {
            table.adding.remove(session);
        }
        drop(table);
        self.added.notify_waiters();
    }

    pub(crate) fn forget(&self, session: SessionId) {
        self.table.lock().last.remove(&session);
    }
}
