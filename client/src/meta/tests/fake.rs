//! A metadata cluster of a few hundred lines: sessions and replies are replicated (shared) state, claims belong to the leader.
//! Every node can be dead, hung, a follower or the leader; a leader can be told to execute without answering.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::cluster::v1::{ClusterId, MetaNode};
use caribou_proto::meta::v1::*;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::meta::{Environment, Link, MetaClient, Transport, TransportError};
use crate::{ClientConfig, Error};

pub(super) const TTL_MS: u64 = 4000;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// Refuses connections; its streams are broken.
    Dead,
    /// Takes connections and messages and does nothing with them.
    Hung,
    Follower,
    Leader,
}

/// What a leader does with a logged call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Serving {
    Answers,
    /// Executes, and loses the reply.
    Executes,
    /// Loses the call.
    Loses,
}

#[derive(Default)]
pub(super) struct FakeSession {
    pub(super) expired: bool,
    row_gone: bool,
    pub(super) acked_below: u64,
    replies: BTreeMap<u64, Reply>,
}

pub(super) struct State {
    roles: HashMap<String, Role>,
    pub(super) serving: Serving,
    term: u64,
    next_session: u64,
    open_keys: HashMap<Bytes, u64>,
    pub(super) sessions: HashMap<u64, FakeSession>,
    /// What took effect, in order: session, seq, name of the created entry.
    pub(super) executed: Vec<(u64, u64, String)>,
    pub(super) from_table: u64,
    pub(super) cancels: Vec<u64>,
    /// Inodes by name; a create of a known name opens it.
    names: HashMap<String, u64>,
    /// The leader's memory (S7).
    pub(super) claims: BTreeSet<(u64, u64)>,
    pub(super) complete: Vec<u64>,
    /// What the leader got of claims and creates, in order.
    pub(super) journal: Vec<String>,
    pub(super) dials: Vec<String>,
    pub(super) refuse: Option<refused::Kind>,
    pub(super) highest_seq_seen: u64,
    /// Releases are kept, to be handled when the test says so: a leader handles the messages of a stream in any order.
    pub(super) keep_releases: bool,
    kept: Vec<(u64, Query, Push)>,
    /// Bumped to break streams.
    epoch: watch::Sender<u64>,
    pushes: Vec<mpsc::Sender<Result<ServerMessage, TransportError>>>,
}

#[derive(Clone)]
pub(super) struct Fake(pub(super) Arc<Mutex<State>>);

impl Fake {
    /// Nodes `a:1`, `b:1`, `c:1`; `a:1` leads.
    pub(super) fn new() -> Self {
        let roles = [("a:1", Role::Leader), ("b:1", Role::Follower), ("c:1", Role::Follower)];
        Self(Arc::new(Mutex::new(State {
            roles: roles.map(|(name, role)| (name.to_owned(), role)).into(),
            serving: Serving::Answers,
            term: 1,
            next_session: 1,
            open_keys: HashMap::new(),
            sessions: HashMap::new(),
            executed: Vec::new(),
            from_table: 0,
            cancels: Vec::new(),
            names: HashMap::new(),
            claims: BTreeSet::new(),
            complete: Vec::new(),
            journal: Vec::new(),
            dials: Vec::new(),
            refuse: None,
            highest_seq_seen: 0,
            keep_releases: false,
            kept: Vec::new(),
            epoch: watch::Sender::new(0),
            pushes: Vec::new(),
        })))
    }

    pub(super) fn config() -> ClientConfig {
        ClientConfig {
            meta: vec!["a:1".to_owned(), "b:1".to_owned()],
            name: "test".to_owned(),
            ..ClientConfig::default()
        }
    }

    pub(super) fn environment(&self) -> Environment {
        let count = Mutex::new(0_u8);
        Environment {
            transport: Arc::new(self.clone()),
            random: Arc::new(move || {
                *count.lock() += 1;
                [*count.lock(); 16]
            }),
        }
    }

    pub(super) async fn client(&self) -> MetaClient {
        self.client_with(Self::config()).await.expect("connects")
    }

    pub(super) async fn client_with(&self, config: ClientConfig) -> Result<MetaClient, Error> {
        MetaClient::connect_in(&config, self.environment()).await
    }

    pub(super) fn set(&self, node: &str, role: Role) {
        self.0.lock().roles.insert(node.to_owned(), role);
    }

    /// `kill -9` of a node: its streams break.
    pub(super) fn kill(&self, node: &str) {
        self.set(node, Role::Dead);
        self.break_streams();
    }

    /// This node leads from now on: a new term, without memory of claims.
    pub(super) fn lead(&self, node: &str) {
        let mut state = self.0.lock();
        for role in state.roles.values_mut().filter(|role| **role == Role::Leader) {
            *role = Role::Follower;
        }
        state.roles.insert(node.to_owned(), Role::Leader);
        state.term += 1;
        state.claims.clear();
        state.complete.clear();
        state.journal.clear();
    }

    pub(super) fn break_streams(&self) {
        let mut state = self.0.lock();
        state.epoch.send_modify(|epoch| *epoch += 1);
        state.pushes.clear();
    }

    pub(super) fn serve(&self, serving: Serving) {
        self.0.lock().serving = serving;
    }

    /// The sessions expire; clients with a stream are told.
    pub(super) fn expire_sessions(&self) {
        let pushes = {
            let mut state = self.0.lock();
            state.sessions.values_mut().for_each(|session| session.expired = true);
            state.claims.clear();
            state.pushes.clone()
        };
        for push in pushes {
            let _ = push.try_send(Ok(message(server_message::Body::SessionExpired(SessionExpired {}))));
        }
    }

    pub(super) fn push(&self, body: server_message::Body) {
        for push in &self.0.lock().pushes {
            push.try_send(Ok(message(body.clone()))).expect("room");
        }
    }

    /// The stored reply of a call, sent late.
    pub(super) fn answer_from_table(&self, session: u64, seq: u64) {
        let state = self.0.lock();
        let reply = state.sessions[&session].replies[&seq].clone();
        for push in &state.pushes {
            push.try_send(Ok(message(server_message::Body::Reply(reply.clone())))).expect("room");
        }
    }

    /// Handles the releases that were kept.
    pub(super) fn handle_kept(&self) {
        let mut state = self.0.lock();
        for (session, query, push) in std::mem::take(&mut state.kept) {
            let answer = state.query(session, query);
            let _ = push.try_send(Ok(message(answer)));
        }
    }

    /// Only answers them: they have been handled before.
    pub(super) fn answer_kept(&self) {
        for (_, query, push) in std::mem::take(&mut self.0.lock().kept) {
            let answer = Answer { id: query.id, body: Some(ReplyBody::default()), ..Answer::default() };
            let _ = push.try_send(Ok(message(server_message::Body::Answer(answer))));
        }
    }

    /// Keeps releases from now on, and waits until the one that `release` causes has come.
    pub(super) async fn keep_release(&self, release: impl FnOnce()) {
        self.0.lock().keep_releases = true;
        release();
        self.until("a release that is kept", |state| !state.kept.is_empty()).await;
    }

    /// Waits, on the paused clock, until the state is as wanted.
    pub(super) async fn until(&self, what: &str, mut condition: impl FnMut(&State) -> bool) {
        let wait = async {
            while !condition(&self.0.lock()) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(60), wait).await.is_ok(), "never: {what}");
    }

    pub(super) fn executed(&self) -> Vec<String> {
        self.0.lock().executed.iter().map(|(_, _, name)| name.clone()).collect()
    }
}

impl Transport for Fake {
    fn dial(&self, address: &str, first: ClientMessage) -> BoxFuture<'static, Result<Link, TransportError>> {
        let fake = self.clone();
        let address = address.to_owned();
        async move {
            let role = {
                let mut state = fake.0.lock();
                state.dials.push(address.clone());
                state.roles.get(&address).copied().unwrap_or(Role::Dead)
            };
            if role == Role::Dead {
                return Err(TransportError("connection refused".to_owned()));
            }
            let (sender, inbox) = mpsc::channel(crate::meta::transport::LINK_QUEUE);
            let (push, outbox) = mpsc::channel(100_000);
            sender.try_send(first).expect("room");
            tokio::spawn(fake.serve_stream(address, inbox, push));
            Ok(Link { sender, receiver: ReceiverStream::new(outbox).boxed() })
        }
        .boxed()
    }
}

type Push = mpsc::Sender<Result<ServerMessage, TransportError>>;

impl Fake {
    async fn serve_stream(self, address: String, mut inbox: mpsc::Receiver<ClientMessage>, push: Push) {
        let mut epoch = self.0.lock().epoch.subscribe();
        let mut session = None;
        loop {
            let next = tokio::select! {
                biased;
                _ = epoch.changed() => {
                    let _ = push.try_send(Err(TransportError("connection reset".to_owned())));
                    return;
                }
                next = inbox.recv() => next,
            };
            let Some(next) = next else { return };
            let role = self.0.lock().roles[&address];
            if role == Role::Hung {
                continue;
            }
            let goes_on = match next.body.expect("a body") {
                client_message::Body::Hello(hello) => self.greet(&address, role, hello, &push, &mut session),
                body => self.0.lock().handle(session.expect("hello comes first"), body, &push),
            };
            if !goes_on {
                return;
            }
        }
    }

    fn greet(&self, address: &str, role: Role, hello: Hello, push: &Push, session: &mut Option<u64>) -> bool {
        let mut state = self.0.lock();
        let answer = if let Some(kind) = state.refuse {
            let refused = Refused { kind: kind.into(), reason: "it belongs to another cluster".to_owned() };
            server_message::Body::Refused(refused)
        } else if role == Role::Follower {
            let leader = state.roles.iter().find(|(_, role)| **role == Role::Leader).map(|(name, _)| name.clone());
            server_message::Body::Redirect(Redirect {
                leader_id: leader.as_deref().map_or(0, id_of),
                leader_address: leader.unwrap_or_default(),
                nodes: nodes(),
                term: state.term,
            })
        } else {
            let id = state.session_of(&hello);
            *session = Some(id);
            state.pushes.push(push.clone());
            server_message::Body::Welcome(Welcome {
                cluster: Some(cluster()),
                session_id: id,
                ttl_ms: TTL_MS,
                window: 1024,
                term: state.term,
                feature_level: 1,
                nodes: nodes(),
                leader_id: id_of(address),
                inline_limit: 0,
            })
        };
        // A session that has ended is greeted as such; its calls may still be asked for (S4).
        let expired = session.is_some_and(|id| state.sessions[&id].expired);
        let answer = if expired { server_message::Body::SessionExpired(SessionExpired {}) } else { answer };
        push.try_send(Ok(message(answer))).expect("room");
        session.is_some()
    }
}

impl State {
    fn session_of(&mut self, hello: &Hello) -> u64 {
        if hello.session_id != 0 {
            // Unknown: long ended, and its row gone.
            let gone = || FakeSession { expired: true, row_gone: true, ..FakeSession::default() };
            self.sessions.entry(hello.session_id).or_insert_with(gone);
            return hello.session_id;
        }
        if let Some(id) = self.open_keys.get(&hello.open_key) {
            return *id;
        }
        let id = self.next_session;
        self.next_session += 1;
        self.open_keys.insert(hello.open_key.clone(), id);
        self.sessions.insert(id, FakeSession::default());
        id
    }

    fn handle(&mut self, session: u64, body: client_message::Body, push: &Push) -> bool {
        let answer = match body {
            client_message::Body::Request(request) => self.request(session, request),
            client_message::Body::Cancel(cancel) => self.cancel(session, cancel.seq),
            client_message::Body::Query(query) if self.keep_releases && query.release.is_some() => {
                self.kept.push((session, query, push.clone()));
                None
            }
            client_message::Body::Query(query) => Some(self.query(session, query)),
            client_message::Body::Renew(renew) => Some(server_message::Body::Renewed(Renewed { stamp: renew.stamp })),
            client_message::Body::Hello(_) => panic!("hello twice on one stream"),
        };
        if let Some(answer) = answer {
            let _ = push.try_send(Ok(message(answer)));
        }
        true
    }

    fn request(&mut self, id: u64, request: Request) -> Option<server_message::Body> {
        if self.serving == Serving::Loses {
            return None;
        }
        let session = self.sessions.get_mut(&id).expect("greeted");
        session.acked_below = session.acked_below.max(request.acked_below);
        let acked_below = session.acked_below;
        session.replies.retain(|seq, _| *seq >= acked_below);
        assert!(request.seq >= acked_below, "an answered call was sent again");
        let seq = request.seq;
        self.highest_seq_seen = self.highest_seq_seen.max(seq);
        let mut reply = Reply { seq, outcome: Outcome::Executed.into(), ..Reply::default() };
        if session.row_gone {
            reply.outcome = Outcome::SessionExpired.into();
        } else if let Some(stored) = session.replies.get(&seq) {
            self.from_table += 1;
            reply = stored.clone();
        } else if session.expired {
            reply.outcome = Outcome::NotExecuted.into();
        } else if seq >= acked_below + 1024 {
            reply.outcome = Outcome::WindowExceeded.into();
        } else {
            let op = request.mutation.and_then(|mutation| mutation.op).expect("an op");
            self.execute(id, seq, op, &mut reply);
        }
        let created = reply.body.as_ref().and_then(|body| body.attr.as_ref()).map(|attr| attr.inode);
        if let Some(inode) = created.filter(|_| !self.sessions[&id].expired) {
            self.claims.insert((id, inode)); // S7: before the reply leaves
            self.journal.push(format!("create {inode}"));
        }
        (self.serving == Serving::Answers).then_some(server_message::Body::Reply(reply))
    }

    fn execute(&mut self, id: u64, seq: u64, op: mutation::Op, reply: &mut Reply) {
        let (name, is_create) = match op {
            mutation::Op::Create(create) => (create.name, true),
            mutation::Op::Mkdir(mkdir) => (mkdir.name, false),
            other => panic!("the fake does not know {other:?}"),
        };
        let name = String::from_utf8(name.to_vec()).expect("a plain name");
        let known = self.names.get(&name).copied();
        if known.is_some() && !is_create {
            reply.errno = libc::EEXIST as u32;
        } else {
            let inode = known.unwrap_or(100 + self.names.len() as u64);
            self.names.insert(name.clone(), inode);
            let attr = is_create.then(|| Attr { inode, ..Attr::default() });
            reply.body = Some(ReplyBody { attr, ..ReplyBody::default() });
        }
        self.executed.push((id, seq, name));
        self.sessions.get_mut(&id).expect("known").replies.insert(seq, reply.clone());
    }

    fn cancel(&mut self, id: u64, seq: u64) -> Option<server_message::Body> {
        self.cancels.push(seq);
        if self.serving != Serving::Answers {
            return None;
        }
        let session = self.sessions.get_mut(&id).expect("known");
        let cancelled = Reply { seq, outcome: Outcome::Cancelled.into(), ..Reply::default() };
        Some(server_message::Body::Reply(session.replies.entry(seq).or_insert(cancelled).clone()))
    }

    fn query(&mut self, session: u64, query: Query) -> server_message::Body {
        let mut answer = Answer { id: query.id, errno: 0, body: Some(ReplyBody::default()) };
        if let Some(open) = query.open {
            self.journal.push(format!("{} {}", if open.reassert { "reassert" } else { "open" }, open.inode));
            self.claims.insert((session, open.inode));
            answer.body.as_mut().expect("set").attr = Some(Attr { inode: open.inode, ..Attr::default() });
        } else if let Some(release) = query.release {
            for inode in release.inodes {
                self.journal.push(format!("release {inode}"));
                self.claims.remove(&(session, inode));
            }
        } else if query.claims_complete.is_some() {
            self.journal.push("complete".to_owned());
            self.complete.push(session);
        } else if let Some(lookup) = query.lookup {
            match self.names.get(std::str::from_utf8(&lookup.name).expect("a plain name")) {
                Some(inode) => {
                    answer.body.as_mut().expect("set").attr = Some(Attr { inode: *inode, ..Attr::default() })
                }
                None => answer.errno = libc::ENOENT as u32,
            }
        }
        server_message::Body::Answer(answer)
    }
}

fn message(body: server_message::Body) -> ServerMessage {
    ServerMessage { body: Some(body) }
}

fn id_of(address: &str) -> u64 {
    u64::from(address.as_bytes()[0] - b'a') + 1
}

fn nodes() -> Vec<MetaNode> {
    ["a:1", "b:1", "c:1"].map(|a| MetaNode { node_id: id_of(a), address: a.to_owned(), voter: true }).to_vec()
}

pub(super) fn cluster() -> ClusterId {
    ClusterId { uuid: Bytes::from_static(&[7; 16]), generation: 1, nonce: 9 }
}

pub(super) fn mkdir(name: &str) -> mutation::Op {
    mutation::Op::Mkdir(Mkdir { parent: 1, name: Bytes::copy_from_slice(name.as_bytes()), mode: 0o755 })
}

pub(super) fn create(name: &str) -> mutation::Op {
    mutation::Op::Create(Create { parent: 1, name: Bytes::copy_from_slice(name.as_bytes()), ..Create::default() })
}

pub(super) fn lookup(name: &str) -> crate::meta::QueryOp {
    crate::meta::QueryOp::Lookup(Lookup { parent: 1, name: Bytes::copy_from_slice(name.as_bytes()) })
}
