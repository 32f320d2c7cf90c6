//! The one task that owns the session: it waits for commands, the stream, the search and the clock, and lets `session.rs`
//! decide. Nothing here blocks on the network: a full stream leaves messages in the session's queue.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::meta::v1::refused::Kind;
use caribou_proto::meta::v1::{ClientMessage, Refused, ServerMessage};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, Sleep};

use super::call::Command;
use super::finder::{Finder, Found, Greeting, pause};
use super::liveness::Silence;
use super::releases::Releases;
use super::session::{Session, Step};
use super::status::Board;
use super::{Environment, Link, MetaEvent, TransportError};
use crate::ClientConfig;

/// Commands, and messages, handled before the others get their turn.
const BATCH: usize = 256;
/// With more calls than this unanswered, others are likely to be about to come.
const FEW_CALLS: usize = 2;
/// A stream that ends within this time counts as short.
const SHORT_STREAM: Duration = Duration::from_secs(1);
/// How often a search without success is logged.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

pub(crate) struct TaskParts {
    pub(crate) config: ClientConfig,
    pub(crate) environment: Environment,
    pub(crate) inbox: mpsc::UnboundedReceiver<Command>,
    pub(crate) releases: Releases,
    pub(crate) events: broadcast::Sender<MetaEvent>,
    pub(crate) board: Board,
}

struct Task {
    session: Session,
    finder: Finder,
    sender: Option<mpsc::Sender<ClientMessage>>,
    receiver: Option<BoxStream<'static, Result<ServerMessage, TransportError>>>,
    leader: Option<String>,
    board: Board,
    complain_at: Instant,
    began_at: Instant,
    /// Streams in a row that ended soon after they began.
    short_streams: u32,
    /// Goes off at the next look or before it.
    clock: Pin<Box<Sleep>>,
}

// Lives from one `select!` to the next: boxing its largest variant would cost an allocation per message.
#[allow(clippy::large_enum_variant)]
enum Event {
    Commands(usize),
    Message(Option<Result<ServerMessage, TransportError>>),
    Room,
    Found(Found),
    Clock,
}

/// Runs until [`Command::Close`], or until no handle is left.
pub(crate) async fn run(parts: TaskParts) {
    let TaskParts { config, environment, mut inbox, releases, events, board } = parts;
    let session = Session::new(&config, Arc::clone(&environment.random), releases, events, board.clone());
    let mut task = Task {
        session,
        finder: Finder::new(environment.transport, config.meta, board.clone()),
        sender: None,
        receiver: None,
        leader: None,
        board,
        complain_at: Instant::now() + COMPLAIN_EVERY,
        began_at: Instant::now(),
        short_streams: 0,
        clock: Box::pin(tokio::time::sleep_until(Instant::now())),
    };
    task.search(None);
    let mut commands = Vec::with_capacity(BATCH);
    loop {
        match task.next_event(&mut inbox, &mut commands).await {
            Event::Commands(0) => return,
            Event::Commands(_) => {
                if task.session.unanswered() > FEW_CALLS {
                    gather(&mut inbox, &mut commands).await;
                }
                for command in commands.drain(..) {
                    if matches!(command, Command::Close) {
                        task.session.ending(Instant::now());
                        task.flush();
                        return;
                    }
                    task.session.command(command);
                }
            }
            Event::Message(message) => task.messages(message),
            Event::Found(found) => task.found(found),
            Event::Room | Event::Clock => {}
        }
        task.advance();
    }
}

/// Lets those who are ready to run make their calls, so that these leave in one write and arrive together: this task was woken by the first of them,
/// and would run before them.
async fn gather(inbox: &mut mpsc::UnboundedReceiver<Command>, commands: &mut Vec<Command>) {
    tokio::task::yield_now().await;
    while commands.len() < BATCH
        && let Ok(command) = inbox.try_recv()
    {
        commands.push(command);
    }
}

impl Task {
    async fn next_event(&mut self, inbox: &mut mpsc::UnboundedReceiver<Command>, commands: &mut Vec<Command>) -> Event {
        let stuck = if self.session.outgoing().is_empty() { None } else { self.sender.clone() };
        let searching = self.finder.is_active();
        let look_at = if searching && self.receiver.is_none() {
            self.complain_at
        } else {
            self.session.next_look(Instant::now())
        };
        // Brought forward only: with every call the look is put off again, and a clock that is set for each wakes a thread to wait for it.
        if look_at < self.clock.deadline() || self.clock.is_elapsed() {
            self.clock.as_mut().reset(look_at);
        }
        let receiver = &mut self.receiver;
        tokio::select! {
            count = inbox.recv_many(commands, BATCH) => Event::Commands(count),
            message = async { receiver.as_mut().expect("guarded").next().await }, if receiver.is_some() => Event::Message(message),
            _ = async { stuck.as_ref().expect("guarded").reserve().await.map(drop) }, if stuck.is_some() => Event::Room,
            found = self.finder.next(), if searching => Event::Found(found),
            () = self.clock.as_mut() => Event::Clock,
        }
    }

    /// A message, and those that are there already behind it.
    fn messages(&mut self, first: Option<Result<ServerMessage, TransportError>>) {
        let now = Instant::now();
        let mut message = first;
        for handled in 1.. {
            let step = match message {
                Some(Ok(message)) => self.session.message(message, now),
                Some(Err(error)) => Step::Leave { why: error.0, leader: None },
                None => Step::Leave { why: "the leader ended the stream".to_owned(), leader: None },
            };
            if self.carry_out(step) || handled == BATCH {
                return;
            }
            // Taken only to be handled: what is taken here exists nowhere else.
            match self.receiver.as_mut().and_then(|receiver| receiver.next().now_or_never()) {
                Some(next) => message = next,
                None => return,
            }
        }
    }

    fn found(&mut self, found: Found) {
        match found {
            Found::Leader { address, link, greeting } => self.begin(address, link, greeting),
            Found::Refused { address, refused } => self.refused(&address, &refused),
        }
    }

    fn begin(&mut self, address: String, link: Link, greeting: Greeting) {
        if self.receiver.is_some() {
            self.session.stream_lost();
        }
        if let Greeting::Welcome(welcome) = &greeting {
            self.finder.learn(&welcome.nodes);
            self.finder.identify(&address, welcome.leader_id);
            tracing::info!(leader = address, node = welcome.leader_id, term = welcome.term, "connected to the leader");
        }
        self.began_at = Instant::now();
        self.sender = Some(link.sender);
        self.receiver = Some(link.receiver);
        let nodes = self.finder.addresses();
        self.board.update(|status| {
            status.leader_address.clone_from(&address);
            status.nodes = nodes;
        });
        self.leader = Some(address);
        let step = self.session.stream_began(greeting, Instant::now());
        self.carry_out(step);
        self.board.connected();
    }

    fn refused(&mut self, address: &str, refused: &Refused) {
        let reason = format!("{address} refuses this client: {}", refused.reason);
        let news = self.board.status().refusal != reason;
        if news {
            tracing::warn!(address, reason = refused.reason, kind = ?refused.kind(), "a metadata node refuses this client");
        }
        self.board.update(|status| status.refusal.clone_from(&reason));
        // A node that has not been initialised may become one of the cluster any time: worth waiting for.
        if refused.kind() != Kind::NotInitialised {
            self.board.refused(&reason);
        }
    }

    /// Returns true if the stream was left.
    fn carry_out(&mut self, step: Step) -> bool {
        match step {
            Step::Stay => return false,
            Step::Redial => {
                let leader = self.leader.clone();
                self.leave();
                self.search(leader);
            }
            Step::Leave { why, leader } => {
                let left = self.leader.clone();
                tracing::info!(leader = left, why, "stream to the leader lost");
                self.leave();
                self.search(leader.or(left));
            }
        }
        true
    }

    fn leave(&mut self) {
        let short = self.began_at.elapsed() < SHORT_STREAM;
        self.short_streams = if short { self.short_streams + 1 } else { 0 };
        self.sender = None;
        self.receiver = None;
        self.session.stream_lost();
    }

    fn search(&mut self, hint: Option<String>) {
        self.complain_at = Instant::now() + COMPLAIN_EVERY;
        // The first loss of a stream costs no time; a leader that greets and leaves again and again must not be hammered.
        let delay = if self.short_streams > 1 { pause(self.short_streams) } else { Duration::ZERO };
        self.finder.start(self.session.hello(), hint, None, delay);
    }

    /// After every event: what may be sent is sent, silence is noticed.
    fn advance(&mut self) {
        let now = Instant::now();
        self.session.advance(now);
        self.flush();
        match self.session.silence(now) {
            Silence::None if self.receiver.is_some() => {
                if self.finder.is_active() {
                    self.finder.stop(); // it spoke again
                }
            }
            Silence::None => self.complain(now),
            Silence::Search if !self.finder.is_active() => {
                tracing::info!(leader = self.leader, "the leader is silent; searching among the others");
                self.finder.start(self.session.hello(), None, self.leader.clone(), Duration::ZERO);
            }
            Silence::Search => {}
            Silence::GiveUp => {
                tracing::info!(leader = self.leader, "the leader is silent; leaving it");
                self.leave();
                self.search(None);
            }
        }
    }

    fn flush(&mut self) {
        let Some(sender) = self.sender.clone() else { return };
        let queue = self.session.outgoing();
        while !queue.is_empty() {
            match sender.try_reserve() {
                Ok(permit) => permit.send(queue.pop_front().expect("it is not empty")),
                Err(TrySendError::Full(())) => return,
                Err(TrySendError::Closed(())) => {
                    // The receiver will say why; until then nothing can be sent.
                    self.sender = None;
                    return;
                }
            }
        }
    }

    fn complain(&mut self, now: Instant) {
        if now >= self.complain_at {
            self.complain_at = now + COMPLAIN_EVERY;
            let status = self.board.status();
            tracing::warn!(nodes = ?self.finder.addresses(), refusal = status.refusal, "still no metadata leader; calls wait");
        }
    }
}
