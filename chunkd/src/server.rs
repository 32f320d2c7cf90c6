//! A chunk server without its surroundings: the parts put together, housekeeping, the orderly end.
//!
//! Store, clock and transport are arguments, so that a simulation runs this very code. It does not bind sockets or read
//! configuration (`run`, `listen`), and it decides nothing about chunks (`service`, `recover`).

use crate::attach::Refusal;
use crate::chain::{Chain, Timeouts};
use crate::clock::Clock;
use crate::config::Config;
use crate::control;
use crate::lease::ReadLease;
use crate::limits;
use crate::peers::Peers;
use crate::recover::Commands;
use crate::service::streams::Streams;
use crate::service::{read, write};
use crate::stats::Stats;
use crate::store::ChunkStore;
use caribou_proto::chunk::v1::{ReadReply, ReadRequest, WriteAck, WriteFragment};
use futures::Stream;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Interval, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

/// What a chunk server is made of.
pub struct Parts {
    /// The replicas.
    pub store: Arc<ChunkStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Other chunk servers and metadata nodes.
    pub peers: Arc<dyn Peers>,
    /// Times and sizes.
    pub settings: Settings,
}

/// What of the configuration matters after the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where others reach this server.
    pub data_address: String,
    /// How long connecting to another chunk server may take.
    pub connect_timeout: Duration,
    /// How long the rest of a chain may take for a fragment.
    pub ack_timeout: Duration,
    /// How long the source of a copy may stay silent.
    pub fetch_timeout: Duration,
    /// Bytes that a copy has under way.
    pub fetch_window_bytes: u64,
    /// Copies at once.
    pub parallel_fixes: usize,
    /// Memory for fragments, for each distance from a chain's end.
    pub write_buffer_bytes: usize,
    /// How long the quarantine keeps deleted replicas.
    pub quarantine: Duration,
    /// How often the quarantine is looked through.
    pub quarantine_scan: Duration,
}

impl Settings {
    /// The settings of a configuration.
    pub fn of(config: &Config) -> Self {
        Self {
            data_address: config.advertised().to_owned(),
            connect_timeout: config.chain.connect_timeout,
            ack_timeout: config.chain.ack_timeout,
            fetch_timeout: config.recovery.fetch_timeout,
            fetch_window_bytes: config.recovery.window.as_u64(),
            parallel_fixes: config.recovery.parallel,
            write_buffer_bytes: usize::try_from(config.write_buffer.as_u64()).unwrap_or(usize::MAX),
            quarantine: config.store.quarantine,
            quarantine_scan: config.store.quarantine_scan,
        }
    }
}

/// One chunk server.
pub struct ChunkServer {
    pub(crate) store: Arc<ChunkStore>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) peers: Arc<dyn Peers>,
    pub(crate) settings: Settings,
    pub(crate) lease: ReadLease,
    pub(crate) streams: Streams,
    pub(crate) chain: Arc<Chain>,
    pub(crate) commands: Commands,
    pub(crate) stats: Stats,
    /// Memory budgets for fragments, by the number of members behind.
    pub(crate) lanes: Vec<Arc<Semaphore>>,
    /// Everything that has to be finished before the store is closed.
    pub(crate) work: TaskTracker,
    pub(crate) closing: CancellationToken,
}

impl ChunkServer {
    /// Puts the parts together. Nothing runs before somebody writes, reads, or calls [`Self::follow_leader`].
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { store, clock, peers, settings } = parts;
        let timeouts = Timeouts { connect: settings.connect_timeout, ack: settings.ack_timeout };
        let lane = |_| Arc::new(Semaphore::new(settings.write_buffer_bytes));
        Arc::new(Self {
            lease: ReadLease::new(clock.clone()),
            streams: Streams::default(),
            chain: Chain::new(peers.clone(), timeouts),
            commands: Commands::new(settings.parallel_fixes),
            stats: Stats::default(),
            lanes: (0..limits::CHAIN_MEMBERS).map(lane).collect(),
            work: TaskTracker::new(),
            closing: CancellationToken::new(),
            store,
            clock,
            peers,
            settings,
        })
    }

    /// Serves a write stream (W3); the acks end with the fragments, or when the server closes.
    pub fn write<S>(self: &Arc<Self>, fragments: S) -> BoxStream<'static, WriteAck>
    where
        S: Stream<Item = WriteFragment> + Send + 'static,
    {
        write::serve(self, fragments)
    }

    /// Serves a read stream (R1); the replies end with the requests, or when the server closes.
    pub fn read<S>(self: &Arc<Self>, requests: S) -> BoxStream<'static, ReadReply>
    where
        S: Stream<Item = ReadRequest> + Send + 'static,
    {
        read::serve(self, requests)
    }

    /// The replicas.
    pub fn store(&self) -> &Arc<ChunkStore> {
        &self.store
    }

    /// Finds the leader among these nodes and those that it names, and follows it until the server closes (F2).
    pub async fn follow_leader(self: Arc<Self>, meta: Vec<String>) -> Result<(), Refusal> {
        let work = self.work.clone();
        work.track_future(control::follow(self, meta)).await
    }

    /// Whether readers are answered now (F2).
    pub fn has_lease(&self) -> bool {
        self.lease.is_valid()
    }

    /// The store's ticks, the quarantine, a line of figures a minute; until the server closes.
    pub async fn keep_house(self: Arc<Self>) {
        let work = self.work.clone();
        work.track_future(futures::future::join(self.housekeeping(), self.purging())).await;
    }

    async fn housekeeping(&self) {
        let mut tick = every(limits::STORE_TICK);
        let mut figures = every(limits::FIGURES_INTERVAL);
        let mut said = self.stats.snapshot();
        loop {
            tokio::select! {
                _ = tick.tick() => self.store.tick(self.clock.now_ns() / 1_000_000).await,
                _ = figures.tick() => {
                    let now = self.stats.snapshot();
                    if now != said {
                        let (writing, broken) = self.streams.counts();
                        debug!(figures = ?now, chunks_being_written = writing, broken_grants = broken, "since the start");
                        said = now;
                    }
                }
                () = self.closing.cancelled() => return,
            }
        }
    }

    /// Beside the store's ticks: on a slow disk much takes long.
    async fn purging(&self) {
        let mut scan = every(self.settings.quarantine_scan);
        loop {
            let purge = async {
                scan.tick().await;
                self.store.purge_quarantine(self.clock.unix_ms(), self.settings.quarantine).await
            };
            let purged = tokio::select! {
                purged = purge => purged,
                () = self.closing.cancelled() => return,
            };
            if purged.files > 0 {
                info!(purged.files, purged.kept, "unlinked files that were in the quarantine for long enough");
            }
        }
    }

    /// The orderly end: takes nothing new, finishes what is under way, syncs, and leaves the mark of a clean stop.
    pub async fn close(&self) {
        self.closing.cancel();
        self.work.close();
        if tokio::time::timeout(limits::DRAIN_TIMEOUT, self.work.wait()).await.is_err() {
            // What still runs may write after the mark: better no mark.
            warn!("some requests were not finished in time; this counts as an unclean stop");
            return;
        }
        self.store.close().await;
    }
}

/// Ticks that do not come faster after one was late.
fn every(period: Duration) -> Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
