//! Claims that callers let go, on their way to the session's task (S7).
//!
//! Nobody waits for a release, and waking the task costs more than sending one. The first is told to it by a command; from then on others are
//! only left here. The task finds them with whatever it does next, and looks by itself in time until there are none for a while.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// How often the task looks by itself.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Where the handles leave releases.
#[derive(Clone, Debug, Default)]
pub(crate) struct Releases(Arc<Mutex<Left>>);

#[derive(Debug, Default)]
struct Left {
    inodes: Vec<u64>,
    /// The task looks by itself.
    is_looked_at: bool,
}

impl Releases {
    /// Leaves a release for the task. `false`: the task does not look by itself, has to be told of this one, and looks from then on.
    pub(crate) fn leave(&self, inode: u64) -> bool {
        let mut left = self.0.lock();
        if left.is_looked_at {
            left.inodes.push(inode);
        }
        std::mem::replace(&mut left.is_looked_at, true)
    }

    /// What was left. `ends`: if that is nothing, the task looks no more.
    fn take(&self, ends: bool) -> Vec<u64> {
        let mut left = self.0.lock();
        if ends && left.inodes.is_empty() {
            left.is_looked_at = false;
        }
        std::mem::take(&mut left.inodes)
    }
}

/// The task's side.
#[derive(Debug)]
pub(crate) struct Found {
    releases: Releases,
    /// `None`: nothing is left, or a command will tell of the first.
    look_at: Option<Instant>,
}

impl Found {
    pub(crate) fn new(releases: Releases) -> Self {
        Self { releases, look_at: None }
    }

    /// A command has told of one; others may follow.
    pub(crate) fn told(&mut self) {
        self.look_at.get_or_insert_with(|| Instant::now() + LOOK_EVERY);
    }

    /// What was left since the last look.
    pub(crate) fn take(&mut self, now: Instant) -> Vec<u64> {
        let Some(look_at) = self.look_at else { return Vec::new() };
        let found = self.releases.take(now >= look_at);
        if !found.is_empty() {
            self.look_at = Some(now + LOOK_EVERY);
        } else if now >= look_at {
            self.look_at = None;
        }
        found
    }

    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.look_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_first_one_is_told_and_the_others_are_found() {
        let releases = Releases::default();
        let mut found = Found::new(releases.clone());
        assert!(!releases.leave(1), "to be told");
        assert!(releases.leave(2), "the command is on its way");
        found.told();
        assert_eq!(found.take(Instant::now()), [2]);
        assert!(releases.leave(3) && releases.leave(4));
        tokio::time::advance(LOOK_EVERY).await;
        assert!(found.next_look().is_some_and(|look| look <= Instant::now()));
        assert_eq!(found.take(Instant::now()), [3, 4]);
        assert!(found.take(Instant::now()).is_empty());
        assert!(releases.leave(5), "there were some: it looks again");
        assert_eq!(found.take(Instant::now()), [5]);
        tokio::time::advance(LOOK_EVERY).await;
        assert!(found.take(Instant::now()).is_empty());
        assert_eq!(found.next_look(), None);
        assert!(!releases.leave(6), "it looks no more");
    }
}
