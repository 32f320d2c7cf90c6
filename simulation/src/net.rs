//! The network of one process: gRPC calls between hosts without sockets, through the real services and the real encodings.
//!
//! A call is a connection: its two bodies are carried frame by frame, in order, as over TCP, many of them under way at a time. Frames take
//! time, in whole milliseconds, because the paused clock knows no others, and more when one is lost (it is sent again). Between two hosts nothing arrives while the line is blocked, and both sides notice after a while, as HTTP/2 keep-alive
//! does. A host that dies breaks all its calls at once, and its lines lead nowhere from then on. Nothing arrives twice or out of order: TCP does not do that either; what is sent
//! again after a break is.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

use crate::fencing;
use crate::findings::Findings;
use crate::record::{Stream, Way};

type Frame = http_body::Frame<Bytes>;

/// One gRPC call.
#[derive(Clone)]
struct Call {
    number: u64,
    method: Arc<str>,
    /// If its messages are kept.
    stream: Option<Stream>,
}

/// Frames on their way in one direction of a call.
const FRAMES: usize = 64;
/// How long a line may be blocked before both sides take it for broken.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// After how long TCP sends a lost segment again.
const RETRANSMIT: Duration = Duration::from_millis(200);

/// How lines are between all hosts.
#[derive(Clone, Debug)]
pub struct Weather {
    pub latency_ms: RangeInclusive<u64>,
    /// The part of all frames that is lost at first.
    pub loss: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { latency_ms: 0..=3, loss: 0.0 }
    }
}

struct Host {
    /// What it serves, once it does.
    routes: Option<Routes>,
    life: Life,
}

/// A machine from its start until it goes down: lines that it makes lead nowhere afterwards, whatever still runs of it.
#[derive(Clone, Debug)]
pub struct Life {
    host: Arc<str>,
    over: CancellationToken,
}

struct Inner {
    rng: StdRng,
    hosts: BTreeMap<Arc<str>, Host>,
    /// From, to; since when.
    blocked: BTreeMap<(Arc<str>, Arc<str>), Instant>,
    weather: Weather,
}

/// See the module.
pub struct Net {
    inner: Mutex<Inner>,
    changes: watch::Sender<u64>,
    calls: AtomicU64,
    findings: Arc<Findings>,
}

/// One direction of a call.
#[derive(Clone)]
struct Path {
    net: Arc<Net>,
    from: Arc<str>,
    to: Arc<str>,
    lives: [Life; 2],
}

fn gone(host: &str) -> Status {
    Status::unavailable(format!("{host} cannot be reached"))
}

impl Net {
    pub fn new(seed: u64, findings: Arc<Findings>) -> Arc<Self> {
        let inner = Inner {
            rng: StdRng::seed_from_u64(seed),
            hosts: BTreeMap::new(),
            blocked: BTreeMap::new(),
            weather: Weather::default(),
        };
        let (changes, calls) = (watch::Sender::new(0), AtomicU64::new(0));
        Arc::new(Self { inner: Mutex::new(inner), changes, calls, findings })
    }

    pub fn findings(&self) -> &Arc<Findings> {
        &self.findings
    }

    /// Brings a host up, which serves nothing yet.
    pub fn add(&self, host: &str) -> Life {
        self.findings.note(|| format!("{host} is up"));
        let life = Life { host: host.into(), over: CancellationToken::new() };
        let row = Host { routes: None, life: life.clone() };
        if let Some(old) = self.inner.lock().hosts.insert(Arc::clone(&life.host), row) {
            old.life.over.cancel();
        }
        life
    }

    /// The host answers calls, if it is still there.
    pub fn serve(&self, life: &Life, routes: Routes) {
        if let Some(row) = self.inner.lock().hosts.get_mut(&life.host).filter(|_| !life.over.is_cancelled()) {
            row.routes = Some(routes);
        }
    }

    /// Cancelled when the host that is up now dies.
    pub fn end_of(&self, host: &str) -> Option<CancellationToken> {
        self.inner.lock().hosts.get(host).map(|host| host.life.over.clone())
    }

    /// A host dies: its calls break, and nobody answers there any more.
    pub fn remove(&self, host: &str) {
        self.findings.note(|| format!("{host} is down"));
        if let Some(old) = self.inner.lock().hosts.remove(host) {
            old.life.over.cancel();
        }
    }

    /// From now on nothing arrives from one host at another. False if that was so already.
    pub fn block(&self, from: &str, to: &str) -> bool {
        self.findings.note(|| format!("nothing from {from} reaches {to}"));
        let pair: (Arc<str>, Arc<str>) = (from.into(), to.into());
        let is_new = match self.inner.lock().blocked.entry(pair) {
            Entry::Vacant(entry) => {
                entry.insert(Instant::now());
                true
            }
            Entry::Occupied(_) => false,
        };
        self.changes.send_modify(|n| *n += 1);
        is_new
    }

    pub fn set_weather(&self, weather: Weather) {
        self.inner.lock().weather = weather;
    }

    /// All lines as they are at first.
    pub fn heal(&self) {
        self.findings.note(|| "all lines are free".to_owned());
        {
            let mut inner = self.inner.lock();
            inner.blocked.clear();
            inner.weather = Weather::default();
        }
        self.changes.send_modify(|n| *n += 1);
    }

    /// A client's side of calls from a machine to a host.
    pub fn line(self: &Arc<Self>, from: &Life, to: &str) -> Line {
        let (net, from, to): (_, _, Arc<str>) = (Arc::clone(self), from.clone(), to.into());
        Line::new(tower::service_fn(move |request| Arc::clone(&net).call(from.clone(), to.clone(), request)))
    }

    async fn call(
        self: Arc<Self>,
        from: Life,
        to: Arc<str>,
        request: http::Request<Body>,
    ) -> Result<http::Response<Body>, Status> {
        self.path(&from, &to)?.pass().await?;
        // Whoever is there when it arrives.
        let there = self.path(&from, &to)?;
        let back = Path { from: to.clone(), to: from.host, ..there.clone() };
        let routes = self.inner.lock().hosts.get(&to).and_then(|host| host.routes.clone());
        let mut routes = routes.ok_or_else(|| gone(&to))?;
        let call = self.number(request.uri().path());
        let request = request.map(|body| there.carry(body, call.clone(), Way::Request));
        let response = tokio::select! {
            response = routes.call(request) => response.unwrap_or_else(|never| match never {}),
            () = back.broken() => return Err(gone(&to)),
        };
        back.pass().await?;
        Ok(response.map(|body| back.carry(body, call, Way::Reply)))
    }

    fn number(&self, path: &str) -> Call {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let method = path.rsplit('/').next().unwrap_or_default().into();
        Call { number, method, stream: Stream::of(path) }
    }

    fn path(self: &Arc<Self>, from: &Life, to: &Arc<str>) -> Result<Path, Status> {
        if from.over.is_cancelled() {
            return Err(gone(&from.host));
        }
        let there = self.inner.lock().hosts.get(to).map(|host| host.life.clone()).ok_or_else(|| gone(to))?;
        Ok(Path { net: Arc::clone(self), from: from.host.clone(), to: to.clone(), lives: [from.clone(), there] })
    }
}

impl Path {
    /// Since when nothing arrives, in one of the directions.
    fn blocked_since(&self, both: bool) -> Option<Instant> {
        let inner = self.net.inner.lock();
        if inner.blocked.is_empty() {
            return None;
        }
        let there = inner.blocked.get(&(self.from.clone(), self.to.clone()));
        let back = inner.blocked.get(&(self.to.clone(), self.from.clone())).filter(|_| both);
        [there, back].into_iter().flatten().min().copied()
    }

    /// Returns when a host has died or the line has been blocked for too long.
    async fn broken(&self) {
        let dead = async {
            tokio::select! {
                () = self.lives[0].over.cancelled() => {}
                () = self.lives[1].over.cancelled() => {}
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

    /// When a frame that leaves now arrives, unless the line is blocked then.
    fn arrival(&self) -> Instant {
        let mut inner = self.net.inner.lock();
        let Weather { latency_ms, loss } = inner.weather.clone();
        let latency = Duration::from_millis(inner.rng.random_range(latency_ms));
        let is_lost = loss > 0.0 && inner.rng.random_bool(loss);
        Instant::now() + if is_lost { latency + RETRANSMIT } else { latency }
    }

    /// Returns when a frame is there.
    async fn arrived(&self, at: Instant) {
        // The clock moves in whole milliseconds, and even sleeping for none takes one.
        if at > Instant::now() {
            tokio::time::sleep_until(at).await;
        }
        if self.blocked_since(false).is_none() {
            return;
        }
        let mut changes = self.net.changes.subscribe();
        while self.blocked_since(false).is_some() {
            let _ = changes.changed().await;
        }
    }

    /// One frame's way.
    async fn pass(&self) -> Result<(), Status> {
        tokio::select! {
            biased;
            () = self.broken() => Err(gone(&self.to)),
            () = self.arrived(self.arrival()) => Ok(()),
        }
    }

    fn carry(self, body: Body, call: Call, way: Way) -> Body {
        let (sender, receiver) = mpsc::channel::<Result<Frame, Status>>(FRAMES);
        tokio::spawn(async move {
            let broken = gone(&self.from);
            let is_broken = {
                let (line, moved) = (self.broken(), self.move_frames(body, (&call, way), &sender));
                tokio::select! {
                    biased;
                    () = line => true,
                    () = moved => false,
                }
            };
            if is_broken {
                let _ = sender.send(Err(broken)).await;
            }
        });
        Body::new(StreamBody::new(ReceiverStream::new(receiver)))
    }

    /// Takes what comes in order to where it goes, until either side has ended.
    async fn move_frames(
        &self,
        mut body: Body,
        (call, way): (&Call, Way),
        sender: &mpsc::Sender<Result<Frame, Status>>,
    ) {
        let mut under_way: VecDeque<(Instant, Result<Frame, Status>)> = VecDeque::new();
        let mut has_ended = false;
        while !has_ended || !under_way.is_empty() {
            let first = under_way.front().map(|(at, _)| *at);
            let arrives = async {
                self.arrived(first.expect("guarded")).await;
                sender.reserve().await
            };
            tokio::select! {
                biased;
                () = sender.closed() => return,
                room = arrives, if first.is_some() => {
                    let (Ok(room), Some((_, frame))) = (room, under_way.pop_front()) else { return };
                    self.arrives(call, way, &frame);
                    room.send(frame);
                }
                frame = body.frame(), if !has_ended && under_way.len() < FRAMES => {
                    has_ended = frame.as_ref().is_none_or(Result::is_err);
                    frame.iter().for_each(|frame| self.leaves(call, way, frame));
                    let at = self.arrival().max(under_way.back().map_or_else(Instant::now, |(at, _)| *at));
                    under_way.extend(frame.map(|frame| (at, frame)));
                }
            }
        }
    }

    fn leaves(&self, call: &Call, way: Way, frame: &Result<Frame, Status>) {
        if let (Some(stream), Some(bytes)) = (call.stream, bytes_of(frame)) {
            fencing::left(&self.net.findings, call.number, (stream, way), bytes);
            if (stream, way) == (Stream::Session, Way::Request) {
                self.net.findings.sessions.left(call.number, bytes);
            }
        }
    }

    fn arrives(&self, call: &Call, way: Way, frame: &Result<Frame, Status>) {
        let findings = &self.net.findings;
        findings.on_trail(|| format!("{} → {} {} {way:?}: {}", self.from, self.to, call.method, told(call, frame)));
        if let (Some(stream), Some(bytes)) = (call.stream, bytes_of(frame)) {
            let at = findings.clock().elapsed_ms();
            findings.record.said(at, &self.from, &self.to, (stream, way), bytes.clone());
            fencing::arrived(findings, call.number, &self.to, (stream, way), bytes);
            let wrong = match (stream, way) {
                (Stream::Attach, Way::Reply) => findings.commands.arrived(&self.from, &self.to, bytes),
                (Stream::Session, Way::Reply) => findings.sessions.arrived(call.number, bytes),
                _ => Vec::new(),
            };
            wrong.into_iter().for_each(|what| findings.violation(what));
        }
    }
}

fn bytes_of(frame: &Result<Frame, Status>) -> Option<&Bytes> {
    frame.as_ref().ok().and_then(Frame::data_ref)
}

/// A frame in a trail's words.
fn told(call: &Call, frame: &Result<Frame, Status>) -> String {
    match (frame, bytes_of(frame)) {
        (Err(status), _) => format!("broken, {}", status.message()),
        (Ok(_), None) => "the end".to_owned(),
        // RocksDB writes times and random numbers into its files.
        (Ok(_), Some(_)) if &*call.method == "Snapshot" => "a piece".to_owned(),
        (Ok(_), Some(bytes)) => format!("{} bytes, {:08x}", bytes.len(), crc32c::crc32c(bytes)),
    }
}
