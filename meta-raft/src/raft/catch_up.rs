//! What a restart has to apply again: the state is flushed now and then so that it is little, and a node that still has much before it does
//! not stand for election, because it would lead long before it could answer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::log_store::LogHandle;
use super::state::StateStore;
use super::surroundings::Blocking;
use super::types::Raft;

/// How often changes of the state are made durable. In between, the log alone holds them.
const FLUSH_EVERY: Duration = Duration::from_secs(5);
/// With fewer entries than this before it a node may lead at once.
const BACKLOG_ENTRIES: u64 = 500;
/// How long a node with more waits. The others may be no better off: then one of them has to lead all the same.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether a node that has applied up to `applied` of its log had better let others lead for now.
pub(super) fn is_behind(last_log: u64, applied: u64) -> bool {
    last_log.saturating_sub(applied) > BACKLOG_ENTRIES
}

/// Lets the node stand for election once it has applied the log that it came with, or after a while.
pub(super) async fn stand_again(raft: Raft, last_log: u64, mut applied: watch::Receiver<u64>) {
    let caught_up = applied.wait_for(|index| !is_behind(last_log, *index));
    let in_time = tokio::time::timeout(PATIENCE, caught_up).await.is_ok();
    tracing::info!(last_log, in_time, "this node stands for election again");
    raft.runtime_config().elect(true);
}

/// Flushes what has changed, for as long as the node runs.
pub(super) async fn flush_regularly(
    state: Arc<StateStore>,
    log: LogHandle,
    applied: watch::Receiver<u64>,
    blocking: Blocking,
) {
    let mut beat = tokio::time::interval(FLUSH_EVERY);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut flushed = *applied.borrow();
    loop {
        beat.tick().await;
        let now = *applied.borrow();
        if applied.has_changed().is_err() {
            return;
        }
        if now == flushed {
            continue;
        }
        // What was applied may not be in the log on disk yet; the state must not be ahead of it.
        if log.sync().await.is_err() {
            return;
        }
        let store = Arc::clone(&state);
        match blocking.run(move || store.flush()).await {
            Ok(Ok(())) => flushed = now,
            // A store that cannot write fails the next apply, and that stops the node.
            Ok(Err(error)) => tracing::warn!(%error, "the state could not be flushed"),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_long_backlog_keeps_a_node_from_leading() {
        assert!(!is_behind(0, 0));
        assert!(!is_behind(BACKLOG_ENTRIES, 0));
        assert!(is_behind(BACKLOG_ENTRIES + 1, 0));
        assert!(!is_behind(10, 20), "a snapshot is ahead of the log");
    }
}
