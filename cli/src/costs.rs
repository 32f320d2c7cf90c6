//! What work costs the metadata nodes, from their own counters: entries, fsyncs, messages, changes of threads, time of the processors.
//!
//! Counters are of a node since it started. Those of all nodes are added up, and what came between two looks is divided by the operations that
//! were done; whatever else the nodes do meanwhile (heartbeats above all) is in it.

use std::fmt;
use std::iter::Sum;

use caribou_proto::admin::v1::Counters;
use serde::Serialize;

/// Since a node started, or of several nodes together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Costs {
    /// Of the Raft log, that the node has proposed.
    pub entries: u64,
    pub log_fsyncs: u64,
    /// Sent to other metadata nodes.
    pub peer_messages: u64,
    /// Of clients' sessions, in both directions.
    pub client_messages: u64,
    /// Of the threads that there are at the time.
    pub context_switches: u64,
    pub cpu_ms: u64,
}

/// What one operation has cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct EachCosts {
    pub entries: f64,
    pub log_fsyncs: f64,
    pub peer_messages: f64,
    pub client_messages: f64,
    pub context_switches: f64,
    pub cpu_us: f64,
}

impl From<&Counters> for Costs {
    fn from(counters: &Counters) -> Self {
        Self {
            entries: counters.entries,
            log_fsyncs: counters.log_fsyncs,
            peer_messages: counters.peer_messages,
            client_messages: counters.client_messages,
            context_switches: counters.context_switches,
            cpu_ms: counters.cpu_ms,
        }
    }
}

impl Sum for Costs {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| a.with(b, |a, b| a + b))
    }
}

impl Costs {
    /// What came since an earlier look. Nothing where a node has started anew, or a thread has ended with what it had counted.
    pub fn since(self, earlier: Self) -> Self {
        self.with(earlier, u64::saturating_sub)
    }

    /// Divided by operations; `None` if there were none.
    pub fn each(self, operations: u64) -> Option<EachCosts> {
        let each = |count: u64| count as f64 / operations as f64;
        (operations > 0).then(|| EachCosts {
            entries: each(self.entries),
            log_fsyncs: each(self.log_fsyncs),
            peer_messages: each(self.peer_messages),
            client_messages: each(self.client_messages),
            context_switches: each(self.context_switches),
            cpu_us: each(self.cpu_ms * 1000),
        })
    }

    fn with(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            entries: join(self.entries, other.entries),
            log_fsyncs: join(self.log_fsyncs, other.log_fsyncs),
            peer_messages: join(self.peer_messages, other.peer_messages),
            client_messages: join(self.client_messages, other.client_messages),
            context_switches: join(self.context_switches, other.context_switches),
            cpu_ms: join(self.cpu_ms, other.cpu_ms),
        }
    }
}

impl fmt::Display for EachCosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} entries, {:.2} fsyncs, {:.2} messages between nodes, {:.2} with clients, {:.1} changes of threads, {:.0} µs of the processors",
            self.entries, self.log_fsyncs, self.peer_messages, self.client_messages, self.context_switches, self.cpu_us
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn costs(entries: u64, cpu_ms: u64) -> Costs {
        Costs { entries, log_fsyncs: 3 * entries, cpu_ms, ..Costs::default() }
    }

    #[test]
    fn what_came_between_two_looks_at_all_nodes_is_divided_by_the_operations() {
        let before: Costs = [costs(10, 5), costs(0, 7)].into_iter().sum();
        let after: Costs = [costs(20, 8), costs(0, 8)].into_iter().sum();
        let each = after.since(before).each(40).expect("operations");
        assert_eq!((each.entries, each.log_fsyncs, each.cpu_us), (0.25, 0.75, 100.0));
        assert!(each.to_string().starts_with("0.25 entries, 0.75 fsyncs"), "{each}");
        assert_eq!(after.each(0), None);
        assert_eq!(before.since(after), Costs::default(), "a node has started anew");
    }
}
