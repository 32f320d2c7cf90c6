//! Snapshots and purges by bytes of log (STACK, openraft 3): the library's own policies count entries and are off.
//!
//! The log is purged only up to the last checkpoint, which is fsynced before the library hears of it, and `log_keep_bytes` stay behind
//! for followers that were away.

use std::time::Duration;

use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::config::{PURGE_STEPS, RaftConfig};
use super::log_store::LogHandle;
use super::types::Raft;

/// How often it looks. Both happen after megabytes of log; waking for every entry would cost more than they do.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Runs until the node stops.
pub(crate) async fn run(raft: Raft, log: LogHandle, config: RaftConfig, applied: watch::Receiver<u64>) {
    let mut beat = tokio::time::interval(LOOK_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let metrics = raft.metrics();
    let mut builds = Builds::new(config.snapshot_after_bytes);
    let mut purged = 0;
    loop {
        beat.tick().await;
        if applied.has_changed().is_err() {
            return;
        }
        let snapshot = metrics.borrow_watched().snapshot.map(|id| id.index());
        let upto = *applied.borrow();
        let behind = log.bytes_after(snapshot.unwrap_or(0));
        if builds.is_due(snapshot, upto, behind) && raft.trigger().snapshot().await.is_err() {
            return;
        }
        if let (Some(point), Some(snapshot)) = (log.purge_point(config.log_keep_bytes), snapshot) {
            let point = point.min(snapshot);
            // In steps: each purge is a write of its own.
            if point > purged && log.bytes_upto(point) >= config.log_keep_bytes / PURGE_STEPS {
                purged = point;
                if raft.trigger().purge_log(point).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Which snapshots have been asked for: one at a time.
struct Builds {
    /// So many bytes of log behind the last one.
    every: u64,
    asked: Option<Asked>,
}

struct Asked {
    /// The index of the snapshot that there was.
    snapshot: Option<u64>,
    behind: u64,
}

impl Builds {
    fn new(every: u64) -> Self {
        Self { every, asked: None }
    }

    /// `behind`: bytes of log behind the last snapshot. One that would not lead beyond the last one is not asked for: nothing would tell that it has
    /// been made. The library drops a wish while it is at another one, so it is repeated when as much has come again.
    fn is_due(&mut self, snapshot: Option<u64>, applied: u64, behind: u64) -> bool {
        let mut from = 0;
        if let Some(asked) = &self.asked
            && asked.snapshot == snapshot
        {
            from = asked.behind;
        }
        let is_due = behind >= from.saturating_add(self.every) && applied > snapshot.unwrap_or(0);
        if is_due {
            self.asked = Some(Asked { snapshot, behind });
        }
        is_due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_snapshot_at_a_time() {
        let mut builds = Builds::new(100);
        assert!(!builds.is_due(None, 9, 99));
        assert!(builds.is_due(None, 9, 120));
        assert!(!builds.is_due(None, 12, 140), "it is being made");
        assert!(builds.is_due(None, 20, 220), "it was not heard");
        assert!(!builds.is_due(Some(9), 9, 100), "there is nothing new in it");
        assert!(builds.is_due(Some(9), 12, 100));
        assert!(!builds.is_due(Some(12), 13, 10));
    }

    // A node that was killed early has all of its log and has applied nothing: a snapshot of that has no index, and none was made again.
    #[test]
    fn no_snapshot_of_a_node_that_has_applied_nothing_yet() {
        let mut builds = Builds::new(100);
        assert!(!builds.is_due(None, 0, 150));
        assert!(builds.is_due(None, 1, 150));
    }
}
