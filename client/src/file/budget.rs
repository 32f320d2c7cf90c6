//! The bound of all bytes that no fsync covers yet (W5): writers reserve room before they write and wait when there is none.

use parking_lot::Mutex;
use tokio::sync::Notify;

/// Background syncs start when this part of the limit is used (one in …), and again with each further sixteenth.
const START_FRACTION: u64 = 2;
const STEP_FRACTION: u64 = 16;

#[derive(Debug, Default)]
struct Used {
    bytes: u64,
    /// The use at which relief is sought next.
    next_relief: u64,
}

/// See the head of this file.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    used: Mutex<Used>,
    freed: Notify,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Self {
        let used = Used { bytes: 0, next_relief: limit / START_FRACTION };
        Self { limit, used: Mutex::new(used), freed: Notify::new() }
    }

    /// Takes room for a write. A write larger than the whole buffer is let through when nothing else is in it.
    pub(crate) fn reserve(&self, bytes: u64) -> bool {
        let mut used = self.used.lock();
        if used.bytes > 0 && used.bytes + bytes > self.limit {
            return false;
        }
        used.bytes += bytes;
        true
    }

    /// Puts the truth in the place of a reservation, or of an earlier truth.
    pub(crate) fn adjust(&self, before: u64, after: u64) {
        if before == after {
            return;
        }
        let mut used = self.used.lock();
        used.bytes = (used.bytes + after).checked_sub(before).expect("only what was reserved is given back");
        if after < before {
            used.next_relief = (used.bytes + self.limit / STEP_FRACTION).max(self.limit / START_FRACTION);
            drop(used);
            self.freed.notify_waiters();
        }
    }

    /// How many bytes should be synced now to make room; 0 while there is enough.
    pub(crate) fn relief_due(&self) -> u64 {
        let mut used = self.used.lock();
        if used.bytes < used.next_relief {
            return 0;
        }
        used.next_relief = used.bytes + self.limit / STEP_FRACTION;
        used.bytes / 2
    }

    pub(crate) fn used(&self) -> u64 {
        self.used.lock().bytes
    }

    /// Waits with this until room may be there: enable it, try, then await it.
    pub(crate) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.freed.notified()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_buffer_refuses_and_asks_for_relief_in_steps() {
        let budget = Budget::new(1600);
        assert!(budget.reserve(700));
        assert_eq!(budget.relief_due(), 0);
        assert!(budget.reserve(200));
        assert_eq!(budget.relief_due(), 450);
        assert_eq!(budget.relief_due(), 0, "asked once per step");
        assert!(!budget.reserve(701));
        budget.adjust(900, 0);
        assert!(budget.reserve(5000), "larger than the buffer, but alone");
        assert_eq!(budget.used(), 5000);
    }
}
