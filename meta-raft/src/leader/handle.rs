//! The door to a term's loops: starting them, feeding them, and what the service asks of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use caribou_proto::chunk::v1::{CommandResult, ToServer};
use caribou_proto::ids::{ChunkId, Incarnation, InodeId, ServerId, SessionId};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::claims::{Claims, CreateTicket};
use super::deps::{Deps, NotLeader};
use super::limits;
use super::links::{Link, Links, Room};
use super::shared::Shared;
use super::task::{Event, Inputs, Leading, Told};
use crate::fsm::command::{Command, IdleStep};
use crate::fsm::error::Fatal;
use crate::fsm::reply::{Effect, Reply};
use crate::fsm::tables::{classes, sessions};

/// The loops of one term.
pub struct Leader;

/// What the node holds of a running leader. All clones are of the same term; [`LeaderHandle::stop`] ends it for all.
#[derive(Clone)]
pub struct LeaderHandle {
    term: u64,
    pub(super) deps: Deps,
    shared: Arc<Shared>,
    events: mpsc::Sender<Event>,
    effects: mpsc::Sender<Vec<Effect>>,
    overflow: Arc<AtomicBool>,
    ended: CancellationToken,
    last_stream: Arc<AtomicU64>,
}

/// What a renewal has come to (S3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// No idle time is committed; the renewal may be answered, under a valid leader lease.
    Renewed,
    /// The session has ended.
    Expired,
}

/// A chunk server, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerStatus {
    pub server: ServerId,
    pub incarnation: Incarnation,
    pub total_bytes: u64,
    pub free_bytes: u64,
    pub chunks: u64,
    pub disks: u32,
    pub failed_disks: u32,
    pub last_heartbeat_ms: u64,
}

/// What this term knows of a session, for status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionStatus {
    /// `None`: not heard of in this term.
    pub silent_ms: Option<u64>,
    pub claims: u64,
    pub claims_complete: bool,
}

impl Leader {
    /// Starts the loops of `term`; this node must be ready in it. The task ends with the handle's [`LeaderHandle::stop`], when a proposal
    /// finds that the term is over, or with [`Fatal`]: then the node has to stop.
    pub fn start(term: u64, generation: u16, deps: Deps) -> (LeaderHandle, JoinHandle<Result<(), Fatal>>) {
        let (event_sender, events) = mpsc::channel(limits::EVENTS);
        let (effect_sender, effects) = mpsc::channel(limits::EFFECT_BATCHES);
        let handle = LeaderHandle {
            term,
            deps: deps.clone(),
            shared: Arc::default(),
            events: event_sender.clone(),
            effects: effect_sender,
            overflow: Arc::default(),
            ended: CancellationToken::new(),
            last_stream: Arc::default(),
        };
        let inputs =
            Inputs { events, event_sender, effects, overflow: handle.overflow.clone(), ended: handle.ended.clone() };
        let leading = Leading::new(deps, handle.shared.clone(), Links::new(generation, term), Instant::now());
        let ended = handle.ended.clone().drop_guard();
        let task = tokio::spawn(async move {
            let _ended = ended;
            leading.run(inputs).await
        });
        (handle, task)
    }
}

impl LeaderHandle {
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Takes the effects of applied entries, in order; never blocks. What does not fit is found again by scanning.
    pub fn effects(&self, mut effects: Vec<Effect>) {
        let mut orphans = Vec::new();
        effects.retain(|effect| match effect {
            // Changes of chunks concern waiters only; they come with every write.
            Effect::ChunkChanged(_) => false,
            Effect::Orphaned(inode) => {
                orphans.push(*inode);
                false
            }
            _ => true,
        });
        if !orphans.is_empty() {
            // Noted here: that takes no decision, and the task would be woken for every name that is removed. S7: a create that may have opened one
            // of them is ahead of its end in the log, and so has begun; noting it later does no harm. Raft's one thread waits for nobody.
            match self.shared.claims.try_lock() {
                Some(mut claims) => orphans.into_iter().for_each(|inode| claims.orphaned(inode)),
                None => effects.extend(orphans.into_iter().map(Effect::Orphaned)),
            }
        }
        if !effects.is_empty() && self.effects.try_send(effects).is_err() {
            self.overflow.store(true, Ordering::Release);
        }
    }

    /// Ends the loops and all control streams.
    pub fn stop(&self) {
        self.ended.cancel();
    }

    /// Cancelled when the term is over here.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Servers for a new chunk of a class, in chain order; empty if there is none to offer.
    pub fn place(&self, class: u32) -> Result<Vec<ServerId>, Fatal> {
        let goal = classes::get(&*self.deps.view.tables(), class)?.goal();
        Ok(self.shared.placement.lock().next(goal, &[]))
    }

    /// R2: no grant of this chunk is proposed now; it is being copied, for 2 s at most.
    pub fn is_held_back(&self, chunk: ChunkId) -> bool {
        self.shared.held_back.lock().get(&chunk).is_some_and(|until| *until > Instant::now())
    }

    /// A message of this session has arrived (S3).
    pub fn session_seen(&self, session: SessionId) {
        self.shared.seen.note(session, Instant::now());
    }

    /// S3: a renewal is answered only after this, and only under a valid leader lease.
    pub async fn renew(&self, session: SessionId) -> Result<Renewal, RenewError> {
        loop {
            let added = self.shared.seen.added.notified();
            let mut added = std::pin::pin!(added);
            added.as_mut().enable();
            if self.shared.seen.note(session, Instant::now()) {
                break;
            }
            tokio::select! {
                () = added => {}
                () = self.ended.cancelled() => return Err(RenewError::NotLeader(NotLeader)),
            }
        }
        let Some(idle_ms) = self.committed_idle_ms(session)? else { return Ok(Renewal::Expired) };
        if idle_ms == 0 {
            return Ok(Renewal::Renewed);
        }
        let reset = Command::AddIdle { sessions: vec![IdleStep { session, add_ms: 0 }] };
        self.deps.proposer.propose(vec![reset]).await?;
        // A record that ended it may have been ahead.
        Ok(self.committed_idle_ms(session)?.map_or(Renewal::Expired, |_| Renewal::Renewed))
    }

    fn committed_idle_ms(&self, session: SessionId) -> Result<Option<u64>, Fatal> {
        Ok(sessions::get(&*self.deps.view.tables(), session)?.filter(|s| s.is_live()).map(|s| s.idle_ms))
    }

    /// S7. The lock is short; never held across an await.
    pub fn claims<T>(&self, work: impl FnOnce(&mut Claims) -> T) -> T {
        work(&mut self.shared.claims.lock())
    }

    /// S7: before a create is proposed; [`LeaderHandle::end_create`] before its reply leaves.
    pub fn begin_create(&self) -> CreateTicket {
        self.claims(Claims::begin_create)
    }

    pub fn end_create(&self, ticket: CreateTicket, opened: Option<(SessionId, InodeId)>) {
        self.claims(|claims| claims.end_create(ticket, opened));
    }

    pub fn session_status(&self, session: SessionId) -> SessionStatus {
        let silent = self.shared.seen.last(session).map(|at| at.elapsed().as_millis() as u64);
        let (claims, claims_complete) = self.claims(|c| (c.count(session), c.is_complete(session)));
        SessionStatus { silent_ms: silent, claims, claims_complete }
    }

    /// The chunk servers that are attached; empty when the term is over.
    pub async fn servers(&self) -> Vec<ServerStatus> {
        self.look(|leading| {
            let status = |(server, link): (ServerId, &Link)| ServerStatus {
                server,
                incarnation: link.incarnation,
                total_bytes: link.room.total_bytes,
                free_bytes: link.room.free_bytes,
                chunks: link.room.chunks,
                disks: link.room.disks,
                failed_disks: link.room.failed_disks,
                last_heartbeat_ms: link.heard.elapsed().as_millis() as u64,
            };
            leading.links.iter().map(status).collect()
        })
        .await
        .unwrap_or_default()
    }

    /// Chunks that are known to be below their goal, and Intents at work or waiting.
    pub async fn backlog(&self) -> (usize, usize) {
        self.look(|leading| (leading.repair.len(), leading.recovery.len())).await.unwrap_or_default()
    }

    async fn look<T: Send + 'static>(&self, look: impl FnOnce(&Leading) -> T + Send + 'static) -> Option<T> {
        let (answer, asked) = tokio::sync::oneshot::channel();
        let look = Event::Look(Box::new(move |leading| {
            let _ = answer.send(look(leading));
        }));
        self.events.send(look).await.ok()?;
        asked.await.ok()
    }

    #[cfg(test)]
    pub(super) fn shared_for_tests(&self) -> &Shared {
        &self.shared
    }

    /// Hands a registered server's stream to the loops; the number of the stream. `ended` ends the stream.
    pub(super) async fn attach(
        &self,
        server: ServerId,
        incarnation: Incarnation,
        outbox: mpsc::Sender<ToServer>,
        ended: CancellationToken,
        (room, dirty): (Room, Vec<ChunkId>),
    ) -> Option<u64> {
        let stream = self.last_stream.fetch_add(1, Ordering::AcqRel) + 1;
        let heard = Instant::now();
        let link = Link { stream, incarnation, outbox, ended, room, heard, pending: Default::default() };
        self.events.send(Event::Attached { server, link, dirty }).await.ok()?;
        // Taken, so that the first heartbeat finds its gate open if nothing is in the way.
        self.look(|_| ()).await?;
        Some(stream)
    }

    /// Answers one heartbeat, if this stream's server may have a lease and this leader's own lease holds (ADR 7).
    pub(super) fn answer_heartbeat(&self, server: ServerId, stream: u64, answer: impl FnOnce()) -> bool {
        // The time is taken before the lease is checked: what the answer promises begins no later.
        let now = Instant::now();
        self.deps.lease.is_valid() && self.shared.leases.answer(server, stream, now, answer)
    }

    pub(super) async fn heartbeat(&self, server: ServerId, stream: u64, told: Told) {
        let _ = self.events.send(Event::Heartbeat { server, stream, told }).await;
    }

    pub(super) async fn result(&self, server: ServerId, stream: u64, result: CommandResult) {
        let _ = self.events.send(Event::Result { server, stream, result }).await;
    }

    /// Proposes and takes the first reply.
    pub(super) async fn propose_one(&self, command: Command) -> Result<Reply, NotLeader> {
        let replies = self.deps.proposer.propose(vec![command]).await?;
        replies.into_iter().next().ok_or(NotLeader)
    }
}

/// Why a renewal was not decided.
#[derive(Debug, thiserror::Error)]
pub enum RenewError {
    #[error(transparent)]
    NotLeader(#[from] NotLeader),
    /// The node has to stop.
    #[error(transparent)]
    Fatal(#[from] Fatal),
}
