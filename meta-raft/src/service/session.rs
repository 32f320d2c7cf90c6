//! One client's session stream: greeting, requests, queries, renewals (S1–S5, S7).
//!
//! The stream's task reads messages, answers brief questions, and hands each of the others to a task of its own, requests that arrived
//! together to one (`burst`); replies leave in any order. Whatever this node cannot do any
//! more because it does not lead ends the stream with a redirect: the client goes on elsewhere with the same `seq`.

use std::sync::Arc;
use std::time::Duration;

use caribou_proto::ids::{InodeId, SESSION_WINDOW, Seq, SessionId};
use caribou_proto::meta::v1::{
    Answer, Cancel, ClientMessage, Hello, Query, Redirect, Refused, Renew, Renewed, Request, ServerMessage,
    SessionExpired, SetAttr, Welcome, WriteAndSet, client_message, mutation, refused, server_message,
};
use futures::FutureExt as _;
use prost::Message as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::StreamExt;
use tracing::Instrument;

use super::burst::{BURST, BURST_BYTES};
use super::node::Node;
use super::registry::Outbox;
use super::warmth::Warmth;
use super::wire::reply::Extras;
use super::{burst, queries, wire};
use crate::fsm::command::Command;
use crate::fsm::read;
use crate::fsm::reply::{ClientReply, Reply};
use crate::fsm::{FEATURE_LEVEL, tables};
use crate::leader::{LeaderHandle, RenewError, Renewal, limits};
use crate::raft::{ClusterIdentity, NotLeader, ProposeError};

/// The wire version that this node speaks.
const WIRE_VERSION: u32 = 2;
/// How long a client may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a call looks whether its chunk is still held back.
const HELD_BACK_POLL: Duration = Duration::from_millis(10);
/// How long a greeting waits for an election before it is redirected; longer than an election takes.
const ELECTION_PATIENCE: Duration = Duration::from_millis(400);
/// How long a growth waits for the recovery of a chunk in its way.
const GROWTH_PATIENCE: Duration = Duration::from_secs(1);
/// Brief questions that need the disk and share a task: few enough that they do not wait for each other's blocks for long.
const TOGETHER: usize = 16;
/// Longest name of a client, in bytes.
const CLIENT_NAME_MAX: usize = 256;

/// Why a stream ends, told to the client as its last message.
pub(super) enum Goodbye {
    Redirect,
    Refused(refused::Kind, String),
    /// The client closed, or nobody listens any more.
    Silent,
}

impl From<NotLeader> for Goodbye {
    fn from(_: NotLeader) -> Self {
        Self::Redirect
    }
}

impl From<ProposeError> for Goodbye {
    fn from(_: ProposeError) -> Self {
        Self::Redirect
    }
}

impl From<wire::request::Malformed> for Goodbye {
    fn from(error: wire::request::Malformed) -> Self {
        Self::Refused(refused::Kind::Protocol, error.to_string())
    }
}

/// Serves a stream until it ends. `room`: for the calls that may be under way.
pub(crate) async fn serve(
    node: Arc<Node>,
    mut inbox: impl tokio_stream::Stream<Item = Result<ClientMessage, tonic::Status>> + Unpin,
    outbox: Outbox,
    room: Arc<Semaphore>,
) {
    let goodbye = match greet(&node, &mut inbox, &outbox).await {
        Ok(call) => {
            let span = tracing::debug_span!("session", session = %call.session);
            work(&call, &mut inbox, &room).instrument(span).await
        }
        Err(goodbye) => goodbye,
    };
    let body = match goodbye {
        Goodbye::Silent => return,
        Goodbye::Redirect => server_message::Body::Redirect(redirect(&node)),
        Goodbye::Refused(kind, reason) => {
            tracing::info!(reason, "a client was refused");
            server_message::Body::Refused(Refused { kind: kind.into(), reason })
        }
    };
    send(&outbox, body).await;
}

async fn send(outbox: &Outbox, body: server_message::Body) {
    // Fails when the client has gone, and then nobody needs the message.
    let _ = outbox.send(Ok(ServerMessage { body: Some(body) })).await;
}

fn redirect(node: &Node) -> Redirect {
    let state = node.raft().leader().borrow().clone();
    let leader = state.leader_id.filter(|id| *id != node.raft().node_id());
    let nodes = node.meta_nodes();
    let address = leader.and_then(|id| nodes.iter().find(|n| n.node_id == id.0)).map(|n| n.address.clone());
    Redirect {
        leader_id: leader.map_or(0, |id| id.0),
        leader_address: address.unwrap_or_default(),
        nodes,
        term: state.term,
    }
}

/// Hello → Welcome, or SessionExpired for a session that has ended (its unanswered calls may still be asked for, S4).
async fn greet(
    node: &Arc<Node>,
    inbox: &mut (impl tokio_stream::Stream<Item = Result<ClientMessage, tonic::Status>> + Unpin),
    outbox: &Outbox,
) -> Result<Call, Goodbye> {
    let first = tokio::time::timeout(HELLO_TIMEOUT, inbox.next()).await;
    let hello = match first {
        Ok(Some(Ok(ClientMessage { body: Some(client_message::Body::Hello(hello)) }))) => hello,
        // Gone before it said who it is.
        Ok(None | Some(Err(_))) => return Err(Goodbye::Silent),
        Ok(Some(Ok(_))) | Err(_) => {
            return Err(Goodbye::Refused(refused::Kind::Protocol, "the first message was no Hello".to_owned()));
        }
    };
    let refuse = |kind, reason: String| Err(Goodbye::Refused(kind, reason));
    if hello.wire_version != WIRE_VERSION {
        let reason = format!(
            "the client speaks version {} of the protocol, this node version {WIRE_VERSION}: upgrade the older of the two",
            hello.wire_version
        );
        return refuse(refused::Kind::Version, reason);
    }
    let Some(identity) = node.raft().cluster() else {
        let reason = "this metadata node belongs to no cluster yet: run `caribou init`".to_owned();
        return refuse(refused::Kind::NotInitialised, reason);
    };
    if let Some(theirs) = &hello.cluster
        && ClusterIdentity::try_from(theirs) != Ok(identity)
    {
        // F1
        let reason =
            format!("this metadata node belongs to cluster {identity}, the client to another: check the addresses");
        return refuse(refused::Kind::ForeignCluster, reason);
    }
    let Some(leading) = node.leading_soon(ELECTION_PATIENCE).await else { return Err(Goodbye::Redirect) };
    if !node.registry.has_room() {
        return refuse(
            refused::Kind::Limit,
            "this cluster has as many clients as limits.sessions allows: unmount some, or raise it".to_owned(),
        );
    }
    let (session, is_live) = session_of(node, &hello).await?;
    let term = node.raft().leader().borrow().term;
    let body = if is_live {
        leading.session_seen(session);
        server_message::Body::Welcome(Welcome {
            cluster: Some(identity.into()),
            session_id: session.0,
            ttl_ms: limits::SESSION_TTL.as_millis() as u64,
            window: SESSION_WINDOW,
            term,
            feature_level: FEATURE_LEVEL,
            nodes: node.meta_nodes(),
            leader_id: node.raft().node_id().0,
            inline_limit: node.inline_limit(),
        })
    } else {
        // S4, S7: it may have ended before this term. What is answered on this stream, a create's stored reply for one, claims nothing.
        leading.claims(|claims| claims.session_ended(session));
        server_message::Body::SessionExpired(SessionExpired {})
    };
    send(outbox, body).await;
    let want_directories = hello.want_directories;
    Ok(Call { node: node.clone(), leading, session, want_directories, outbox: outbox.clone() })
}

/// Storage failed or an invariant is broken: the node stops.
pub(super) fn stop(node: &Node, fatal: &crate::fsm::error::Fatal) -> Goodbye {
    node.stop(fatal);
    Goodbye::Redirect
}

/// The session that the client names, or a new one; and whether it lives.
async fn session_of(node: &Node, hello: &Hello) -> Result<(SessionId, bool), Goodbye> {
    if hello.session_id != 0 {
        let session = SessionId(hello.session_id);
        let view = node.raft().read().await?;
        let row = tables::sessions::get(&view, session).map_err(|fatal| stop(node, &fatal))?;
        return Ok((session, row.is_some_and(|row| row.is_live())));
    }
    let malformed = || Goodbye::Refused(refused::Kind::Protocol, "Hello has no open_key of 16 bytes".to_owned());
    let key = hello.open_key.as_ref().try_into().map_err(|_| malformed())?;
    let name: String = hello.client_name.chars().take(CLIENT_NAME_MAX).collect();
    let replies = node.raft().propose(vec![Command::OpenSession { key, name }]).await?;
    match replies.first() {
        Some(Reply::SessionOpened { session }) => Ok((*session, true)),
        other => Err(Goodbye::Refused(refused::Kind::Protocol, format!("no session could be opened: {other:?}"))),
    }
}

/// Reads messages until the stream ends.
async fn work(
    call: &Call,
    inbox: &mut (impl tokio_stream::Stream<Item = Result<ClientMessage, tonic::Status>> + Unpin),
    room: &Arc<Semaphore>,
) -> Goodbye {
    let Call { node, session, outbox, .. } = call;
    let session = *session;
    let place = node.registry.enter(session, outbox.clone());
    if let Err(fatal) = node.push_recalls(session) {
        return stop(node, &fatal);
    }
    let burst = BURST.min(node.limits.calls_per_session);
    let mut warmth = Warmth::default();
    let (failed, mut failures) = mpsc::channel::<Goodbye>(1);
    loop {
        let message = tokio::select! {
            message = inbox.next() => message,
            goodbye = failures.recv() => return goodbye.unwrap_or(Goodbye::Silent),
            () = place.ended.cancelled() => return Goodbye::Redirect,
        };
        // What is there already comes along: requests that arrived together are proposed together.
        let (mut requests, mut bytes) = (Vec::new(), 0);
        // Answers about claims are not urgent (an open of the same inode may wait for one): they go along with replies if there will be some.
        let mut along = Vec::new();
        let mut slow = Vec::new();
        let (mut next, mut is_over) = (Some(message), false);
        for taken in 1.. {
            let Some(message) = next else { break };
            let Some(Ok(ClientMessage { body: Some(body) })) = message else {
                is_over = true;
                break;
            };
            match body {
                client_message::Body::Request(request) if burst::is_ready(&request) => {
                    bytes += request.encoded_len();
                    requests.push(request);
                }
                client_message::Body::Query(query) if queries::is_of_claims(&query) => {
                    // In the order of the stream, and never after it: a late release must not undo a claim asserted on a newer one (S7).
                    along.push(queries::claims(&call.leading, session, &place.ended, &query));
                }
                body => {
                    // One client must not keep this thread for itself.
                    tokio::task::consume_budget().await;
                    match call.handle_at_once(body, &mut warmth) {
                        Some(client_message::Body::Query(query)) if queries::is_brief(&query) => slow.push(query),
                        Some(body) => {
                            let work = call.clone();
                            begin(admit(room, 1).await, &failed, async move { work.handle(body).await });
                        }
                        None => {}
                    }
                }
            }
            next = if taken < burst && bytes < BURST_BYTES { inbox.next().now_or_never() } else { None };
        }
        while !slow.is_empty() {
            let together = slow.split_off(slow.len().saturating_sub(TOGETHER));
            let work = call.clone();
            let permit = admit(room, together.len()).await;
            begin(permit, &failed, async move { work.queries(together).await });
        }
        if requests.is_empty() {
            for answer in along {
                send(outbox, server_message::Body::Answer(answer)).await;
            }
        } else {
            let count = requests.len();
            let queued = async { (admit(room, count).await, burst::enqueue(call, requests).await) };
            let (permit, burst) = tokio::select! {
                queued = queued => queued,
                () = place.ended.cancelled() => return Goodbye::Redirect,
            };
            let burst = match burst {
                Ok(burst) => burst,
                Err(goodbye) => return goodbye,
            };
            let work = call.clone();
            begin(permit, &failed, async move { burst.answer(&work, along).await });
        }
        if is_over {
            return Goodbye::Silent;
        }
    }
}

/// Waits until that many calls more may be under way.
async fn admit(room: &Arc<Semaphore>, calls: usize) -> OwnedSemaphorePermit {
    let calls = u32::try_from(calls).expect("a burst is small");
    room.clone().acquire_many_owned(calls).await.expect("never closed")
}

/// Runs the work in a task of its own.
fn begin(
    permit: OwnedSemaphorePermit,
    failed: &mpsc::Sender<Goodbye>,
    work: impl Future<Output = Result<(), Goodbye>> + Send + 'static,
) {
    let failed = failed.clone();
    tokio::spawn(async move {
        if let Err(goodbye) = work.await {
            // One reason is enough.
            let _ = failed.try_send(goodbye);
        }
        drop(permit);
    });
}

/// What works on a stream's messages.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) node: Arc<Node>,
    pub(super) leading: LeaderHandle,
    pub(super) session: SessionId,
    pub(super) want_directories: bool,
    outbox: Outbox,
}

impl Call {
    /// Answers a question that can be answered without waiting for anything, the stream's room included; else gives the message back.
    fn handle_at_once(&self, body: client_message::Body, warmth: &mut Warmth) -> Option<client_message::Body> {
        let client_message::Body::Query(query) = &body else { return Some(body) };
        if !queries::is_brief(query) || !warmth.is_worth_a_try() {
            return Some(body);
        }
        let Ok(room) = self.outbox.try_reserve() else { return Some(body) };
        let answer = queries::answer_at_once(&self.node, &self.leading, self.session, query);
        warmth.tried(answer.is_some());
        let Some(answer) = answer else { return Some(body) };
        self.node.counters.queries.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        room.send(Ok(ServerMessage { body: Some(server_message::Body::Answer(answer)) }));
        None
    }

    async fn handle(&self, body: client_message::Body) -> Result<(), Goodbye> {
        match body {
            client_message::Body::Request(request) => self.request(request).await,
            client_message::Body::Query(query) => self.query(query).await,
            client_message::Body::Renew(renew) => self.renew(renew).await,
            client_message::Body::Cancel(cancel) => self.cancel(cancel).await,
            client_message::Body::Hello(_) => {
                Err(Goodbye::Refused(refused::Kind::Protocol, "a second Hello on one stream".to_owned()))
            }
        }
    }

    /// S1: logged, and answered only from `apply`. What must be waited for before the proposal is waited for here.
    async fn request(&self, request: Request) -> Result<(), Goodbye> {
        match request.mutation.as_ref().and_then(|m| m.op.as_ref()) {
            Some(mutation::Op::TakeGrant(take)) => self.wait_while_held_back(InodeId(take.inode), take.index).await?,
            Some(mutation::Op::WriteAndSet(WriteAndSet { write: Some(end), .. }) | mutation::Op::WriteEnd(end)) => {
                self.wait_until_it_may_grow(InodeId(end.inode), end.length).await?
            }
            Some(mutation::Op::Setattr(SetAttr { inode, size: Some(size), .. })) => {
                self.wait_until_it_may_grow(InodeId(*inode), *size).await?;
            }
            _ => {}
        }
        burst::enqueue(self, vec![request]).await?.answer(self, Vec::new()).await
    }

    /// S5.
    async fn cancel(&self, cancel: Cancel) -> Result<(), Goodbye> {
        let command = Command::Cancel { session: self.session, seq: Seq(cancel.seq) };
        let replies = self.node.raft().propose(vec![command]).await?;
        for reply in replies {
            self.answer(cancel.seq, burst::client_reply(reply)?, Extras::default()).await;
        }
        Ok(())
    }

    pub(super) async fn send(&self, body: server_message::Body) {
        send(&self.outbox, body).await;
    }

    pub(super) async fn answer(&self, seq: u64, reply: ClientReply, extras: Extras) {
        if reply.from_table {
            self.node.counters.replies_from_table.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
        if let Some(reply) = wire::reply::reply(seq, reply, extras, &|server| self.node.address_of(server)) {
            self.send(server_message::Body::Reply(reply)).await;
        }
    }

    async fn query(&self, query: Query) -> Result<(), Goodbye> {
        self.answers(1, queries::answer_alone(&self.node, &self.leading, self.session, query)).await
    }

    async fn queries(&self, queries: Vec<Query>) -> Result<(), Goodbye> {
        self.answers(queries.len(), queries::answer(&self.node, &self.leading, self.session, &queries)).await
    }

    async fn answers(
        &self,
        questions: usize,
        answers: impl Future<Output = Result<Vec<Answer>, queries::Failure>>,
    ) -> Result<(), Goodbye> {
        self.node.counters.queries.fetch_add(questions as u64, std::sync::atomic::Ordering::Relaxed);
        let answers = match answers.await {
            Ok(answers) => answers,
            Err(queries::Failure::NotLeader) => return Err(Goodbye::Redirect),
            Err(queries::Failure::Malformed(error)) => return Err(error.into()),
            Err(queries::Failure::Fatal(fatal)) => return Err(stop(&self.node, &fatal)),
        };
        for answer in answers {
            self.send(server_message::Body::Answer(answer)).await;
        }
        Ok(())
    }

    /// M13: no record grows a file over a chunk with an open Intent. It is waited for here, so that few requests have to be made again; but not for
    /// long: until it is answered, a request holds its session's window up (S2), and a recovery may wait for a server that is away for hours.
    async fn wait_until_it_may_grow(&self, inode: InodeId, length: u64) -> Result<(), Goodbye> {
        let in_the_way = || {
            let found = read::chunks::growth_waits_for(&self.node.raft().view(), inode, length);
            found.map_err(|fatal| stop(&self.node, &fatal))
        };
        let term_over = self.leading.ended();
        let until = tokio::time::Instant::now() + GROWTH_PATIENCE;
        while let Some(chunk) = in_the_way()? {
            let waiting = self.node.waiters.on(chunk);
            let mut changed = std::pin::pin!(waiting.notify.notified());
            changed.as_mut().enable();
            // Another one may be in the way now, and the change of this one over.
            if in_the_way()? != Some(chunk) {
                continue;
            }
            tokio::select! {
                () = changed => {}
                () = term_over.cancelled() => return Err(Goodbye::Redirect),
                // `apply` says EAGAIN, and the client asks again.
                () = tokio::time::sleep_until(until) => break,
            }
        }
        Ok(())
    }

    /// R2: a repair that was refused twice holds new grants of its chunk back, for 2 s at most.
    async fn wait_while_held_back(&self, inode: InodeId, index: u32) -> Result<(), Goodbye> {
        let view = self.node.raft().view();
        let chunk = read::chunks::chunk_at(&view, inode, index).map_err(|fatal| stop(&self.node, &fatal))?;
        drop(view);
        while chunk.is_some_and(|chunk| self.leading.is_held_back(chunk)) {
            tokio::time::sleep(HELD_BACK_POLL).await;
        }
        Ok(())
    }

    /// S3: only under a valid lease, and after a commit where the committed idle time is not zero.
    async fn renew(&self, renew: Renew) -> Result<(), Goodbye> {
        let renewal = match self.leading.renew(self.session).await {
            Ok(renewal) => renewal,
            Err(RenewError::NotLeader(_)) => return Err(Goodbye::Redirect),
            Err(RenewError::Fatal(fatal)) => return Err(stop(&self.node, &fatal)),
        };
        self.node.raft().read().await?;
        let body = match renewal {
            Renewal::Renewed => server_message::Body::Renewed(Renewed { stamp: renew.stamp }),
            Renewal::Expired => server_message::Body::SessionExpired(SessionExpired {}),
        };
        send(&self.outbox, body).await;
        Ok(())
    }
}
