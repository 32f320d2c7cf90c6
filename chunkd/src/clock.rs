//! The clock, as an argument: production counts suspended time too, a simulation moves its own hand.
//!
//! Of the monotonic time only differences on one machine mean anything; a stamp leaves the server only to come back to it
//! (ADR 0001, 7). Wall-clock time dates quarantined files and is a lower bound of
//! incarnations; it decides nothing else.

use rustix::time::{ClockId, clock_gettime};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Monotonic time since an arbitrary moment.
pub trait Clock: Send + Sync + 'static {
    /// Nanoseconds; never goes back while the process lives.
    fn now_ns(&self) -> u64;
    /// Wall-clock milliseconds since 1970.
    fn unix_ms(&self) -> u64;
}

/// `CLOCK_BOOTTIME`: unlike `CLOCK_MONOTONIC` it goes on while the machine is suspended, so a lease cannot outlive a nap (F2).
#[derive(Debug, Clone, Copy, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now_ns(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
    }

    fn unix_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Where a [`TokioClock`]'s calendar begins: 2026-01-01.
const TOKIO_EPOCH_MS: u64 = 1_767_225_600_000;

/// Tokio's clock, which tests and simulations can pause and move.
#[derive(Debug, Clone, Copy)]
pub struct TokioClock {
    origin: Instant,
}

impl Default for TokioClock {
    fn default() -> Self {
        Self { origin: Instant::now() }
    }
}

impl Clock for TokioClock {
    fn now_ns(&self) -> u64 {
        // A second ahead of zero, so that a lease that was never given (0) is over at the origin too.
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX).saturating_add(1_000_000_000)
    }

    fn unix_ms(&self) -> u64 {
        TOKIO_EPOCH_MS + self.now_ns() / 1_000_000
    }
}
