//! The handle on the session that everything else in the client shares. It owns no state: it hands commands to the one
//! session task (`task.rs`) and waits for their answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caribou_proto::cluster::v1::ClusterId;
use caribou_proto::ids::SessionId;
use caribou_proto::meta::v1::{Caller, Open, ReplyBody, mutation};
use tokio::sync::{Semaphore, broadcast, mpsc, oneshot};

use super::call::{CallId, CallResult, Command, PendingCall, Replier, shut_down};
use super::releases::Releases;
use super::status::Board;
use super::task::{self, TaskParts};
use super::{GrpcTransport, MetaEvent, MetaStatus, QueryOp, Transport};
use crate::{ClientConfig, Error};

/// Calls of one client on their way at once; more wait here. (Logged ones are bounded further by the window, S2.)
const MAX_CALLS: usize = 8192;
/// Events that a slow receiver may be behind before it misses some.
const EVENT_QUEUE: usize = 1024;

/// What the session takes from outside. The clock is tokio's.
#[derive(Clone)]
pub struct Environment {
    /// Opens streams.
    pub transport: Arc<dyn Transport>,
    /// 16 fresh random bytes: the name of an opening of a session.
    pub random: Arc<dyn Fn() -> [u8; 16] + Send + Sync>,
}

impl Default for Environment {
    fn default() -> Self {
        Self { transport: Arc::new(GrpcTransport::default()), random: Arc::new(|| uuid::Uuid::new_v4().into_bytes()) }
    }
}

/// The session with the leader. Cheap to clone; when the last clone is dropped its task ends, and the session with its TTL.
#[derive(Clone)]
pub struct MetaClient {
    shared: Arc<Shared>,
}

struct Shared {
    commands: mpsc::UnboundedSender<Command>,
    releases: Releases,
    calls: Arc<Semaphore>,
    next_call: AtomicU64,
    events: broadcast::Sender<MetaEvent>,
    board: Board,
    soft: Option<Duration>,
    addresses: String,
}

impl MetaClient {
    /// Finds the leader over gRPC and opens a session.
    ///
    /// # Errors
    /// [`Error::Refused`] when a node refuses this client for good; [`Error::Unavailable`] after the soft timeout.
    pub async fn connect(config: &ClientConfig) -> Result<Self, Error> {
        Self::connect_in(config, Environment::default()).await
    }

    /// As [`Self::connect`], with transport and randomness from the caller: for tests and simulations.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub async fn connect_in(config: &ClientConfig, environment: Environment) -> Result<Self, Error> {
        if config.meta.is_empty() {
            return Err(Error::Refused("no metadata node is given; name at least one as host:port".to_owned()));
        }
        let (commands, inbox) = mpsc::unbounded_channel();
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let (board, releases) = (Board::default(), Releases::default());
        let parts = TaskParts {
            config: config.clone(),
            environment,
            inbox,
            releases: releases.clone(),
            events: events.clone(),
            board: board.clone(),
        };
        tokio::spawn(task::run(parts));
        let client = Self {
            shared: Arc::new(Shared {
                commands,
                releases,
                calls: Arc::new(Semaphore::new(MAX_CALLS)),
                next_call: AtomicU64::new(1),
                events,
                board,
                soft: config.soft,
                addresses: config.meta.join(", "),
            }),
        };
        client.connected().await?;
        Ok(client)
    }

    /// A logged mutation. Sent with one `seq` until its reply is known, across streams and failovers (S1, S4).
    /// Dropping the future gives the call up: a cancel is sent, and the outcome is unknown (S5).
    ///
    /// # Errors
    /// [`Error::Errno`] as the file system decided; [`Error::Unavailable`] after the soft timeout, outcome unknown.
    pub async fn mutate(&self, caller: &Caller, op: mutation::Op) -> Result<ReplyBody, Error> {
        let caller = caller.clone();
        let claims = matches!(op, mutation::Op::Create(_));
        self.call(claims, |call, reply| Command::Mutate { call, caller, op, reply }).await
    }

    /// As [`Self::mutate`], without the soft timeout.
    ///
    /// # Errors
    /// [`Error::Errno`] as the file system decided.
    pub async fn mutate_patiently(&self, caller: &Caller, op: mutation::Op) -> Result<ReplyBody, Error> {
        let caller = caller.clone();
        self.call_patiently(false, |call, reply| Command::Mutate { call, caller, op, reply }).await
    }

    /// A read at the leader; asked again on a new stream until it is answered.
    ///
    /// # Errors
    /// As [`Self::mutate`].
    pub async fn query(&self, caller: &Caller, op: QueryOp) -> Result<ReplyBody, Error> {
        let caller = caller.clone();
        self.call(false, |call, reply| Command::Query { call, caller, op, reply }).await
    }

    /// Registers a claim for one open handle (S7). `access`: bits 4 read, 2 write, 1 execute. The answer has the attributes, and for a reader
    /// where the first bytes are.
    ///
    /// # Errors
    /// ESTALE for an inode without links, EACCES; else as [`Self::mutate`].
    pub async fn open_claim(&self, caller: &Caller, inode: u64, access: u32) -> Result<ReplyBody, Error> {
        let caller = caller.clone();
        let open = Open { inode, access, reassert: false };
        self.call(true, |call, reply| Command::Open { call, caller, open, reply }).await
    }

    /// One handle less on this inode; the last one ends the claim (S7).
    pub fn release_claim(&self, inode: u64) {
        if !self.shared.releases.leave(inode) {
            // Fails only when the task has ended, and the claims with it.
            let _ = self.shared.commands.send(Command::ReleaseClaim { inode });
        }
    }

    /// Recalls and changes of session and leader. A receiver that is more than 1024 events behind misses some.
    pub fn events(&self) -> broadcast::Receiver<MetaEvent> {
        self.shared.events.subscribe()
    }

    /// The cluster that this client belongs to (F1).
    pub fn cluster(&self) -> ClusterId {
        self.shared.board.cluster()
    }

    /// I1: bytes of a file that may be written into the metadata, as the leader said last.
    pub fn inline_limit(&self) -> u32 {
        self.shared.board.inline_limit()
    }

    /// The session; another one after an expiry (S4).
    pub fn session_id(&self) -> SessionId {
        self.shared.board.status().session_id
    }

    /// S4: the session that expired last; 0: none. Known before the first answer of the next one.
    pub fn expired_session(&self) -> SessionId {
        self.shared.board.expired_session()
    }

    /// The state of the session now.
    pub fn status(&self) -> MetaStatus {
        self.shared.board.status()
    }

    /// S3: whether the session surely lives, counted from the sending of the last answered renewal. When it does not, whatever
    /// is held under a lease must not be relied on.
    pub fn session_is_certain(&self) -> bool {
        self.shared.board.certain_until().is_some_and(|end| tokio::time::Instant::now() < end)
    }

    /// Ends the task. Calls under way and later ones fail; the session ends with its TTL.
    pub fn close(&self) {
        let _ = self.shared.commands.send(Command::Close);
    }

    async fn call(&self, claims: bool, command: impl FnOnce(CallId, Replier) -> Command) -> CallResult {
        let work = self.call_patiently(claims, command);
        match self.shared.soft {
            None => work.await,
            Some(soft) => match tokio::time::timeout(soft, work).await {
                Ok(result) => result,
                Err(_) => Err(Error::Unavailable(format!(
                    "no answer from the metadata nodes ({}) within {soft:?}; the call may still take effect",
                    self.shared.addresses
                ))),
            },
        }
    }

    async fn call_patiently(&self, claims: bool, command: impl FnOnce(CallId, Replier) -> Command) -> CallResult {
        let permit = self.shared.calls.clone().acquire_owned().await.expect("this semaphore is never closed");
        let id = self.shared.next_call.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.shared.commands.send(command(id, reply)).map_err(|_| shut_down())?;
        PendingCall::new(id, claims, answer, self.shared.commands.clone(), permit).wait().await
    }

    /// Waits for the first connection.
    async fn connected(&self) -> Result<(), Error> {
        let wait = self.shared.board.first_connection();
        let result = match self.shared.soft {
            None => wait.await,
            Some(soft) => match tokio::time::timeout(soft, wait).await {
                Ok(result) => result,
                Err(_) => Err(Error::Unavailable(self.shared.board.why_not_connected(&self.shared.addresses, soft))),
            },
        };
        if result.is_err() {
            self.close();
        }
        result
    }
}
