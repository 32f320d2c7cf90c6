//! The state of the session as others may see it, and the board on which the session task posts it.

use std::sync::Arc;
use std::time::Duration;

use caribou_proto::cluster::v1::ClusterId;
use caribou_proto::ids::SessionId;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Error;

/// A snapshot of the session, see [`crate::MetaClient::status`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetaStatus {
    /// A stream to the leader stands.
    pub connected: bool,
    /// The leader's address, as it was dialled; the last one while there is no stream.
    pub leader_address: String,
    /// The leader's node id.
    pub leader_id: u64,
    /// The leader's term.
    pub term: u64,
    /// The cluster's feature level.
    pub feature_level: u32,
    /// The session; 0 before the first one is open.
    pub session_id: SessionId,
    /// Streams that came to stand; the first one is 1.
    pub connections: u64,
    /// Sessions that expired (S4).
    pub sessions_expired: u64,
    /// Logged calls that were sent again on another stream (S1).
    pub requests_resent: u64,
    /// Logged calls that had not been executed in an expired session and were issued anew (S4).
    pub requests_reissued: u64,
    /// The addresses that are tried, configured and learnt.
    pub nodes: Vec<String>,
    /// What a node said when it last refused this client; empty after a connection.
    pub refusal: String,
}

/// Shared by the session task, which writes, and the handles, which read.
#[derive(Clone)]
pub(crate) struct Board {
    state: Arc<Mutex<State>>,
    first: Arc<watch::Sender<First>>,
}

#[derive(Default)]
struct State {
    status: MetaStatus,
    cluster: ClusterId,
    inline_limit: u32,
    certain_until: Option<Instant>,
    expired_session: SessionId,
    last_failure: String,
}

/// How the first search for the leader stands.
#[derive(Clone, Default, PartialEq)]
enum First {
    #[default]
    Searching,
    Connected,
    Refused(String),
}

impl Default for Board {
    fn default() -> Self {
        Self { state: Arc::default(), first: Arc::new(watch::Sender::new(First::Searching)) }
    }
}

impl Board {
    pub(crate) fn status(&self) -> MetaStatus {
        self.state.lock().status.clone()
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.state.lock().cluster.clone()
    }

    pub(crate) fn inline_limit(&self) -> u32 {
        self.state.lock().inline_limit
    }

    pub(crate) fn set_inline_limit(&self, bytes: u32) {
        self.state.lock().inline_limit = bytes;
    }

    pub(crate) fn certain_until(&self) -> Option<Instant> {
        self.state.lock().certain_until
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut MetaStatus)) {
        change(&mut self.state.lock().status);
    }

    pub(crate) fn expired_session(&self) -> SessionId {
        self.state.lock().expired_session
    }

    pub(crate) fn session_expired(&self, session: SessionId) {
        let mut state = self.state.lock();
        state.expired_session = session;
        state.certain_until = None;
        state.status.sessions_expired += 1;
    }

    pub(crate) fn set_cluster(&self, cluster: ClusterId) {
        self.state.lock().cluster = cluster;
    }

    pub(crate) fn set_certain_until(&self, end: Option<Instant>) {
        self.state.lock().certain_until = end;
    }

    /// Keeps why a node could not be used, for the message of a connection that times out.
    pub(crate) fn note_failure(&self, address: &str, why: &str) {
        self.state.lock().last_failure = format!("{address}: {why}");
    }

    pub(crate) fn connected(&self) {
        self.first.send_if_modified(|first| std::mem::replace(first, First::Connected) != First::Connected);
    }

    pub(crate) fn refused(&self, reason: &str) {
        self.first.send_if_modified(|first| {
            let searching = *first == First::Searching;
            if searching {
                *first = First::Refused(reason.to_owned());
            }
            searching
        });
    }

    pub(crate) async fn first_connection(&self) -> Result<(), Error> {
        let mut first = self.first.subscribe();
        let settled = first.wait_for(|first| *first != First::Searching).await.expect("this board holds the sender");
        match &*settled {
            First::Refused(reason) => Err(Error::Refused(reason.clone())),
            _ => Ok(()),
        }
    }

    pub(crate) fn why_not_connected(&self, addresses: &str, soft: Duration) -> String {
        let state = self.state.lock();
        let why = match (&state.status.refusal, &state.last_failure) {
            (refusal, _) if !refusal.is_empty() => refusal.clone(),
            (_, failure) if !failure.is_empty() => format!("the last failure was {failure}"),
            _ => "none of them answered".to_owned(),
        };
        format!("no metadata leader found within {soft:?} among {addresses}: {why}")
    }
}
