//! What a run has found to be wrong, and how far it has come.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::SimClock;

/// Shared by everything that checks.
#[derive(Debug)]
pub struct Findings {
    clock: SimClock,
    violations: Mutex<Vec<String>>,
    steps: AtomicU64,
    /// When which chunk server lost power.
    power_cuts: Mutex<Vec<(Instant, usize)>>,
}

impl Findings {
    pub fn new(clock: SimClock) -> Self {
        Self { clock, violations: Mutex::default(), steps: AtomicU64::new(0), power_cuts: Mutex::default() }
    }

    /// Something that must never be.
    pub fn violation(&self, what: String) {
        let at = self.clock.elapsed_ms();
        tracing::error!(at, what, "violation");
        self.violations.lock().push(format!("at {at} ms: {what}"));
    }

    pub fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violation(what());
        }
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub fn is_clean(&self) -> bool {
        self.violations.lock().is_empty()
    }

    /// A chunk server has lost its power.
    pub fn power_cut(&self, server: usize) {
        self.power_cuts.lock().push((Instant::now(), server));
    }

    /// How many chunk servers have lost power since then.
    pub fn without_power_since(&self, moment: Instant) -> usize {
        let cuts = self.power_cuts.lock();
        let servers: BTreeSet<usize> = cuts.iter().filter(|(at, _)| *at >= moment).map(|(_, server)| *server).collect();
        servers.len()
    }

    /// One operation has been answered and its answer checked, or a fault been injected.
    pub fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }
}
