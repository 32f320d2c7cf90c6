//! What is true of the metadata nodes at every moment, checked whenever one of them has applied something or leads.
//!
//! - Election safety: a term has one leader; all nodes that know of one in a term know of the same.
//! - Log matching and state-machine safety: nodes that have applied the same index have the same state, whoever led, restarts included.
//! - Leader completeness: a leader that is ready has applied everything that any node had applied when it became ready.
//! - Terms of a node never go back, not over a crash either (a lost vote would).
//! - S3: no session ends before its time (`sessions.rs`).

use std::collections::BTreeMap;
use std::sync::Arc;

use caribou_meta_raft::raft::RaftNode;
use caribou_proto::ids::NodeId;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::findings::Findings;

#[derive(Debug, Default)]
struct Seen {
    /// Per index: the state's hash, and who had it first.
    states: BTreeMap<u64, (u64, u64)>,
    /// Per term, whoever any node takes for its leader.
    elected: BTreeMap<u64, NodeId>,
    /// Per term, who was ready to lead it.
    leaders: BTreeMap<u64, u64>,
    /// Per node.
    terms: BTreeMap<u64, u64>,
    applied: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Invariants {
    findings: Arc<Findings>,
    seen: Mutex<Seen>,
}

/// Indices whose states are remembered.
const REMEMBERED: usize = 100_000;

impl Invariants {
    pub fn new(findings: Arc<Findings>) -> Arc<Self> {
        Arc::new(Self { findings, seen: Mutex::default() })
    }

    /// Looks at a node for as long as its machine has power: what it still syncs and applies afterwards has never been. Nothing else runs between a change and the look at it: there is one thread, and the node's
    /// state, its index and its role change without a pause in between.
    pub fn watch(self: &Arc<Self>, id: u64, raft: &RaftNode, over: CancellationToken) {
        let (mut applied, mut leader) = (raft.applied(), raft.leader());
        let (invariants, raft) = (Arc::clone(self), raft.downgrade());
        tokio::spawn(async move {
            loop {
                let Some(node) = raft.upgrade().filter(|_| !over.is_cancelled()) else { return };
                applied.borrow_and_update();
                leader.borrow_and_update();
                invariants.look(id, &node);
                drop(node);
                let changed = tokio::select! {
                    changed = applied.changed() => changed,
                    changed = leader.changed() => changed,
                };
                if changed.is_err() {
                    return;
                }
            }
        });
    }

    fn look(&self, id: u64, raft: &RaftNode) {
        let (index, leader) = (*raft.applied().borrow(), raft.leader().borrow().clone());
        let view = raft.view();
        let hash = match view.state_hash() {
            Ok(hash) => hash,
            Err(error) => return self.findings.violation(format!("node {id}: {error}")),
        };
        self.findings.on_trail(|| format!("node {id} has applied {index}, state {hash:016x}, {leader:?}"));
        let mut seen = self.seen.lock();
        if index > seen.applied {
            let term = seen.leaders.last_key_value().map_or(0, |(term, _)| *term);
            match self.findings.sessions.applied(&view, term) {
                Ok(wrong) => wrong.into_iter().for_each(|what| self.findings.violation(what)),
                Err(error) => self.findings.violation(format!("node {id}: {error}")),
            }
            self.findings.places.update(view);
        }
        if index > 0 {
            let (known, by) = *seen.states.entry(index).or_insert((hash, id));
            self.findings.check(known == hash, || {
                format!(
                    "state-machine safety: at entry {index} node {id} has state {hash:016x}, node {by} had {known:016x}"
                )
            });
            if seen.states.len() > REMEMBERED {
                seen.states.pop_first();
            }
        }
        if leader.term > 0 {
            let before = seen.terms.insert(id, leader.term).unwrap_or(0);
            self.findings
                .check(before <= leader.term, || format!("node {id} went back from term {before} to {}", leader.term));
        }
        if let Some(known) = leader.leader_id {
            let (term, first) = (leader.term, *seen.elected.entry(leader.term).or_insert(known));
            self.findings
                .check(first == known, || format!("election safety: {first} and {known} were elected in term {term}"));
        }
        if leader.ready {
            let (term, applied) = (leader.term, seen.applied);
            match seen.leaders.insert(term, id) {
                Some(by) => {
                    self.findings.check(by == id, || format!("election safety: {by} and {id} lead term {term}"));
                }
                None => self.findings.check(index >= applied, || {
                    format!("leader completeness: node {id} begins to lead term {term} at entry {index}, {applied} had been applied")
                }),
            }
        }
        seen.applied = seen.applied.max(index);
    }
}
