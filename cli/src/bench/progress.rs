//! How far a workload is, and whether it shall stop. Workers count here; whoever draws looks from outside.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Shared by workers and whoever watches them.
#[derive(Debug, Default)]
pub struct Progress {
    stage: Mutex<String>,
    done: AtomicU64,
    /// Zero: the end is set by time.
    total: AtomicU64,
    stop: AtomicBool,
}

/// What is going on now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    pub name: String,
    pub done: u64,
    pub total: u64,
}

impl Progress {
    /// Begins a stage of so many units; 0 if nobody knows how many there will be.
    pub fn begin(&self, name: &str, total: u64) {
        let mut stage = self.stage.lock().expect("no thread panics with this lock");
        name.clone_into(&mut stage);
        self.done.store(0, Ordering::Relaxed);
        self.total.store(total, Ordering::Relaxed);
    }

    pub fn add(&self, units: u64) {
        self.done.fetch_add(units, Ordering::Relaxed);
    }

    pub fn stage(&self) -> Stage {
        let name = self.stage.lock().expect("no thread panics with this lock").clone();
        Stage { name, done: self.done.load(Ordering::Relaxed), total: self.total.load(Ordering::Relaxed) }
    }

    /// Asks all workers to end as soon as their operation is over.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }
}
