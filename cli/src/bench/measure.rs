//! Threads that begin together, operations that are timed one by one, a figure of them all.
//!
//! The first operation that fails ends its thread, and the whole workload is an error: a rate with failures in it says nothing.

use std::io;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use hdrhistogram::Histogram;
use rand::{SeedableRng, rngs::StdRng};

use super::figure::{Figure, Latency, Placement, Unit};
use super::progress::Progress;

/// Threads whose failures are told one by one.
const SHOWN: usize = 3;

/// What is measured.
#[derive(Debug, Clone, Copy)]
pub struct Spec {
    pub workload: &'static str,
    pub threads: usize,
    pub placement: Option<Placement>,
    pub unit: Unit,
    /// Units that are expected over all threads, for progress; 0 where time ends the workload.
    pub total: u64,
}

/// One thread at work.
pub struct Worker<'a> {
    /// From 0.
    pub number: usize,
    /// The same numbers in every run, others in every thread.
    pub random: StdRng,
    began: Instant,
    ended: Instant,
    latencies: Histogram<u64>,
    units: u64,
    progress: &'a Progress,
}

impl<'a> Worker<'a> {
    fn new(number: usize, progress: &'a Progress) -> Self {
        let now = Instant::now();
        Self {
            number,
            random: seeded(number as u64),
            began: now,
            ended: now,
            latencies: Latency::histogram(),
            units: 0,
            progress,
        }
    }

    /// Carries out and times one operation, which says how many units it did.
    ///
    /// # Errors
    /// The operation's own; `Interrupted` if the workload shall stop.
    pub fn operation(&mut self, operation: impl FnOnce() -> io::Result<u64>) -> io::Result<()> {
        if self.progress.is_stopped() {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "stopped"));
        }
        let started = Instant::now();
        let units = operation()?;
        Latency::record(&mut self.latencies, started.elapsed());
        self.units += units;
        self.progress.add(units);
        Ok(())
    }

    /// Time since the threads began.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

/// Runs `work` on each thread; the figure's time is from the begin of the first thread to the end of the last one, by the threads' own
/// clocks: on a busy machine this thread may wake up long after they have begun.
///
/// # Errors
/// If any operation failed: how many threads met an error, and the first ones.
pub fn measure(
    spec: &Spec,
    progress: &Progress,
    work: impl Fn(&mut Worker<'_>) -> io::Result<()> + Sync,
) -> Result<Figure> {
    progress.begin(spec.workload, spec.total);
    let barrier = Barrier::new(spec.threads);
    let mut workers: Vec<_> = (0..spec.threads).map(|number| Worker::new(number, progress)).collect();
    let results: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = workers
            .iter_mut()
            .map(|worker| {
                scope.spawn(|| {
                    barrier.wait();
                    worker.began = Instant::now();
                    let result = work(worker);
                    worker.ended = Instant::now();
                    result
                })
            })
            .collect();
        threads.into_iter().map(std::thread::ScopedJoinHandle::join).collect()
    });
    let mut failures = Vec::new();
    for (number, result) in results.into_iter().enumerate() {
        match result {
            Ok(Ok(())) => {}
            Ok(Err(error)) => failures.push(format!("thread {number}: {error}")),
            Err(_) => failures.push(format!("thread {number} panicked")),
        }
    }
    let mut latencies = Latency::histogram();
    for worker in &workers {
        latencies.add(&worker.latencies)?;
    }
    if !failures.is_empty() && progress.is_stopped() {
        bail!("{}: stopped", spec.workload);
    }
    if !failures.is_empty() {
        bail!(
            "{}: {} of {} threads met an error, {} operations had succeeded: {}",
            spec.workload,
            failures.len(),
            spec.threads,
            latencies.len(),
            failures[..failures.len().min(SHOWN)].join("; ")
        );
    }
    let (began, ended) = (workers.iter().map(|w| w.began).min(), workers.iter().map(|w| w.ended).max());
    let time = began.zip(ended).map(|(began, ended)| ended - began).unwrap_or_default();
    Ok(figure(spec, workers.iter().map(|w| w.units).sum(), time, &latencies))
}

fn figure(spec: &Spec, units: u64, time: Duration, latencies: &Histogram<u64>) -> Figure {
    Figure {
        workload: spec.workload.to_owned(),
        threads: spec.threads,
        placement: spec.placement,
        unit: spec.unit,
        value: spec.unit.value(units, time),
        operations: latencies.len(),
        seconds: time.as_secs_f64(),
        latency: Latency::of(latencies),
    }
}

/// A generator that gives the same numbers in every run.
pub fn seeded(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// An error for data that are not what was written.
pub fn wrong(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(threads: usize) -> Spec {
        Spec { workload: "naps", threads, placement: None, unit: Unit::Operations, total: 0 }
    }

    #[test]
    fn units_of_all_threads_count_and_each_operation_is_timed() {
        let nap = Duration::from_millis(2);
        let figure = measure(&spec(4), &Progress::default(), |worker| {
            for _ in 0..10 {
                worker.operation(|| {
                    std::thread::sleep(nap);
                    Ok(3)
                })?;
            }
            Ok(())
        })
        .expect("no operation fails");
        assert_eq!(figure.operations, 40);
        assert!(figure.seconds >= 0.02, "{figure:?}");
        assert!((figure.value * figure.seconds - 120.0).abs() < 1e-6, "{figure:?}");
        assert!(figure.latency.is_some_and(|l| l.p50_us >= 2000.0), "{figure:?}");
    }

    #[test]
    fn one_failed_operation_fails_the_workload_and_is_named() {
        let error = measure(&spec(2), &Progress::default(), |worker| {
            let number = worker.number;
            worker.operation(|| if number == 1 { Err(wrong("block 7 is torn")) } else { Ok(1) })
        })
        .expect_err("a thread failed");
        let text = error.to_string();
        assert!(text.contains("1 of 2 threads") && text.contains("block 7 is torn"), "{text}");
    }

    #[test]
    fn a_workload_that_shall_stop_does_not_go_on() {
        let progress = Progress::default();
        let error = measure(&spec(1), &progress, |worker| {
            loop {
                worker.operation(|| {
                    progress.stop();
                    Ok(1)
                })?;
            }
        });
        assert!(error.expect_err("it was stopped").to_string().contains("stopped"));
    }
}
