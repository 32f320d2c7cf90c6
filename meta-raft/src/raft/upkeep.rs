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
    // The snapshot's index when the last build was asked for: one at a time.
    let mut asked: Option<Option<u64>> = None;
    let mut purged = 0;
    loop {
        beat.tick().await;
        if applied.has_changed().is_err() {
            return;
        }
        let snapshot = metrics.borrow_watched().snapshot.map(|id| id.index());
        let upto = *applied.borrow();
        if asked.is_some_and(|before| before != snapshot) {
            asked = None;
        }
        let behind = log.bytes_after(snapshot.unwrap_or(0));
        if asked.is_none() && behind >= config.snapshot_after_bytes && snapshot.is_none_or(|index| upto > index) {
            asked = Some(snapshot);
            if raft.trigger().snapshot().await.is_err() {
                return;
            }
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
