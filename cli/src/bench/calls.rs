//! Calls of one client through the library, without a mount: so many in flight, each timed.
//!
//! The first call that fails ends the load: a rate with failures in it says nothing.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use caribou_client::{Client, ClientConfig};
use caribou_proto::meta::v1::{Caller, Create, Mkdir, mutation::Op};
use hdrhistogram::Histogram;

use super::figure::{Figure, Latency, Unit};
use super::progress::Progress;

/// The root of every tree.
pub const ROOT_INODE: u64 = 1;

/// A stream of calls.
#[derive(Debug, Clone, Copy)]
pub struct Calls {
    /// One of them, as `create`.
    pub workload: &'static str,
    pub in_flight: usize,
    pub end: End,
}

/// When it is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By time, or when progress is stopped.
    After(Duration),
    /// When so many are done, whatever happens: what was begun is cleaned up.
    At(u64),
}

impl Calls {
    /// Makes `call` with the numbers from 0 on; the figure's operations say how many numbers were used, each once and successfully.
    ///
    /// # Errors
    /// The first call's that fails.
    pub async fn measure<F>(
        self,
        progress: &Arc<Progress>,
        call: impl Fn(u64) -> F + Clone + Send + 'static,
    ) -> Result<Figure>
    where
        F: Future<Output = Result<()>> + Send,
    {
        let total = if let End::At(total) = self.end { total } else { 0 };
        progress.begin(&format!("{}s, {} in flight", self.workload, self.in_flight), total);
        let (next, started) = (Arc::new(AtomicU64::new(0)), Instant::now());
        let tasks: Vec<_> = (0..self.in_flight)
            .map(|_| {
                let (next, progress, call) = (next.clone(), progress.clone(), call.clone());
                tokio::spawn(async move {
                    let mut nanos = Latency::histogram();
                    while let Some(number) = self.end.next(&next, started, &progress) {
                        let begun = Instant::now();
                        call(number).await?;
                        Latency::record(&mut nanos, begun.elapsed());
                        progress.add(1);
                    }
                    anyhow::Ok(nanos)
                })
            })
            .collect();
        let mut nanos = Latency::histogram();
        for task in tasks {
            nanos.add(task.await??)?;
        }
        Ok(self.figure(&nanos, started.elapsed()))
    }

    fn figure(self, nanos: &Histogram<u64>, time: Duration) -> Figure {
        Figure {
            workload: self.workload.to_owned(),
            threads: self.in_flight,
            placement: None,
            unit: Unit::Operations,
            value: Unit::Operations.value(nanos.len(), time),
            operations: nanos.len(),
            seconds: time.as_secs_f64(),
            latency: Latency::of(nanos),
        }
    }
}

impl End {
    /// The number of the next call, if there is one.
    fn next(self, next: &AtomicU64, started: Instant, progress: &Progress) -> Option<u64> {
        match self {
            Self::After(time) if started.elapsed() >= time || progress.is_stopped() => None,
            Self::After(_) => Some(next.fetch_add(1, Ordering::Relaxed)),
            Self::At(total) => Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < total),
        }
    }
}

/// Runs a load on one thread, so that the nodes get what is left of a small machine. Its client has to be connected inside.
///
/// # Errors
/// The load's own.
pub async fn on_one_thread<T, F>(load: impl FnOnce() -> F + Send + 'static) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>>,
{
    tokio::task::spawn_blocking(move || {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(load())
    })
    .await?
}

/// A client of the cluster with these metadata nodes (`host:port`).
///
/// # Errors
/// When a node refuses it.
pub async fn connect(meta: Vec<String>, name: &str) -> Result<Client> {
    Ok(Client::connect(ClientConfig { meta, name: name.to_owned(), ..ClientConfig::default() }).await?)
}

/// One empty file, which must not be there; nothing of it stays open.
///
/// # Errors
/// As the file system decided.
pub async fn create(client: &Client, parent: u64, name: String) -> Result<()> {
    let create = Create { parent, name: name.into(), mode: 0o644, exclusive: true, access: 6, ..Create::default() };
    let body = client.meta().mutate(&caller(), Op::Create(create)).await?;
    client.meta().release_claim(body.attr.map_or(0, |attr| attr.inode));
    Ok(())
}

/// One folder, which must not be there; its inode.
///
/// # Errors
/// As the file system decided.
pub async fn mkdir(client: &Client, parent: u64, name: String) -> Result<u64> {
    let mkdir = Mkdir { parent, name: name.into(), mode: 0o755 };
    let body = client.meta().mutate(&caller(), Op::Mkdir(mkdir)).await?;
    Ok(body.attr.context("attributes of a folder")?.inode)
}

/// Whoever may do everything.
pub fn caller() -> Caller {
    Caller { uid: 0, gid: 0, groups: vec![] }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CREATES: Calls = Calls { workload: "create", in_flight: 4, end: End::At(10) };

    #[tokio::test]
    async fn each_number_is_called_once() {
        let sum = Arc::new(AtomicU64::new(0));
        let add = {
            let sum = sum.clone();
            move |number| {
                let sum = sum.clone();
                async move {
                    sum.fetch_add(number, Ordering::Relaxed);
                    Ok(())
                }
            }
        };
        let progress = Arc::default();
        let figure = CREATES.measure(&progress, add).await.expect("no call fails");
        assert_eq!((figure.operations, sum.load(Ordering::Relaxed)), (10, 45));
        assert_eq!((progress.stage().done, progress.stage().total), (10, 10));
    }

    #[tokio::test]
    async fn the_first_failure_is_the_load_s() {
        let fail = |number| async move { if number == 3 { anyhow::bail!("call {number} failed") } else { Ok(()) } };
        let error = CREATES.measure(&Arc::default(), fail).await.expect_err("a call fails");
        assert_eq!(error.to_string(), "call 3 failed");
    }

    #[test]
    fn time_and_a_stop_end_a_load_that_is_not_counted() {
        let (next, progress, now) = (AtomicU64::new(0), Progress::default(), Instant::now());
        let hour = Duration::from_secs(3600);
        assert_eq!(End::After(hour).next(&next, now, &progress), Some(0));
        assert_eq!(End::After(Duration::ZERO).next(&next, now, &progress), None);
        progress.stop();
        assert_eq!(End::After(hour).next(&next, now, &progress), None);
        assert_eq!(End::At(2).next(&next, now, &progress), Some(1));
        assert_eq!(End::At(2).next(&next, now, &progress), None);
    }
}
