//! What happened when: completions of each load in short intervals, faults from their beginning to their end, changes of the leader.

use std::sync::Arc;
use std::time::{Duration, Instant};

use caribou_cli::admin;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinHandle;

use crate::check::finding::Moment;
use crate::nemesis::Kind;

/// Completions are counted in intervals of this length.
pub const INTERVAL: Duration = Duration::from_millis(100);
/// How often the nodes are asked who leads.
const LOOK: Duration = Duration::from_millis(200);

/// Counts the completions of a load so far.
pub type Counter = Arc<dyn Fn() -> u64 + Send + Sync>;

/// One load's completions.
#[derive(Debug, Clone, Serialize)]
pub struct Track {
    pub name: String,
    /// In each interval.
    pub counts: Vec<u64>,
}

/// One fault.
#[derive(Debug, Clone, Serialize)]
pub struct Band {
    pub kind: Kind,
    pub victims: String,
    pub from_ms: u64,
    pub to_ms: u64,
    /// What shows that it took effect; nothing: it had none.
    pub effect: Option<String>,
}

/// Somebody leads.
#[derive(Debug, Clone, Serialize)]
pub struct Leader {
    pub at_ms: u64,
    pub node_id: u64,
    pub term: u64,
}

/// The whole run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Timeline {
    /// When it began: microseconds since 1970.
    pub started_us: u64,
    pub interval_ms: u64,
    pub tracks: Vec<Track>,
    pub bands: Vec<Band>,
    pub leaders: Vec<Leader>,
}

/// Writes a timeline until it is finished.
pub struct Recorder {
    started: Instant,
    shared: Arc<Mutex<Timeline>>,
    tasks: [JoinHandle<()>; 2],
}

impl Recorder {
    pub fn start(loads: Vec<(String, Counter)>, meta: Vec<String>) -> Self {
        let started = Instant::now();
        let tracks = loads.iter().map(|(name, _)| Track { name: name.clone(), counts: Vec::new() }).collect();
        let interval_ms = u64::try_from(INTERVAL.as_millis()).expect("short");
        let started_us = Moment::now().0;
        let shared = Arc::new(Mutex::new(Timeline { started_us, interval_ms, tracks, ..Timeline::default() }));
        let counters = loads.into_iter().map(|(_, counter)| counter).collect();
        let tasks = [
            tokio::spawn(count(started, shared.clone(), counters)),
            tokio::spawn(watch_leaders(started, shared.clone(), meta)),
        ];
        Self { started, shared, tasks }
    }

    pub fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    pub fn band(&self, band: Band) {
        self.shared.lock().bands.push(band);
    }

    pub fn finish(self) -> Timeline {
        self.tasks.iter().for_each(JoinHandle::abort);
        let mut timeline = self.shared.lock().clone();
        timeline.bands.sort_by_key(|band| band.from_ms);
        timeline
    }
}

async fn count(started: Instant, shared: Arc<Mutex<Timeline>>, counters: Vec<Counter>) {
    let mut before: Vec<u64> = counters.iter().map(|counter| counter()).collect();
    for interval in 1.. {
        tokio::time::sleep_until((started + INTERVAL * interval).into()).await;
        let now: Vec<u64> = counters.iter().map(|counter| counter()).collect();
        let mut timeline = shared.lock();
        for (track, (now, before)) in timeline.tracks.iter_mut().zip(now.iter().zip(&before)) {
            track.counts.push(now.saturating_sub(*before));
        }
        before = now;
    }
}

async fn watch_leaders(started: Instant, shared: Arc<Mutex<Timeline>>, meta: Vec<String>) {
    let mut newest = 0;
    loop {
        let replies = admin::status_of_all(&meta).await;
        let leading = replies.into_iter().filter_map(|(_, reply)| reply.ok()).filter(|reply| reply.leader.is_some());
        if let Some(reply) = leading.max_by_key(|reply| reply.term).filter(|reply| reply.term > newest) {
            newest = reply.term;
            let at_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
            shared.lock().leaders.push(Leader { at_ms, node_id: reply.node_id, term: reply.term });
        }
        tokio::time::sleep(LOOK).await;
    }
}

impl Timeline {
    /// Faults that were under way at some moment in between, or had ended shortly before.
    pub fn around(&self, from: Moment, to: Moment, aftermath: Duration) -> impl Iterator<Item = &Band> {
        let at = |ms: u64| Moment(self.started_us).later(Duration::from_millis(ms));
        self.bands.iter().filter(move |band| at(band.from_ms) <= to && at(band.to_ms).later(aftermath) >= from)
    }

    /// Faults that others were under way with.
    pub fn overlapping(&self) -> impl Iterator<Item = &Band> {
        let bands = self.bands.iter().enumerate();
        bands
            .filter(|(at, band)| self.bands.iter().enumerate().any(|(other, with)| other != *at && with.overlaps(band)))
            .map(|(_, band)| band)
    }
}

impl Band {
    fn overlaps(&self, other: &Self) -> bool {
        self.from_ms < other.to_ms && other.from_ms < self.to_ms
    }
}

impl Track {
    /// Completions per second between two moments.
    pub fn rate(&self, from_ms: u64, to_ms: u64) -> f64 {
        let counts = self.between(from_ms, to_ms);
        counts.iter().sum::<u64>() as f64 / (counts.len().max(1) as f64 * INTERVAL.as_secs_f64())
    }

    /// The longest time without a completion, to an interval.
    pub fn longest_gap(&self, from_ms: u64, to_ms: u64) -> Duration {
        let runs = self.between(from_ms, to_ms).split(|count| *count > 0);
        INTERVAL * u32::try_from(runs.map(<[u64]>::len).max().unwrap_or(0)).unwrap_or(u32::MAX)
    }

    fn between(&self, from_ms: u64, to_ms: u64) -> &[u64] {
        let interval = INTERVAL.as_millis() as u64;
        let at = |ms: u64| usize::try_from(ms / interval).unwrap_or(usize::MAX).min(self.counts.len());
        &self.counts[at(from_ms)..at(to_ms).max(at(from_ms))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_around_from_its_beginning_until_some_time_after_its_end() {
        let band =
            |from_ms, to_ms| Band { kind: Kind::KillLeader, victims: String::new(), from_ms, to_ms, effect: None };
        let timeline = Timeline { started_us: 1_000_000, bands: vec![band(1000, 2000)], ..Timeline::default() };
        let is_around = |from_ms: u64, to_ms: u64| {
            let at = |ms: u64| Moment(1_000_000 + ms * 1000);
            timeline.around(at(from_ms), at(to_ms), Duration::from_secs(3)).count() == 1
        };
        assert!(is_around(1500, 1500) && is_around(900, 1000) && is_around(5000, 6000));
        assert!(!is_around(800, 999) && !is_around(5001, 6000));
    }

    #[test]
    fn rates_and_gaps_are_those_of_the_window() {
        let track = Track { name: "x".into(), counts: vec![5, 0, 0, 3, 2, 0, 0, 0, 1] };
        assert!((track.rate(0, 400) - 20.0).abs() < 1e-9);
        assert_eq!(track.longest_gap(0, 500), Duration::from_millis(200));
        assert_eq!(track.longest_gap(0, 5000), Duration::from_millis(300));
        assert_eq!(track.longest_gap(900, 5000), Duration::ZERO);
    }
}
