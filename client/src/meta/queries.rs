//! The calls that are not logged, by their id on the stream. They change nothing that lasts, so a new stream simply asks again.

use std::collections::{BTreeMap, HashMap};

use caribou_proto::meta::v1::{Caller, ClaimsComplete, ClientMessage, Open, Query, Release, client_message};

use super::QueryOp;
use super::call::{CallId, Replier};

/// A query on its way.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) kind: Kind,
    query: Query,
    call: CallId,
    /// `None`: asked by the session itself, or given up.
    pub(crate) reply: Option<Replier>,
}

/// Why it was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A caller's read.
    Read,
    /// A caller's open of this inode (S7).
    Open(u64),
    /// The claim of this inode, again after a failover (S7).
    Reassert(u64),
    /// No handle is left on these inodes (S7).
    Release(Vec<u64>),
    /// S7.
    ClaimsComplete,
}

/// Inodes of queries that end with their stream.
#[derive(Debug, Default)]
pub(crate) struct Dropped {
    /// Opens that were given up.
    pub(crate) opens: Vec<u64>,
    /// Releases that no answer came to.
    pub(crate) releases: Vec<u64>,
}

#[derive(Debug, Default)]
pub(crate) struct Queries {
    pending: BTreeMap<u64, Pending>,
    by_call: HashMap<CallId, u64>,
    last_id: u64,
}

impl Queries {
    /// Takes a caller's read; the message to send is in [`Self::message`].
    pub(crate) fn read(&mut self, call: CallId, caller: Caller, op: QueryOp, reply: Replier) -> u64 {
        let id = self.next_id();
        let query = op.into_query(id, caller);
        self.by_call.insert(call, id);
        self.pending.insert(id, Pending { kind: Kind::Read, query, call, reply: Some(reply) });
        id
    }

    /// Takes a caller's open.
    pub(crate) fn open(&mut self, call: CallId, caller: Caller, open: Open, reply: Replier) -> u64 {
        let id = self.next_id();
        let kind = Kind::Open(open.inode);
        let query = Query { id, caller: Some(caller), open: Some(open), ..Query::default() };
        self.by_call.insert(call, id);
        self.pending.insert(id, Pending { kind, query, call, reply: Some(reply) });
        id
    }

    pub(crate) fn reassert(&mut self, inode: u64) -> ClientMessage {
        let open = Open { inode, access: 0, reassert: true };
        self.own(Kind::Reassert(inode), Query { open: Some(open), ..Query::default() })
    }

    pub(crate) fn release(&mut self, inodes: Vec<u64>) -> ClientMessage {
        let release = Release { inodes: inodes.clone() };
        self.own(Kind::Release(inodes), Query { release: Some(release), ..Query::default() })
    }

    pub(crate) fn claims_complete(&mut self) -> ClientMessage {
        self.own(Kind::ClaimsComplete, Query { claims_complete: Some(ClaimsComplete {}), ..Query::default() })
    }

    pub(crate) fn message(&self, id: u64) -> Option<ClientMessage> {
        self.pending.get(&id).map(|pending| message(&pending.query))
    }

    /// The query that an answer belongs to.
    pub(crate) fn answered(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.by_call.remove(&pending.call);
        Some(pending)
    }

    /// Nobody waits for this call any more. A read is forgotten; an open stays until its answer, for it may have made a claim.
    pub(crate) fn give_up(&mut self, call: CallId) {
        let Some(id) = self.by_call.remove(&call) else { return };
        let Some(pending) = self.pending.get_mut(&id) else { return };
        pending.reply = None;
        if pending.kind == Kind::Read {
            self.pending.remove(&id);
        }
    }

    /// The stream is gone. The session's own queries are dropped, and so are opens that were given up.
    pub(crate) fn stream_lost(&mut self) -> Dropped {
        let mut dropped = Dropped::default();
        self.pending.retain(|_, pending| match &pending.kind {
            Kind::Read => true,
            Kind::Open(_) if pending.reply.is_some() => true,
            Kind::Open(inode) => {
                dropped.opens.push(*inode);
                false
            }
            Kind::Release(inodes) => {
                dropped.releases.extend(inodes);
                false
            }
            Kind::Reassert(_) | Kind::ClaimsComplete => false,
        });
        dropped
    }

    /// Everything again, in order; and the ids of the opens among it (S7).
    pub(crate) fn resend(&self) -> (Vec<ClientMessage>, Vec<u64>) {
        let messages = self.pending.values().map(|pending| message(&pending.query)).collect();
        let opens = self.pending.iter().filter(|(_, p)| matches!(p.kind, Kind::Open(_))).map(|(id, _)| *id).collect();
        (messages, opens)
    }

    pub(crate) fn unanswered(&self) -> usize {
        self.pending.len()
    }

    fn own(&mut self, kind: Kind, query: Query) -> ClientMessage {
        let id = self.next_id();
        // Claims are the session's, not a user's: root's identity, and no check of access applies.
        let query = Query { id, caller: Some(Caller::default()), ..query };
        let sent = message(&query);
        self.pending.insert(id, Pending { kind, query, call: 0, reply: None });
        sent
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}

fn message(query: &Query) -> ClientMessage {
    ClientMessage { body: Some(client_message::Body::Query(query.clone())) }
}
