//! The state of the session and its transitions. No I/O and no waiting: what is to be sent is put into `out`, what the task
//! has to do besides is returned.
//!
//! A session is *fresh* (to be opened under `open_key`), *live*, or *expired* (S4). An expired one is not left before each of
//! its calls is settled: they are asked again under the old session's name, where a known `seq` finds its reply and an unknown
//! one `NotExecuted`; then a fresh one is opened and what was not executed is issued anew. New calls wait meanwhile.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::cluster::v1::ClusterId;
use caribou_proto::ids::SessionId;
use caribou_proto::meta::v1::{
    Answer, ClientMessage, Hello, Outcome, Renew, Reply, ServerMessage, Welcome, client_message, server_message,
};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::MetaEvent;
use super::call::Command;
use super::claims::Claims;
use super::finder::Greeting;
use super::liveness::{Liveness, Silence};
use super::queries::{Kind, Queries};
use super::releases::{Found, Releases};
use super::requests::{Requests, Sent, Waiting};
use super::status::Board;
use crate::{ClientConfig, Error, errno};

/// The wire version that this client speaks.
const WIRE_VERSION: u32 = 2;
/// Inodes in one release message; more follow with the next event.
const MAX_RELEASES: usize = 1024;
/// Releases wait this long for other messages to leave with: nobody waits for them.
const RELEASE_PATIENCE: Duration = Duration::from_millis(10);
/// Streams on which a leader may say "expired" and end without settling the old calls, before they count as lost (S4: EIO).
const MAX_BARE_EXPIRIES: u32 = 5;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Fresh { open_key: [u8; 16] },
    Live(SessionId),
    Expired(SessionId),
}

/// What the task has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Stay,
    /// Leave this stream and greet the same leader again: the old session is settled (S4).
    Redial,
    /// The stream is of no use any more.
    Leave {
        why: String,
        leader: Option<String>,
    },
}

pub(crate) struct Session {
    phase: Phase,
    cluster: Option<ClusterId>,
    name: String,
    want_directories: bool,
    random: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
    requests: Requests,
    queries: Queries,
    claims: Claims,
    releases: Found,
    liveness: Liveness,
    /// Inodes whose claim the leader may hold though no handle is left.
    unsure: Vec<u64>,
    /// When releases that wait leave by themselves.
    releases_due: Option<Instant>,
    bare_expiries: u32,
    linked: bool,
    out: VecDeque<ClientMessage>,
    events: broadcast::Sender<MetaEvent>,
    board: Board,
}

impl Session {
    pub(crate) fn new(
        config: &ClientConfig,
        random: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
        releases: Releases,
        events: broadcast::Sender<MetaEvent>,
        board: Board,
    ) -> Self {
        Self {
            phase: Phase::Fresh { open_key: random() },
            cluster: config.cluster.clone(),
            name: config.name.clone(),
            want_directories: config.want_directories,
            random,
            requests: Requests::new(),
            queries: Queries::default(),
            claims: Claims::default(),
            releases: Found::new(releases),
            liveness: Liveness::new(Instant::now()),
            unsure: Vec::new(),
            releases_due: None,
            bare_expiries: 0,
            linked: false,
            out: VecDeque::new(),
            events,
            board,
        }
    }

    pub(crate) fn hello(&self) -> Hello {
        let (session_id, open_key, acked_below) = match self.phase {
            Phase::Fresh { open_key } => (SessionId(0), bytes::Bytes::copy_from_slice(&open_key), 1),
            Phase::Live(id) | Phase::Expired(id) => (id, bytes::Bytes::new(), self.requests.acked_below()),
        };
        Hello {
            cluster: self.cluster.clone(),
            session_id: session_id.0,
            open_key,
            client_name: self.name.clone(),
            wire_version: WIRE_VERSION,
            acked_below,
            want_directories: self.want_directories,
        }
    }

    /// The messages for the stream, in order.
    pub(crate) fn outgoing(&mut self) -> &mut VecDeque<ClientMessage> {
        &mut self.out
    }

    pub(crate) fn command(&mut self, command: Command) {
        match command {
            Command::Mutate { call, caller, op, reply } => self.requests.submit(Waiting { call, caller, op, reply }),
            Command::Query { call, caller, op, reply } => {
                let id = self.queries.read(call, caller, op, reply);
                self.ask(id);
            }
            Command::Open { call, caller, open, reply } => {
                self.claims.opening(open.inode);
                let inode = open.inode;
                let id = self.queries.open(call, caller, open, reply);
                if self.claims.may_open(id, inode) {
                    self.ask(id);
                }
            }
            Command::GiveUp { call } => {
                let cancel = self.requests.give_up(call); // S5
                self.queries.give_up(call);
                if self.linked {
                    self.out.extend(cancel);
                }
            }
            Command::ReleaseClaim { inode } => {
                self.claims.release(inode, self.newest_create());
                self.releases.told();
            }
            Command::Close => {}
        }
    }

    /// The session is about to be left: nothing waits for company any more.
    pub(crate) fn ending(&mut self, now: Instant) {
        self.releases_due = Some(now);
        self.advance(now);
    }

    /// A leader greeted this client on a new stream.
    pub(crate) fn stream_began(&mut self, greeting: Greeting, now: Instant) -> Step {
        self.out.clear();
        self.linked = true;
        match greeting {
            Greeting::Welcome(welcome) => self.welcomed(*welcome, now),
            Greeting::Expired if matches!(self.phase, Phase::Fresh { .. }) => {
                Step::Leave { why: "the node calls a session expired that is not open yet".to_owned(), leader: None }
            }
            Greeting::Expired => {
                self.liveness.stream_began(Duration::ZERO, now);
                self.bare_expiries += 1;
                self.session_expired();
                if self.bare_expiries > MAX_BARE_EXPIRIES {
                    self.row_is_gone();
                }
                self.resend_requests();
                self.leave_if_settled()
            }
        }
    }

    /// Calls on their way, and what the session asks by itself.
    pub(crate) fn unanswered(&self) -> usize {
        self.requests.unanswered() + self.queries.unanswered()
    }

    pub(crate) fn stream_lost(&mut self) {
        self.linked = false;
        self.releases_due = None;
        self.out.clear();
        let dropped = self.queries.stream_lost();
        for inode in dropped.opens {
            self.claims.opening_dropped(inode);
            self.unsure.push(inode);
        }
        self.unsure.extend(dropped.releases);
        self.claims.stream_lost();
        self.board.update(|status| status.connected = false);
    }

    pub(crate) fn message(&mut self, message: ServerMessage, now: Instant) -> Step {
        use server_message::Body;
        let step = match message.body {
            Some(Body::Reply(reply)) => self.replied(reply),
            Some(Body::Answer(answer)) => {
                self.answered(answer);
                Step::Stay
            }
            Some(Body::Renewed(renewed)) => {
                self.liveness.renewed(renewed.stamp);
                self.board.set_certain_until(self.liveness.certain_until());
                Step::Stay
            }
            Some(Body::SessionExpired(_)) => {
                self.session_expired();
                self.leave_if_settled()
            }
            Some(Body::RecallGrant(recall)) => {
                // No receiver: no files are open, so there is no grant to give back.
                let _ = self.events.send(MetaEvent::RecallGrant {
                    inode: recall.inode,
                    index: recall.index,
                    chunk: recall.chunk,
                    grant: recall.grant,
                });
                Step::Stay
            }
            Some(Body::Redirect(redirect)) => Step::Leave {
                why: "the node is not the leader any more".to_owned(),
                leader: Some(redirect.leader_address).filter(|address| !address.is_empty()),
            },
            Some(Body::Refused(refused)) => Step::Leave { why: refused.reason, leader: None },
            Some(Body::Welcome(_)) => {
                tracing::warn!("the leader greeted twice on one stream");
                Step::Stay
            }
            None => {
                tracing::debug!("a message of a newer version was ignored");
                Step::Stay
            }
        };
        self.liveness.arrived(self.waiting(), now);
        step
    }

    /// Sends what may be sent: calls that the window lets through, claims, releases, a renewal that is due.
    pub(crate) fn advance(&mut self, now: Instant) {
        for inode in self.releases.take(now) {
            self.claims.release(inode, self.newest_create());
        }
        if !self.linked {
            return;
        }
        if matches!(self.phase, Phase::Live(_)) {
            // Before the creates that come now: a release must not follow one that it does not know (S7).
            self.advance_releases(now);
            while let Some(message) = self.requests.admit() {
                self.out.push_back(message);
            }
            self.advance_claims();
        }
        if self.liveness.is_renewal_due(self.waiting(), now) {
            self.renew(now);
        }
        self.liveness.sent(self.waiting(), now);
    }

    pub(crate) fn silence(&self, now: Instant) -> Silence {
        if self.linked { self.liveness.silence(now) } else { Silence::None }
    }

    pub(crate) fn next_look(&self, now: Instant) -> Instant {
        let look = self.liveness.next_look(self.waiting(), now);
        [self.releases_due, self.releases.next_look()].into_iter().flatten().fold(look, Instant::min)
    }

    fn welcomed(&mut self, welcome: Welcome, now: Instant) -> Step {
        if let Some(cluster) = welcome.cluster {
            self.board.set_cluster(cluster.clone());
            self.cluster = Some(cluster);
        }
        self.liveness.stream_began(Duration::from_millis(welcome.ttl_ms), now);
        self.requests.set_window(welcome.window);
        self.board.set_inline_limit(welcome.inline_limit);
        let session = SessionId(welcome.session_id);
        match self.phase {
            Phase::Live(known) | Phase::Expired(known) if known == session => {}
            Phase::Fresh { .. } => self.new_session(session),
            Phase::Live(_) | Phase::Expired(_) => {
                // The leader does not know the old session and has opened another one.
                self.session_expired();
                self.row_is_gone();
                self.new_session(session);
            }
        }
        self.board.update(|status| {
            status.connected = true;
            status.connections += 1;
            status.leader_id = welcome.leader_id;
            status.term = welcome.term;
            status.feature_level = welcome.feature_level;
            status.session_id = session;
            status.refusal.clear();
        });
        self.resend_requests();
        let mut opens = Vec::new();
        if matches!(self.phase, Phase::Live(_)) {
            let (messages, unanswered_opens) = self.queries.resend();
            self.out.extend(messages);
            opens = unanswered_opens;
        }
        let unsure = std::mem::take(&mut self.unsure);
        self.claims.stream_began(self.requests.creates().clone(), opens, unsure);
        self.renew(now);
        let _ = self.events.send(MetaEvent::LeaderChanged { node_id: welcome.leader_id, term: welcome.term });
        self.leave_if_settled()
    }

    fn new_session(&mut self, session: SessionId) {
        self.phase = Phase::Live(session);
        self.bare_expiries = 0;
        self.unsure.clear();
        let reissued = self.requests.new_session();
        self.board.update(|status| status.requests_reissued += reissued);
        tracing::info!(%session, reissued, "session opened");
    }

    fn resend_requests(&mut self) {
        let messages = self.requests.resend(); // S1: the same seq
        self.board.update(|status| status.requests_resent += messages.len() as u64);
        self.out.extend(messages);
    }

    fn replied(&mut self, reply: Reply) -> Step {
        self.bare_expiries = 0;
        let Some(sent) = self.requests.answered(reply.seq) else { return Step::Stay };
        self.claims.create_settled(reply.seq);
        match reply.outcome() {
            Outcome::Executed => self.executed(sent, reply),
            Outcome::NotExecuted => {
                self.session_expired();
                self.requests.not_executed(reply.seq, sent); // S4
            }
            Outcome::SessionExpired if sent.was_sent_once() => {
                // The row is gone, but the one time that this call was sent had no effect.
                self.session_expired();
                self.requests.not_executed(reply.seq, sent);
            }
            Outcome::SessionExpired => {
                self.session_expired();
                lost_with_its_row(sent);
            }
            Outcome::Cancelled => {
                sent.deliver(Err(Error::Interrupted)); // S5; in general nobody waits any more
            }
            Outcome::WindowExceeded | Outcome::Unknown => {
                tracing::error!(seq = reply.seq, outcome = ?reply.outcome(), "the leader answered against the protocol");
                sent.deliver(Err(Error::Fatal("the metadata leader answered against the protocol".to_owned())));
            }
        }
        self.leave_if_settled()
    }

    fn executed(&mut self, sent: Sent, reply: Reply) {
        let is_create = sent.is_create();
        if reply.errno != 0 {
            sent.deliver(Err(Error::from_wire(reply.errno)));
            return;
        }
        let body = reply.body.unwrap_or_default();
        let inode = body.attr.as_ref().map(|attr| attr.inode);
        let held = sent.deliver(Ok(body));
        if let Some(inode) = inode.filter(|_| is_create) {
            self.claims.created(inode, held, self.newest_create()); // S7
        }
    }

    fn answered(&mut self, answer: Answer) {
        let Some(pending) = self.queries.answered(answer.id) else { return };
        let result =
            if answer.errno == 0 { Ok(answer.body.unwrap_or_default()) } else { Err(Error::from_wire(answer.errno)) };
        let succeeded = result.is_ok();
        let taken = pending.reply.is_some_and(|reply| reply.send(result).is_ok());
        match pending.kind {
            Kind::Open(inode) => self.claims.opened(answer.id, inode, succeeded && taken, self.newest_create()),
            Kind::Reassert(inode) => {
                if !succeeded {
                    tracing::warn!(
                        inode,
                        errno = answer.errno,
                        "the claim of an open file could not be asserted again"
                    );
                }
                self.claims.reasserted(inode, self.newest_create());
            }
            Kind::Release(inodes) => {
                for inode in inodes {
                    for id in self.claims.released(inode, self.newest_create()) {
                        self.ask(id);
                    }
                }
            }
            Kind::Read | Kind::ClaimsComplete => {}
        }
    }

    /// S4. Called with the first sign of it, and again without effect.
    fn session_expired(&mut self) {
        let Phase::Live(old) = self.phase else { return };
        tracing::warn!(session = %old, "session expired: grants, claims and locks are gone");
        self.phase = Phase::Expired(old);
        self.releases_due = None;
        self.requests.session_ended();
        self.claims.session_ended();
        self.liveness.session_ended();
        self.board.session_expired(old);
        // No receiver: nothing depends on the session yet.
        let _ = self.events.send(MetaEvent::SessionChanged { old });
    }

    /// S4: nobody can tell any more whether the unanswered calls were executed.
    fn row_is_gone(&mut self) {
        for sent in self.requests.drain() {
            lost_with_its_row(sent);
        }
    }

    /// An expired session all of whose calls are settled makes room for a fresh one.
    fn leave_if_settled(&mut self) -> Step {
        if !matches!(self.phase, Phase::Expired(_)) || self.requests.unanswered() > 0 {
            return Step::Stay;
        }
        self.phase = Phase::Fresh { open_key: (self.random)() };
        Step::Redial
    }

    fn advance_claims(&mut self) {
        while let Some(inode) = self.claims.next_reassertion() {
            self.out.push_back(self.queries.reassert(inode));
        }
        if self.claims.is_complete_due() {
            tracing::debug!(claims = self.claims.len(), "claims complete");
            self.out.push_back(self.queries.claims_complete());
        }
    }

    fn advance_releases(&mut self, now: Instant) {
        if !self.claims.has_releases() {
            self.releases_due = None;
            return;
        }
        let due = *self.releases_due.get_or_insert(now + RELEASE_PATIENCE);
        let has_company = !self.out.is_empty() || self.requests.may_admit();
        if !has_company && now < due {
            return;
        }
        self.releases_due = None;
        let oldest_create = self.requests.creates().first().copied();
        let next = std::iter::from_fn(|| self.claims.next_release(oldest_create));
        let released: Vec<u64> = next.take(MAX_RELEASES).collect();
        if !released.is_empty() {
            self.out.push_back(self.queries.release(released));
        }
    }

    fn ask(&mut self, id: u64) {
        // Else it waits for the next stream; in an expired session for the new one.
        if self.linked && matches!(self.phase, Phase::Live(_)) {
            self.out.extend(self.queries.message(id));
        }
    }

    fn renew(&mut self, now: Instant) {
        let stamp = self.liveness.renew(now);
        self.out.push_back(ClientMessage { body: Some(client_message::Body::Renew(Renew { stamp })) });
    }

    fn newest_create(&self) -> Option<u64> {
        self.requests.creates().last().copied()
    }

    fn waiting(&self) -> bool {
        self.unanswered() > 0
    }
}

fn lost_with_its_row(sent: Sent) {
    tracing::error!("a call's session row is gone after 24 h: its outcome is unknown, the caller gets EIO");
    sent.deliver(Err(Error::Errno(errno::EIO)));
}
