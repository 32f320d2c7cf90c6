//! How fast the first and the last tenth of a load went: what grows with the state shows between them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Counts what is done.
#[derive(Debug)]
pub(super) struct Tenths {
    started: Instant,
    total: u64,
    done: AtomicU64,
    first_ended: OnceLock<Duration>,
    last_began: OnceLock<Duration>,
    ended: OnceLock<Duration>,
}

/// Per second.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Rates {
    pub(super) first: f64,
    pub(super) last: f64,
}

impl Tenths {
    /// From now on.
    pub(super) fn of(total: u64) -> Self {
        Self {
            started: Instant::now(),
            total,
            done: AtomicU64::new(0),
            first_ended: OnceLock::new(),
            last_began: OnceLock::new(),
            ended: OnceLock::new(),
        }
    }

    pub(super) fn one_more(&self) {
        let done = self.done.fetch_add(1, Ordering::Relaxed) + 1;
        let tenth = self.total / 10;
        for (number, mark) in
            [(tenth, &self.first_ended), (self.total - tenth, &self.last_began), (self.total, &self.ended)]
        {
            if done == number {
                // Each number is reached once.
                let _ = mark.set(self.started.elapsed());
            }
        }
    }

    /// None before the end, and of fewer than ten.
    pub(super) fn rates(&self) -> Option<Rates> {
        let (first, last, end) = (*self.first_ended.get()?, *self.last_began.get()?, *self.ended.get()?);
        Some(rates(self.total / 10, first, last, end))
    }
}

fn rates(tenth: u64, first_ended: Duration, last_began: Duration, ended: Duration) -> Rates {
    let rate = |time: Duration| tenth as f64 / time.as_secs_f64().max(1e-9);
    Rates { first: rate(first_ended), last: rate(ended.saturating_sub(last_began)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_over_its_own_time() {
        let seconds = Duration::from_secs;
        assert_eq!(rates(100, seconds(2), seconds(30), seconds(34)), Rates { first: 50.0, last: 25.0 });
    }

    #[test]
    fn there_are_rates_once_all_is_done() {
        let tenths = Tenths::of(20);
        (0..19).for_each(|_| tenths.one_more());
        assert_eq!(tenths.rates(), None);
        tenths.one_more();
        assert!(tenths.rates().is_some_and(|r| r.first > 0.0 && r.last > 0.0));
    }

    #[test]
    fn what_is_not_counted_has_no_tenths() {
        let tenths = Tenths::of(0);
        tenths.one_more();
        assert_eq!(tenths.rates(), None);
    }
}
