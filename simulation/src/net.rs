//! The network of one process: gRPC calls between hosts without sockets, through the real services and the real encodings.
//!
//! A call is a connection: its two bodies are carried frame by frame, in order, as over TCP. Frames take time, and more when one is lost (it
//! is sent again). Between two hosts nothing arrives while the line is blocked, and both sides notice after a while, as HTTP/2 keep-alive
//! does. A host that dies breaks all its calls at once. Nothing arrives twice or out of order: TCP does not do that either; what is sent
//! again after a break is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_meta_raft::raft::Line;
use http_body_util::{BodyExt as _, StreamBody};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tonic::service::Routes;
use tower::Service as _;

type Frame = http_body::Frame<Bytes>;

/// Frames on their way in one direction of a call.
const FRAMES: usize = 64;
/// How long a line may be blocked before both sides take it for broken.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// After how long TCP sends a lost segment again.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// How lines are between all hosts.
#[derive(Clone, Debug)]
pub struct Weather {
    pub latency_min: Duration,
    pub latency_max: Duration,
    /// The part of all frames that is lost at first.
    pub loss: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { latency_min: Duration::from_micros(50), latency_max: Duration::from_micros(300), loss: 0.0 }
    }
}

struct Host {
    routes: Option<Routes>,
    life: CancellationToken,
}

struct Inner {
    rng: StdRng,
    hosts: BTreeMap<String, Host>,
    /// From, to; since when.
    blocked: BTreeMap<(String, String), Instant>,
    weather: Weather,
}

/// See the module.
pub struct Net {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
}

/// One direction of a call.
#[derive(Clone)]
struct Path {
    net: Arc<Net>,
    from: String,
    to: String,
    lives: [CancellationToken; 2],
}

fn gone(host: &str) -> Status {
    Status::unavailable(format!("{host} cannot be reached"))
}

impl Net {
    pub fn new(seed: u64) -> Arc<Self> {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            hosts: BTreeMap::new(),
            blocked: BTreeMap::new(),
            weather: Weather::default(),
        };
        Arc::new(Self { inner: Mutex::new(inner), changes: watch::Sender::new(0) })
    }

    /// Brings a host up; one that only calls others has no routes.
    pub fn add(&self, host: &str, routes: Option<Routes>) {
        let host_row = Host { routes, life: CancellationToken::new() };
        if let Some(old) = self.inner.lock().hosts.insert(host.to_owned(), host_row) {
            old.life.cancel();
        }
    }

    /// A host dies: its calls break, and nobody answers there any more.
    pub fn remove(&self, host: &str) {
        if let Some(old) = self.inner.lock().hosts.remove(host) {
            old.life.cancel();
        }
    }

    /// Nothing arrives from one host at another, or everything does again.
    pub fn block(&self, from: &str, to: &str, blocked: bool) {
        let pair = (from.to_owned(), to.to_owned());
        {
            let mut inner = self.inner.lock();
            if blocked {
                inner.blocked.entry(pair).or_insert_with(Instant::now);
            } else {
                inner.blocked.remove(&pair);
            }
        }
        self.changes.send_modify(|n| *n += 1);
    }

    pub fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    /// All lines as they are at first.
    pub fn heal(&self) {
        {
            let mut inner = self.inner.lock();
            inner.blocked.clear();
            inner.weather = Weather::default();
        }
        self.changes.send_modify(|n| *n += 1);
    }

    /// A client's side of calls from one host to another.
    pub fn line(self: &Arc<Self>, from: &str, to: &str) -> Line {
        let (net, from, to) = (Arc::clone(self), from.to_owned(), to.to_owned());
        Line::new(tower::service_fn(move |request| Arc::clone(&net).call(from.clone(), to.clone(), request)))
    }

    async fn call(
        self: Arc<Self>,
        from: String,
        to: String,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        let mut there = self.path(&from, &to)?;
        there.pass().await?;
        // Whoever is there when it arrives.
        there = self.path(&from, &to)?;
        let back = Path { from: to.clone(), to: from, ..there.clone() };
        let routes = self.inner.lock().hosts.get(&to).and_then(|host| host.routes.clone());
        let mut routes = routes.ok_or_else(|| gone(&to))?;
        let request = request.map(|body| there.carry(body));
        let response = tokio::select! {
            response = routes.call(request) => response.unwrap_or_else(|never| match never {}),
            () = back.broken() => return Err(gone(&to)),
        };
        back.pass().await?;
        Ok(response.map(|body| back.carry(body)))
    }

    fn path(self: &Arc<Self>, from: &str, to: &str) -> Result<Path, Status> {
        let inner = self.inner.lock();
        let life = |host: &str| inner.hosts.get(host).map(|h| h.life.clone()).ok_or_else(|| gone(host));
        let lives = [life(from)?, life(to)?];
        Ok(Path { net: Arc::clone(self), from: from.to_owned(), to: to.to_owned(), lives })
    }
}

impl Path {
    /// Since when nothing arrives, in one of the directions.
    fn blocked_since(&self, both: bool) -> Option<Instant> {
        let inner = self.net.inner.lock();
        let there = inner.blocked.get(&(self.from.clone(), self.to.clone()));
        let back = inner.blocked.get(&(self.to.clone(), self.from.clone())).filter(|_| both);
        [there, back].into_iter().flatten().min().copied()
    }

    /// Returns when a host has died or the line has been blocked for too long.
    async fn broken(&self) {
        let dead = async {
            tokio::select! {
                () = self.lives[0].cancelled() => {}
                () = self.lives[1].cancelled() => {}
            }
        };
        let mut changes = self.net.changes.subscribe();
        let silent = async {
            loop {
                changes.borrow_and_update();
                match self.blocked_since(true) {
                    Some(since) => tokio::select! {
                        () = tokio::time::sleep_until(since + KEEP_ALIVE) => return,
                        _ = changes.changed() => {}
                    },
                    None => drop(changes.changed().await),
                }
            }
        };
        tokio::select! {
            () = dead => {}
            () = silent => {}
        }
    }

    /// The time that one frame takes.
    async fn pass(&self) -> Result<(), Status> {
        let time = {
            let mut inner = self.net.inner.lock();
            let Weather { latency_min, latency_max, loss } = inner.weather.clone();
            let latency = inner.rng.random_range(latency_min..=latency_max);
            if loss > 0.0 && inner.rng.random_bool(loss) { latency + RETRANSMIT } else { latency }
        };
        let arrives = async {
            tokio::time::sleep(time).await;
            let mut changes = self.net.changes.subscribe();
            while self.blocked_since(false).is_some() {
                let _ = changes.changed().await;
            }
        };
        tokio::select! {
            biased;
            () = self.broken() => Err(gone(&self.to)),
            () = arrives => Ok(()),
        }
    }

    fn carry(&self, mut body: Body) -> Body {
        let (sender, receiver) = mpsc::channel::<Result<Frame, Status>>(FRAMES);
        let path = self.clone();
        tokio::spawn(async move {
            loop {
                let frame = tokio::select! {
                    biased;
                    () = sender.closed() => return,
                    () = path.broken() => Some(Err(gone(&path.from))),
                    frame = body.frame() => frame,
                };
                let Some(frame) = frame else { return };
                let is_last = frame.is_err();
                let frame = match frame {
                    Ok(frame) => path.pass().await.map(|()| frame),
                    Err(status) => Err(status),
                };
                let is_last = is_last || frame.is_err();
                if sender.send(frame).await.is_err() || is_last {
                    return;
                }
            }
        });
        Body::new(StreamBody::new(ReceiverStream::new(receiver)))
    }
}
