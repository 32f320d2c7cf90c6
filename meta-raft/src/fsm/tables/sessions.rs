//! `Sessions`, `SessionKeys`, `EndedSessions`: who may ask, up to which request, and since when no more (S2–S4).
//!
//! `Sessions`: `session → row`. `SessionKeys`: `open key → session`, so that a retried opening finds its session.
//! `EndedSessions`: `(end time, session)`, so that forgetting old ones needs no search.

use caribou_proto::ids::{Seq, SessionId};

use super::codec::{Reader, Writer, key1, key2};
use super::{Table, Tables, Txn, Visit};
use crate::fsm::error::Fatal;

/// One session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    pub name: String,
    pub open_key: [u8; 16],
    pub state: SessionState,
    /// S3: committed idle time.
    pub idle_ms: u64,
    /// S2: the highest `acked_below` seen.
    pub acked_below: Seq,
    /// The highest seq with a stored reply.
    pub max_seq: Seq,
}

/// S4: how far a session's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionState {
    Live,
    /// Expired; some of its grants have still to be ended.
    Ending {
        since_ns: i64,
    },
    /// Nothing is left but the row and its replies.
    Ended {
        since_ns: i64,
    },
}

impl Session {
    pub(crate) fn new(name: String, open_key: [u8; 16]) -> Self {
        let state = SessionState::Live;
        Self { name, open_key, state, idle_ms: 0, acked_below: Seq(1), max_seq: Seq(0) }
    }

    pub fn is_live(&self) -> bool {
        self.state == SessionState::Live
    }

    fn encode(&self) -> Vec<u8> {
        let (state, since_ns) = match self.state {
            SessionState::Live => (0, 0),
            SessionState::Ending { since_ns } => (1, since_ns),
            SessionState::Ended { since_ns } => (2, since_ns),
        };
        let mut w = Writer::row_of(48 + self.name.len());
        w.bytes(self.name.as_bytes()).raw(&self.open_key).u8(state);
        if state != 0 {
            w.i64(since_ns);
        }
        w.u64(self.idle_ms).u64(self.acked_below.0).u64(self.max_seq.0);
        w.finish()
    }

    fn decode(row: &[u8]) -> Result<Self, Fatal> {
        let mut r = Reader::row(Table::Sessions, row)?;
        let name = r.string()?;
        let open_key = r.array()?;
        let state = match r.u8()? {
            0 => SessionState::Live,
            1 => SessionState::Ending { since_ns: r.i64()? },
            2 => SessionState::Ended { since_ns: r.i64()? },
            other => return Err(r.corrupt(&format!("no session state {other}"))),
        };
        let session =
            Self { name, open_key, state, idle_ms: r.u64()?, acked_below: Seq(r.u64()?), max_seq: Seq(r.u64()?) };
        r.end()?;
        Ok(session)
    }
}

pub fn get(tables: &dyn Tables, id: SessionId) -> Result<Option<Session>, Fatal> {
    tables.get(Table::Sessions, &key1(id.0))?.map(|row| Session::decode(&row)).transpose()
}

pub(crate) fn put(txn: &mut Txn<'_>, id: SessionId, session: &Session) {
    txn.put(Table::Sessions, key1(id.0), session.encode());
}

/// Puts a new session and its key.
pub(crate) fn add(txn: &mut Txn<'_>, id: SessionId, session: &Session) {
    put(txn, id, session);
    txn.put(Table::SessionKeys, session.open_key, Writer::row().u64(id.0).finish());
}

/// Removes a session and what finds it; its replies must be gone.
pub(crate) fn remove(txn: &mut Txn<'_>, id: SessionId, session: &Session) {
    if let SessionState::Ended { since_ns } = session.state {
        txn.delete(Table::EndedSessions, ended_key(since_ns, id));
    }
    txn.delete(Table::SessionKeys, session.open_key);
    txn.delete(Table::Sessions, key1(id.0));
}

/// The session that was opened with this key.
pub fn by_key(tables: &dyn Tables, open_key: &[u8; 16]) -> Result<Option<SessionId>, Fatal> {
    let Some(row) = tables.get(Table::SessionKeys, open_key)? else { return Ok(None) };
    let mut reader = Reader::row(Table::SessionKeys, &row)?;
    let id = SessionId(reader.u64()?);
    reader.end()?;
    Ok(Some(id))
}

/// Times are after the epoch, so their big-endian form is in order.
fn ended_key(since_ns: i64, id: SessionId) -> [u8; 16] {
    key2(since_ns.max(0) as u64, id.0)
}

/// Notes that nothing of an ended session is left but its row and replies.
pub(crate) fn put_ended(txn: &mut Txn<'_>, since_ns: i64, id: SessionId) {
    txn.put(Table::EndedSessions, ended_key(since_ns, id), Writer::row().finish());
}

/// The ended sessions in the order of their end, until `visit` says stop; times in nanoseconds.
pub fn scan_ended(tables: &dyn Tables, visit: &mut dyn FnMut(i64, SessionId) -> Visit) -> Result<(), Fatal> {
    super::codec::scan_prefix(tables, Table::EndedSessions, &[], &[], &mut |key, _| {
        let mut key = Reader::key(Table::EndedSessions, key);
        let (since_ns, id) = (key.be64()?, key.be64()?);
        key.end()?;
        Ok(visit(since_ns as i64, SessionId(id)))
    })
}

/// All sessions, ended ones too, from `from` on.
pub fn scan(
    tables: &dyn Tables,
    from: SessionId,
    visit: &mut dyn FnMut(SessionId, Session) -> Result<Visit, Fatal>,
) -> Result<(), Fatal> {
    super::codec::scan_prefix(tables, Table::Sessions, &[], &key1(from.0), &mut |key, row| {
        let mut key = Reader::key(Table::Sessions, key);
        let id = SessionId(key.be64()?);
        key.end()?;
        visit(id, Session::decode(row)?)
    })
}
