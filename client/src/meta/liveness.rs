//! When a renewal is due, when the leader counts as silent, and until when the session surely lives (S3).

use std::time::Duration;

use tokio::time::Instant;

/// With calls unanswered, a leader that sends nothing for this long is asked for a sign of life.
const PING_AFTER: Duration = Duration::from_millis(250);
/// With something unanswered, silence of this length starts a search beside the stream.
const SEARCH_AFTER: Duration = Duration::from_millis(750);
/// Silence of this length gives the stream up.
const GIVE_UP_AFTER: Duration = Duration::from_secs(3);
/// How often silence is looked at while something is unanswered.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What the clock asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Silence {
    None,
    /// Search among the other nodes; the stream stays.
    Search,
    /// The stream counts as broken.
    GiveUp,
}

#[derive(Debug)]
pub(crate) struct Liveness {
    /// Stamps count from here.
    start: Instant,
    ttl: Duration,
    last_renewal: Instant,
    renewal_unanswered: bool,
    last_arrival: Instant,
    /// Something has been unanswered, and nothing has arrived, since then.
    silent_since: Option<Instant>,
    certain_until: Option<Instant>,
}

impl Liveness {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            start: now,
            ttl: Duration::from_secs(10),
            last_renewal: now,
            renewal_unanswered: false,
            last_arrival: now,
            silent_since: None,
            certain_until: None,
        }
    }

    pub(crate) fn stream_began(&mut self, ttl: Duration, now: Instant) {
        if !ttl.is_zero() {
            self.ttl = ttl;
        }
        self.renewal_unanswered = false;
        self.silent_since = None;
        self.last_arrival = now;
    }

    /// A renewal is sent now. Returns its stamp.
    pub(crate) fn renew(&mut self, now: Instant) -> u64 {
        self.last_renewal = now;
        self.renewal_unanswered = true;
        u64::try_from((now - self.start).as_nanos()).unwrap_or(u64::MAX)
    }

    /// S3: the deadline counts from the *sending* of the renewal.
    pub(crate) fn renewed(&mut self, stamp: u64) {
        self.renewal_unanswered = false;
        let end = self.start + Duration::from_nanos(stamp) + self.ttl;
        self.certain_until = self.certain_until.max(Some(end));
    }

    /// S4: the session is over.
    pub(crate) fn session_ended(&mut self) {
        self.certain_until = None;
    }

    pub(crate) fn certain_until(&self) -> Option<Instant> {
        self.certain_until
    }

    /// Something arrived. `waiting`: calls are still unanswered.
    pub(crate) fn arrived(&mut self, waiting: bool, now: Instant) {
        self.last_arrival = now;
        self.silent_since = (waiting || self.renewal_unanswered).then_some(now);
    }

    /// Called after anything was sent.
    pub(crate) fn sent(&mut self, waiting: bool, now: Instant) {
        if waiting || self.renewal_unanswered {
            self.silent_since.get_or_insert(now);
        } else {
            self.silent_since = None;
        }
    }

    pub(crate) fn is_renewal_due(&self, waiting: bool, now: Instant) -> bool {
        now >= self.renewal_at(waiting)
    }

    pub(crate) fn silence(&self, now: Instant) -> Silence {
        match self.silent_since.map(|since| now - since) {
            Some(silence) if silence >= GIVE_UP_AFTER => Silence::GiveUp,
            Some(silence) if silence >= SEARCH_AFTER => Silence::Search,
            _ => Silence::None,
        }
    }

    pub(crate) fn next_look(&self, waiting: bool, now: Instant) -> Instant {
        let renewal = self.renewal_at(waiting);
        if self.silent_since.is_some() {
            (now + LOOK_EVERY).min(renewal.max(now + Duration::from_millis(1)))
        } else {
            renewal
        }
    }

    fn renewal_at(&self, waiting: bool) -> Instant {
        let idle = self.last_renewal + self.ttl / 4;
        if waiting { idle.min(self.last_renewal.max(self.last_arrival) + PING_AFTER.min(self.ttl / 4)) } else { idle }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_deadline_counts_from_the_sending_of_the_last_answered_renewal() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.stream_began(1000 * MS, start);
        let first = liveness.renew(start + 10 * MS);
        liveness.renew(start + 260 * MS);
        liveness.renewed(first);
        assert_eq!(liveness.certain_until(), Some(start + 1010 * MS), "the second one is not answered");
        liveness.session_ended();
        assert_eq!(liveness.certain_until(), None);
    }

    #[test]
    fn silence_counts_only_while_something_is_unanswered() {
        let start = Instant::now();
        let mut liveness = Liveness::new(start);
        liveness.stream_began(8000 * MS, start);
        liveness.sent(false, start);
        assert_eq!(liveness.silence(start + 1900 * MS), Silence::None);
        assert!(
            !liveness.is_renewal_due(false, start + 1900 * MS) && liveness.is_renewal_due(false, start + 2000 * MS)
        );
        liveness.sent(true, start + 1000 * MS);
        assert!(liveness.is_renewal_due(true, start + 1250 * MS), "a ping");
        assert_eq!(liveness.silence(start + 1749 * MS), Silence::None);
        assert_eq!(liveness.silence(start + 1750 * MS), Silence::Search);
        assert_eq!(liveness.silence(start + 4000 * MS), Silence::GiveUp);
        liveness.arrived(true, start + 1800 * MS);
        assert_eq!(liveness.silence(start + 2500 * MS), Silence::None);
        liveness.arrived(false, start + 2500 * MS);
        assert_eq!(liveness.silence(start + 9000 * MS), Silence::None);
    }
}
