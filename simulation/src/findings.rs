//! What a run has found to be wrong, and how far it has come.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::clock::SimClock;
use crate::commands::Commands;
use crate::faults::{Failing, Rotten};
use crate::fencing::Fencing;
use crate::places::Places;
use crate::record::Record;
use crate::sessions::Sessions;
use crate::trail::Trail;
use crate::workload::registers::Contested;

/// Shared by everything that checks.
#[derive(Debug)]
pub struct Findings {
    clock: SimClock,
    violations: Mutex<Vec<String>>,
    steps: AtomicU64,
    /// What an excuse for lost bytes needs to know.
    pub places: Places,
    pub fencing: Fencing,
    /// What explains a finding.
    pub record: Record,
    pub trail: Trail,
    /// What judges what chunk servers are told.
    pub commands: Commands,
    /// What excuses damage that is found.
    pub rotten: Rotten,
    /// What excuses chunks that are out of reach.
    pub failing: Failing,
    /// What excuses bytes that are lost with a session.
    pub contested: Contested,
    /// What excuses files that are gone with a session.
    pub sessions: Sessions,
}

impl Findings {
    pub fn new(clock: SimClock) -> Self {
        Self {
            clock,
            violations: Mutex::default(),
            steps: AtomicU64::new(0),
            places: Places::default(),
            fencing: Fencing::default(),
            record: Record::default(),
            trail: Trail::default(),
            commands: Commands::default(),
            rotten: Rotten::default(),
            failing: Failing::default(),
            contested: Contested::default(),
            sessions: Sessions::default(),
        }
    }

    pub fn clock(&self) -> &SimClock {
        &self.clock
    }

    /// Something that must never be.
    pub fn violation(&self, what: String) {
        let at = self.clock.elapsed_ms();
        tracing::error!(at, what, "violation");
        self.note(|| format!("violation: {what}"));
        self.record.end();
        self.violations.lock().push(format!("at {at} ms: {what}"));
    }

    pub fn check(&self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.violation(what());
        }
    }

    /// Something that was done, for the record.
    pub fn note(&self, what: impl FnOnce() -> String) {
        let what = what();
        self.on_trail(|| what.clone());
        self.heard(what);
    }

    /// Something that a program has said, for the record alone.
    pub fn heard(&self, what: String) {
        self.record.note(self.clock.elapsed_ms(), what);
    }

    /// Something that a second run of the seed must do, too.
    pub fn on_trail(&self, what: impl FnOnce() -> String) {
        self.trail.line(self.clock.elapsed_ms(), what);
    }

    pub fn violations(&self) -> Vec<String> {
        self.violations.lock().clone()
    }

    pub fn is_clean(&self) -> bool {
        self.violations.lock().is_empty()
    }

    /// One operation has been answered and its answer checked, or a fault been injected.
    pub fn step(&self) {
        let before = self.steps.fetch_add(1, Ordering::Relaxed);
        self.on_trail(|| format!("step {}", before + 1));
    }

    pub fn steps(&self) -> u64 {
        self.steps.load(Ordering::Relaxed)
    }
}
