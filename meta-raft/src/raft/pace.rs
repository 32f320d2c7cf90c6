//! When another entry leaves beside those that are under way.
//!
//! An entry costs three nodes much the same whether it has one command or thirty: messages, fsyncs, threads that wake up. One that leaves with
//! the first command that comes splits the load into many small entries, and on processors that are busy that costs more than waiting does. So it
//! leaves once it has as many commands as are under way, or when enough of those are answered. One command at a time never waits, nor do two.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

/// With no more than so many under way, an entry of one command leaves.
const FEW: usize = 2;
/// So many are always worth an entry.
const ENOUGH: usize = 32;
/// How long an entry waits at most: while a quorum is silent nothing is answered, and who waits has to be told.
const PATIENCE: Duration = Duration::from_millis(20);
/// Nobody wants to be woken.
const NOBODY: usize = usize::MAX;

/// Counts of one proposer.
#[derive(Debug)]
pub(super) struct Pace {
    /// Commands of entries that are proposed and not answered.
    under_way: AtomicUsize,
    /// Commands in the proposer's queue.
    queued: AtomicUsize,
    /// With so many queued the proposer wants to be woken.
    wanted: AtomicUsize,
    changed: Notify,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            under_way: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            wanted: AtomicUsize::new(NOBODY),
            changed: Notify::new(),
        }
    }
}

impl Pace {
    /// Puts commands into the queue, by `send`.
    pub(super) fn enqueue(&self, commands: usize, send: impl FnOnce()) {
        // Counted before they are there: `leave` may take them out at once.
        let queued = self.queued.fetch_add(commands, Ordering::SeqCst) + commands;
        send();
        if queued >= self.wanted.load(Ordering::SeqCst) {
            self.changed.notify_one();
        }
    }

    /// Commands have left the queue.
    pub(super) fn leave(&self, commands: usize) {
        self.queued.fetch_sub(commands, Ordering::SeqCst);
    }

    /// An entry of so many commands is under way until the guard is dropped.
    pub(super) fn begin(self: &Arc<Self>, commands: usize) -> UnderWay {
        self.under_way.fetch_add(commands, Ordering::SeqCst);
        UnderWay { pace: Arc::clone(self), commands }
    }

    /// Waits until `have` commands and those in the queue are worth an entry.
    pub(super) async fn worth_an_entry(&self, have: usize) {
        if self.is_worth_it(have) {
            return;
        }
        let worth = async {
            loop {
                self.wanted.store(self.needed().saturating_sub(have), Ordering::SeqCst);
                // Looked at after that: whoever came before has not seen what is wanted.
                if self.is_worth_it(have) {
                    return;
                }
                self.changed.notified().await;
            }
        };
        // What has come by then leaves.
        let _ = tokio::time::timeout(PATIENCE, worth).await;
        self.wanted.store(NOBODY, Ordering::SeqCst);
    }

    fn is_worth_it(&self, have: usize) -> bool {
        have + self.queued.load(Ordering::SeqCst) >= self.needed()
    }

    /// How many commands are worth an entry now.
    fn needed(&self) -> usize {
        match self.under_way.load(Ordering::SeqCst) {
            0..=FEW => 0,
            under_way => under_way.min(ENOUGH),
        }
    }
}

/// See [`Pace::begin`].
#[derive(Debug)]
pub(super) struct UnderWay {
    pace: Arc<Pace>,
    commands: usize,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.pace.under_way.fetch_sub(self.commands, Ordering::SeqCst);
        self.pace.changed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_never_wait() {
        let pace = Arc::new(Pace::default());
        pace.worth_an_entry(1).now_or_never().expect("nothing is under way");
        let _first = pace.begin(1);
        pace.worth_an_entry(1).now_or_never().expect("one is under way");
        let _second = pace.begin(1);
        pace.worth_an_entry(1).now_or_never().expect("two are under way");
        let _third = pace.begin(1);
        assert!(pace.worth_an_entry(1).now_or_never().is_none(), "three are more than one");
        pace.enqueue(2, || {});
        pace.worth_an_entry(1).now_or_never().expect("as many as are under way");
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_commands_wake_it_and_fewer_do_not() {
        let pace = Arc::new(Pace::default());
        let _under_way = pace.begin(5);
        let mut waits = std::pin::pin!(pace.worth_an_entry(1));
        assert!(waits.as_mut().now_or_never().is_none());
        let mut sent = false;
        pace.enqueue(3, || sent = true);
        assert!(sent);
        assert!(pace.changed.notified().now_or_never().is_none(), "one is lacking still");
        assert!(waits.as_mut().now_or_never().is_none());
        pace.enqueue(1, || {});
        waits.now_or_never().expect("five");
        pace.leave(4);
        assert!(pace.worth_an_entry(1).now_or_never().is_none(), "they have left");
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_lets_it_go() {
        let pace = Arc::new(Pace::default());
        let (many, few) = (pace.begin(5), pace.begin(2));
        let mut waits = std::pin::pin!(pace.worth_an_entry(1));
        assert!(waits.as_mut().now_or_never().is_none());
        drop(few);
        assert!(waits.as_mut().now_or_never().is_none(), "five are under way");
        drop(many);
        waits.now_or_never().expect("none is under way");
    }

    #[tokio::test(start_paused = true)]
    async fn many_are_worth_an_entry_whatever_is_under_way() {
        let pace = Arc::new(Pace::default());
        let _under_way = pace.begin(1000);
        pace.worth_an_entry(ENOUGH).now_or_never().expect("enough");
        let started = Instant::now();
        pace.worth_an_entry(1).await;
        assert!(started.elapsed() >= PATIENCE, "nothing was answered");
    }
}
