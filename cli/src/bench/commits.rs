//! Committed operations per second through the client library, without a mount: creates, then unlinks of what was created, with so many
//! calls in flight in one client process.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use caribou_client::{Client, ClientConfig};
use caribou_proto::meta::v1::{Caller, Create, Mkdir, Rmdir, Unlink, mutation::Op};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::figure::{Figure, Latency, Unit};
use super::progress::Progress;

/// The root of every tree.
const ROOT_INODE: u64 = 1;

/// How much of it, and where.
#[derive(Debug, Clone)]
pub struct Load {
    /// `host:port` of metadata nodes.
    pub meta: Vec<String>,
    /// One measurement for each.
    pub in_flight: Vec<usize>,
    /// How long creates are measured; unlinks take as long as they take.
    pub time: Duration,
    /// Without: the files stay, for a cluster that is thrown away.
    pub remove: bool,
}

/// What was seen with so many calls in flight.
#[derive(Debug, Clone, Serialize)]
pub struct Commits {
    pub in_flight: usize,
    pub creates: Figure,
    /// Absent if the files stay.
    pub unlinks: Option<Figure>,
}

/// Measures. All of the load is on one thread, so that the nodes get what is left of a small machine.
pub async fn run(load: Load, progress: Arc<Progress>) -> Result<Vec<Commits>> {
    tokio::task::spawn_blocking(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(measure(&load, &progress))
    })
    .await?
}

async fn measure(load: &Load, progress: &Arc<Progress>) -> Result<Vec<Commits>> {
    let config = ClientConfig { meta: load.meta.clone(), name: "bench".to_owned(), ..ClientConfig::default() };
    let client = Client::connect(config).await?;
    let mut all = Vec::new();
    for &in_flight in &load.in_flight {
        if progress.is_stopped() {
            bail!("stopped");
        }
        let name = format!("caribou-bench-{}", uuid::Uuid::new_v4());
        let mkdir = Mkdir { parent: ROOT_INODE, name: name.clone().into(), mode: 0o755 };
        let made = client.meta().mutate(&caller(), Op::Mkdir(mkdir)).await?;
        let folder = Folder { client: client.clone(), inode: made.attr.context("attributes of a folder")?.inode };
        let commits = folder.measure(in_flight, load, progress).await;
        all.push(commits.with_context(|| format!("the folder {name} of the root was left behind"))?);
        if load.remove {
            client.meta().mutate(&caller(), Op::Rmdir(Rmdir { parent: ROOT_INODE, name: name.into() })).await?;
        }
    }
    client.shutdown().await;
    Ok(all)
}

/// The folder of one measurement.
#[derive(Clone)]
struct Folder {
    client: Client,
    inode: u64,
}

impl Folder {
    async fn measure(&self, in_flight: usize, load: &Load, progress: &Arc<Progress>) -> Result<Commits> {
        progress.begin(&format!("creates, {in_flight} in flight"), 0);
        let (creates, created) = self.create(in_flight, load.time, progress).await?;
        let unlinks = if load.remove {
            progress.begin(&format!("unlinks, {in_flight} in flight"), created);
            Some(self.unlink(in_flight, created, progress).await?)
        } else {
            None
        };
        Ok(Commits { in_flight, creates, unlinks })
    }

    /// The figure, and how many files there are.
    async fn create(&self, in_flight: usize, time: Duration, progress: &Arc<Progress>) -> Result<(Figure, u64)> {
        let (next, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let tasks = (0..in_flight).map(|_| {
            let (this, next, progress) = (self.clone(), next.clone(), progress.clone());
            tokio::spawn(async move {
                let mut nanos = Latency::histogram();
                while started.elapsed() < time && !progress.is_stopped() {
                    this.create_one(next.fetch_add(1, Ordering::Relaxed), &mut nanos).await?;
                    progress.add(1);
                }
                Ok(nanos)
            })
        });
        let nanos = sum(tasks.collect()).await?;
        Ok((figure("create", in_flight, &nanos, started.elapsed()), next.load(Ordering::Relaxed)))
    }

    async fn create_one(&self, number: u64, nanos: &mut Histogram<u64>) -> Result<()> {
        let create = Create {
            parent: self.inode,
            name: format!("file{number}").into(),
            mode: 0o644,
            exclusive: true,
            access: 6,
            ..Create::default()
        };
        let body = self.timed(Op::Create(create), nanos).await?;
        self.client.meta().release_claim(body.attr.map_or(0, |a| a.inode));
        Ok(())
    }

    async fn unlink(&self, in_flight: usize, files: u64, progress: &Arc<Progress>) -> Result<Figure> {
        let (next, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let tasks = (0..in_flight).map(|_| {
            let (this, next, progress) = (self.clone(), next.clone(), progress.clone());
            tokio::spawn(async move {
                let mut nanos = Latency::histogram();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= files {
                        return Ok(nanos);
                    }
                    let unlink = Unlink { parent: this.inode, name: format!("file{number}").into() };
                    this.timed(Op::Unlink(unlink), &mut nanos).await?;
                    progress.add(1);
                }
            })
        });
        let nanos = sum(tasks.collect()).await?;
        Ok(figure("unlink", in_flight, &nanos, started.elapsed()))
    }

    async fn timed(&self, op: Op, nanos: &mut Histogram<u64>) -> Result<caribou_proto::meta::v1::ReplyBody> {
        let started = Instant::now();
        let body = self.client.meta().mutate(&caller(), op).await?;
        Latency::record(nanos, started.elapsed());
        Ok(body)
    }
}

async fn sum(tasks: Vec<tokio::task::JoinHandle<Result<Histogram<u64>>>>) -> Result<Histogram<u64>> {
    let mut nanos = Latency::histogram();
    for task in tasks {
        nanos.add(task.await??)?;
    }
    Ok(nanos)
}

fn figure(workload: &str, in_flight: usize, nanos: &Histogram<u64>, time: Duration) -> Figure {
    Figure {
        workload: workload.to_owned(),
        threads: in_flight,
        placement: None,
        unit: Unit::Operations,
        value: Unit::Operations.value(nanos.len(), time),
        operations: nanos.len(),
        seconds: time.as_secs_f64(),
        latency: Latency::of(nanos),
    }
}

fn caller() -> Caller {
    Caller { uid: 0, gid: 0, groups: vec![] }
}
