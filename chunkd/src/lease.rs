//! The read lease (F2): until when this server may answer reads.
//!
//! Owns one number. It only grows: an answer to a heartbeat extends it to *stamp + TTL*, where the stamp is this server's own
//! clock at the sending (ADR 0001, 7). It is never shortened, because the leader counts on it that long and no longer.
//! It starts at zero at every start of the process. It does not know who the leader is; `control` does.

use crate::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

pub(crate) struct ReadLease {
    clock: Arc<dyn Clock>,
    until_ns: AtomicU64,
}

impl ReadLease {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, until_ns: AtomicU64::new(0) }
    }

    /// Extends the lease to `stamp_ns + ttl`. A stamp from the future is not ours and is ignored.
    pub(crate) fn extend(&self, stamp_ns: u64, ttl: Duration) {
        if stamp_ns <= self.clock.now_ns() {
            let ttl_ns = u64::try_from(ttl.as_nanos()).unwrap_or(u64::MAX);
            self.until_ns.fetch_max(stamp_ns.saturating_add(ttl_ns), Ordering::AcqRel);
        }
    }

    /// Whether reads may be answered now.
    pub(crate) fn is_valid(&self) -> bool {
        self.clock.now_ns() < self.until_ns.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::TokioClock;

    #[tokio::test(start_paused = true)]
    async fn ends_ttl_after_the_stamp_and_not_after_the_answer() {
        let clock = Arc::new(TokioClock::default());
        let lease = ReadLease::new(clock.clone());
        assert!(!lease.is_valid(), "no lease before the first answer");
        let stamp = clock.now_ns();
        tokio::time::advance(Duration::from_millis(700)).await;
        lease.extend(stamp, Duration::from_secs(1));
        assert!(lease.is_valid());
        tokio::time::advance(Duration::from_millis(299)).await;
        assert!(lease.is_valid());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!lease.is_valid());
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_does_not_shorten_it_and_a_future_stamp_is_ignored() {
        let clock = Arc::new(TokioClock::default());
        let lease = ReadLease::new(clock.clone());
        lease.extend(clock.now_ns() + 5, Duration::from_secs(9));
        assert!(!lease.is_valid());
        let first = clock.now_ns();
        tokio::time::advance(Duration::from_millis(500)).await;
        lease.extend(clock.now_ns(), Duration::from_secs(1));
        lease.extend(first, Duration::from_secs(1));
        tokio::time::advance(Duration::from_millis(999)).await;
        assert!(lease.is_valid());
    }
}
