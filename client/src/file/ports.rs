//! What the files need from outside, as traits: the metadata session and the wall clock. (The transport to chunk servers is
//! [`crate::chunk::Transport`]; time that passes is tokio's, so that a paused clock moves everything here.) Production
//! implementations are at the end; tests and simulations bring their own.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use caribou_proto::cluster::v1::ClusterId;
use caribou_proto::ids::SessionId;
use caribou_proto::meta::v1::{Caller, ReplyBody, mutation};
use futures::future::BoxFuture;
use tokio::sync::broadcast;

use crate::chunk::{GrpcTransport, Transport};
use crate::meta::{MetaEvent, QueryOp};
use crate::{Error, MetaClient};

/// The metadata session as the files use it; see [`MetaClient`] for what each call promises.
pub trait Metadata: Send + Sync + 'static {
    /// A logged mutation (S1). Dropping the future gives it up (S5).
    fn mutate(&self, caller: Caller, op: mutation::Op) -> BoxFuture<'static, Result<ReplyBody, Error>>;
    /// As [`Self::mutate`], without the soft timeout: for calls that must not be carried out later than others that come after them.
    fn mutate_patiently(&self, caller: Caller, op: mutation::Op) -> BoxFuture<'static, Result<ReplyBody, Error>>;
    /// A read at the leader.
    fn query(&self, caller: Caller, op: QueryOp) -> BoxFuture<'static, Result<ReplyBody, Error>>;
    /// S7: one more open handle.
    fn open_claim(&self, caller: Caller, inode: u64, access: u32) -> BoxFuture<'static, Result<ReplyBody, Error>>;
    /// S7: one less.
    fn release_claim(&self, inode: u64);
    /// Recalls and changes of the session.
    fn events(&self) -> broadcast::Receiver<MetaEvent>;
    /// S4: the session that expired last; 0: none. Ids rise. Known before the first answer of the next one.
    fn expired_session(&self) -> SessionId;
    /// F1.
    fn cluster(&self) -> ClusterId;
    /// A number that differs between clients.
    fn seed(&self) -> u64;
    /// I1: bytes of a file that may be written into the metadata; 0: none.
    fn inline_limit(&self) -> u32;
}

/// The time of day, for modification times. Nothing is decided by it.
pub trait WallClock: Send + Sync + 'static {
    /// Nanoseconds since 1970.
    fn now_ns(&self) -> i64;
}

/// Everything from outside, for [`super::Files::new_in`].
#[derive(Clone)]
pub struct Ports {
    /// The metadata session.
    pub meta: Arc<dyn Metadata>,
    /// Streams to chunk servers.
    pub transport: Arc<dyn Transport>,
    /// The time of day.
    pub clock: Arc<dyn WallClock>,
}

impl Ports {
    pub(crate) fn production(meta: MetaClient) -> Self {
        Self { meta: Arc::new(meta), transport: Arc::new(GrpcTransport), clock: Arc::new(SystemClock) }
    }
}

impl Metadata for MetaClient {
    fn mutate(&self, caller: Caller, op: mutation::Op) -> BoxFuture<'static, Result<ReplyBody, Error>> {
        let client = self.clone();
        Box::pin(async move { Self::mutate(&client, &caller, op).await })
    }

    fn mutate_patiently(&self, caller: Caller, op: mutation::Op) -> BoxFuture<'static, Result<ReplyBody, Error>> {
        let client = self.clone();
        Box::pin(async move { Self::mutate_patiently(&client, &caller, op).await })
    }

    fn query(&self, caller: Caller, op: QueryOp) -> BoxFuture<'static, Result<ReplyBody, Error>> {
        let client = self.clone();
        Box::pin(async move { Self::query(&client, &caller, op).await })
    }

    fn open_claim(&self, caller: Caller, inode: u64, access: u32) -> BoxFuture<'static, Result<ReplyBody, Error>> {
        let client = self.clone();
        Box::pin(async move { Self::open_claim(&client, &caller, inode, access).await })
    }

    fn release_claim(&self, inode: u64) {
        Self::release_claim(self, inode);
    }

    fn events(&self) -> broadcast::Receiver<MetaEvent> {
        Self::events(self)
    }

    fn expired_session(&self) -> SessionId {
        Self::expired_session(self)
    }

    fn cluster(&self) -> ClusterId {
        Self::cluster(self)
    }

    fn seed(&self) -> u64 {
        self.session_id().0
    }

    fn inline_limit(&self) -> u32 {
        Self::inline_limit(self)
    }
}

/// The system's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now_ns(&self) -> i64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    }
}

/// Calls that the client makes on its own account: write-back is not subject to the permissions of whoever wrote.
pub(crate) fn own_caller() -> Caller {
    Caller { uid: 0, gid: 0, groups: Vec::new() }
}
