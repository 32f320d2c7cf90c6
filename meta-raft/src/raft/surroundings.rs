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

    /// Drops something whose end may wait for a disk, without waiting for it. Within a runtime only.
    pub(crate) fn let_go<T: Send + 'static>(&self, value: T) {
        match self {
            Self::Threads => drop(tokio::task::spawn_blocking(move || drop(value))),
            Self::Inline { .. } => drop(value),
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

#[cfg(test)]
mod tests {
    use std::thread::{self, ThreadId};

    use tokio::sync::oneshot;

    use super::*;

    /// Tells on which thread it ends.
    struct Last(Option<oneshot::Sender<ThreadId>>);

    impl Drop for Last {
        fn drop(&mut self) {
            let told = self.0.take().map(|end| end.send(thread::current().id()));
            assert!(told.is_some_and(|sent| sent.is_ok()));
        }
    }

    #[tokio::test]
    async fn what_may_wait_for_a_disk_ends_where_that_holds_up_nobody() {
        let own = thread::current().id();
        let (end, ended) = oneshot::channel();
        Blocking::Threads.let_go(Last(Some(end)));
        assert_ne!(ended.await.unwrap(), own);
        // A simulation has one thread, and stays in order.
        let (end, mut ended) = oneshot::channel();
        Blocking::Inline { sync_time: Arc::new(|| Duration::ZERO) }.let_go(Last(Some(end)));
        assert_eq!(ended.try_recv().unwrap(), own);
    }
}
