//! What everybody knows of a file, also when its owner is gone.

use std::ops::Range;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::content::{Change, pattern};
use super::history::{Bound, Call, History, Wrong};
use crate::findings::Findings;
use crate::places::{Place, Unsynced};

/// See the module.
#[derive(Debug)]
pub struct Ledger {
    pub inode: u64,
    history: Mutex<History>,
    /// When its owner was last taken for gone, with what it had not synced until then.
    orphaned_at: Mutex<Option<Instant>>,
}

fn tell(findings: &Findings, wrong: Option<Wrong>) {
    wrong.into_iter().for_each(|(rule, what)| findings.violation(format!("{rule}: {what}")));
}

impl Ledger {
    pub fn new(inode: u64) -> Self {
        Self { inode, history: Mutex::new(History::new(inode)), orphaned_at: Mutex::default() }
    }

    /// As the owner must find it.
    pub fn size(&self) -> u64 {
        self.history.lock().size()
    }

    /// The owner is about to make this call. Known before: others may see it as soon as it is on its way. Its number.
    pub fn call(&self, change: Change, findings: &Findings) -> u64 {
        let text = format!("{change:?}");
        let number = self.history.lock().call(change, self.place(findings));
        findings.note(|| format!("file {}, call {number}: {text}", self.inode));
        number
    }

    /// The same of a write; what it is to bring.
    pub fn write(&self, range: &Range<u64>, findings: &Findings) -> Bytes {
        let number = self.call(Change::Write(range.clone()), findings);
        pattern(self.inode, number, range).collect()
    }

    /// The owner has closed the file, or changed its size, which writes back as well.
    pub fn closed(&self, findings: &Findings) {
        self.history.lock().close(self.place(findings));
        findings.note(|| format!("file {} is closed", self.inode));
    }

    pub fn synced(&self, findings: &Findings) {
        self.history.lock().sync();
        findings.note(|| format!("file {} is synced", self.inode));
    }

    /// The owner is gone, or may be taken for gone; what it writes when it is back counts as before (W5).
    pub fn orphan(&self, findings: &Findings) {
        *self.orphaned_at.lock() = Some(Instant::now());
        self.history.lock().placed(self.place(findings));
    }

    /// What whoever opens the file now counts on.
    pub fn bound(&self) -> Bound {
        self.history.lock().bound()
    }

    /// Somebody has read this after an open at `bound`.
    pub fn judge(&self, bound: &Bound, range: &Range<u64>, read: &[u8], findings: &Findings) {
        let orphaned_at = *self.orphaned_at.lock();
        // P2's exception, and no other: the writer is gone, and so is the power of all holders (`places.rs`).
        let may_be_lost = |call: &Call, chunk: u32| {
            let is_orphaned = orphaned_at.is_some_and(|at| call.called_at <= at);
            let known = call.places.iter().find(|(index, _)| *index == chunk);
            is_orphaned
                && known.is_some_and(|(_, places)| {
                    let bytes = Unsynced { written_at: call.called_at, places: places.clone() };
                    findings.places.may_have_lost((self.inode, chunk), &bytes)
                })
        };
        tell(findings, self.history.lock().judge(bound, range, read, may_be_lost));
    }

    /// Somebody has been told this size after an open at `bound`.
    pub fn judge_size(&self, bound: &Bound, size: u64, findings: &Findings) {
        tell(findings, self.history.lock().judge_size(bound, size));
    }

    /// The owner has read this: exactly what its calls have made.
    pub fn judge_own(&self, range: &Range<u64>, read: &[u8], findings: &Findings) {
        let history = self.history.lock();
        let wrong = history.judge(&history.all(), range, read, |_, _| false);
        tell(findings, wrong.map(|(_, what)| ("own writes", what)));
    }

    /// Where a chunk of the file is now.
    fn place(&self, findings: &Findings) -> impl Fn(u32) -> Option<Place> {
        let inode = self.inode;
        move |chunk| findings.places.get((inode, chunk))
    }
}
