//! The time of day of a run: tokio's paused clock, from 2026-01-01 on.

use tokio::time::Instant;

const EPOCH_NS: i64 = 1_767_225_600_000_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub struct SimClock {
    origin: Instant,
}

impl SimClock {
    pub fn start() -> Self {
        Self { origin: Instant::now() }
    }

    /// Nanoseconds since 1970.
    pub fn now_ns(&self) -> i64 {
        EPOCH_NS + i64::try_from(self.origin.elapsed().as_nanos()).expect("a run is short")
    }

    /// Milliseconds since the run began.
    pub fn elapsed_ms(&self) -> u128 {
        self.origin.elapsed().as_millis()
    }
}

impl caribou_client::file::WallClock for SimClock {
    fn now_ns(&self) -> i64 {
        Self::now_ns(self)
    }
}

/// As chunk servers see it: one clock for all machines of a run, whatever the incarnation.
impl caribou_chunkd::clock::Clock for SimClock {
    fn now_ns(&self) -> u64 {
        // A second ahead of zero, so that a lease that was never given (0) is over at the origin too.
        u64::try_from(self.origin.elapsed().as_nanos()).expect("a run is short") + 1_000_000_000
    }

    fn unix_ms(&self) -> u64 {
        u64::try_from(Self::now_ns(self) / 1_000_000).expect("after 1970")
    }
}
