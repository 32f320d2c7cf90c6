//! The session streams that are open on this node: for pushes to a session (recalls), the limit on sessions, and status.
//!
//! One stream per session: a newer one takes the older one's place, which ends.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use caribou_proto::ids::SessionId;
use caribou_proto::meta::v1::{ServerMessage, server_message};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Sends to one stream; the receiver is the gRPC response.
pub(crate) type Outbox = mpsc::Sender<Result<ServerMessage, tonic::Status>>;

#[derive(Debug)]
pub(crate) struct Registry {
    limit: usize,
    next: AtomicU64,
    streams: Mutex<HashMap<SessionId, Entry>>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    outbox: Outbox,
    ended: CancellationToken,
}

/// A stream's place in the registry.
pub(crate) struct Place<'a> {
    registry: &'a Registry,
    session: SessionId,
    number: u64,
    /// Cancelled when the stream must end: another one took its place, or this node leads no more.
    pub(crate) ended: CancellationToken,
}

impl Registry {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, next: AtomicU64::new(1), streams: Mutex::default() }
    }

    /// Whether one more stream may be opened.
    pub(crate) fn has_room(&self) -> bool {
        self.streams.lock().len() < self.limit
    }

    /// Takes the session's place, ending an older stream of it.
    pub(crate) fn enter(&self, session: SessionId, outbox: Outbox) -> Place<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let ended = CancellationToken::new();
        let entry = Entry { number, outbox, ended: ended.clone() };
        if let Some(older) = self.streams.lock().insert(session, entry) {
            older.ended.cancel();
        }
        Place { registry: self, session, number, ended }
    }

    /// Sends to a session if it has a stream here with room; a push is a hint and may be dropped.
    pub(crate) fn push(&self, session: SessionId, body: server_message::Body) -> bool {
        let outbox = self.streams.lock().get(&session).map(|e| e.outbox.clone());
        outbox.is_some_and(|o| o.try_send(Ok(ServerMessage { body: Some(body) })).is_ok())
    }

    /// Ends all streams: this node leads no more.
    pub(crate) fn end_all(&self) {
        for entry in self.streams.lock().values() {
            entry.ended.cancel();
        }
    }

    pub(crate) fn is_connected(&self, session: SessionId) -> bool {
        self.streams.lock().contains_key(&session)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut streams = self.registry.streams.lock();
        if streams.get(&self.session).is_some_and(|e| e.number == self.number) {
            streams.remove(&self.session);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_stream_takes_the_place_of_the_older_one() {
        let registry = Registry::new(2);
        let (outbox, mut inbox) = mpsc::channel(1);
        let old = registry.enter(SessionId(7), outbox.clone());
        let new = registry.enter(SessionId(7), outbox);
        assert!(old.ended.is_cancelled() && !new.ended.is_cancelled());
        drop(old);
        assert!(registry.is_connected(SessionId(7)), "the newer stream keeps its place");
        assert!(registry.push(SessionId(7), server_message::Body::SessionExpired(Default::default())));
        assert!(!registry.push(SessionId(7), server_message::Body::SessionExpired(Default::default())), "no room");
        assert!(inbox.try_recv().is_ok());
        drop(new);
        assert!(!registry.is_connected(SessionId(7)));
    }
}
