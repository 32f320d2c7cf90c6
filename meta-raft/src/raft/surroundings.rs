//! What a node takes from outside besides its folder: the way to other nodes, the time of day, and where work that blocks is done.
//! A process has TCP, the system's clock and threads; a simulation brings its own, runs everything on one thread and may pause tokio's clock.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt as _;
use tower::util::BoxCloneSyncService;

use super::network::peers;

/// A connection to one node, made when the first message goes out.
pub type Line = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;
/// Makes a line to `host:port`, or says what is wrong with the address.
pub type Dial = Arc<dyn Fn(&str) -> Result<Line, String> + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub struct Surroundings {
    pub dial: Dial,
    /// Nanoseconds since 1970.
    pub now_ns: Arc<dyn Fn() -> i64 + Send + Sync>,
    pub blocking: Blocking,
}

/// Where work that may wait for a disk is done.
#[derive(Clone)]
pub enum Blocking {
    /// On threads of its own, Raft on a runtime of its own.
    Threads,
    /// At once, on the caller's task and the caller's runtime; the disk is in memory. A write of the log takes this long, and is not on disk before.
    Inline { sync_time: Arc<dyn Fn() -> Duration + Send + Sync> },
}

impl Default for Surroundings {
    fn default() -> Self {
        let now_ns = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            since.map_or(0, |d| i64::try_from(d.as_nanos()).unwrap_or(0))
        };
        let dial = |address: &str| {
            let failed = |error| Status::from_error(Box::new(error));
            Ok(Line::new(peers::connect(address)?.map_err(failed)))
        };
        Self { dial: Arc::new(dial), now_ns: Arc::new(now_ns), blocking: Blocking::Threads }
    }
}

impl fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "surroundings, work that blocks {:?}", self.blocking)
    }
}

impl fmt::Debug for Blocking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Threads => "on threads",
            Self::Inline { .. } => "inline",
        })
    }
}

impl Blocking {
    /// Does the work and waits for it. An error if it panics.
    pub(crate) async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> io::Result<T> {
        match self {
            Self::Threads => tokio::task::spawn_blocking(work).await.map_err(io::Error::other),
            Self::Inline { .. } => Ok(work()),
        }
    }

    /// Does brief work on this very thread of a runtime with several.
    pub(crate) fn here<T>(&self, work: impl FnOnce() -> T) -> T {
        match self {
            Self::Threads => tokio::task::block_in_place(work),
            Self::Inline { .. } => work(),
        }
    }
}
