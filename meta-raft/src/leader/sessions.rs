//! Idle time and expiry of sessions (S3, S4), and the purge of orphans that nobody has open (S7).
//!
//! A session's idle time is committed in steps, so that a new leader does not begin at zero, and never counts time in which the session was
//! heard of or this node did not lead. An addition is announced in `Shared::seen` before it is proposed, so that a renewal waits for it and
//! takes it back.

use std::collections::{BTreeMap, BTreeSet};

use caribou_proto::ids::{InodeId, SessionId};
use tokio::time::Instant;

use super::context::{Cx, Why};
use super::limits;
use crate::fsm::command::{Command, IdleStep};
use crate::fsm::error::Fatal;
use crate::fsm::reply::Reply;
use crate::fsm::tables::sessions::{self, SessionState};
use crate::fsm::tables::{Visit, meta, orphans};

pub(crate) struct Sessions {
    /// Until when each session's silence is committed.
    counted: BTreeMap<SessionId, Instant>,
    /// Live sessions at the last scan; `None` before the first.
    live: Option<Vec<SessionId>>,
    expiring: BTreeSet<SessionId>,
    next_scan: Instant,
    next_forget: Instant,
    /// Where the scan of the orphans is; `None`: it is done.
    orphan_scan: Option<InodeId>,
}

impl Sessions {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            counted: BTreeMap::new(),
            live: None,
            expiring: BTreeSet::new(),
            next_scan: now,
            next_forget: now,
            orphan_scan: Some(InodeId(0)),
        }
    }

    pub(crate) fn rescan(&mut self, now: Instant) {
        self.next_scan = now;
        self.orphan_scan = Some(InodeId(0));
    }

    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        if cx.now >= self.next_scan {
            self.next_scan = cx.now + limits::SESSION_SCAN;
            self.scan(cx)?;
        }
        if cx.now >= self.next_forget {
            self.next_forget = cx.now + limits::FORGET_INTERVAL;
            self.forget(cx)?;
        }
        self.find_orphans(cx)?;
        self.purge(cx);
        Ok(())
    }

    fn scan(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        let mut live = Vec::new();
        let mut over = Vec::new();
        let mut silent = Vec::new();
        let ttl_ms = limits::SESSION_TTL.as_millis() as u64;
        sessions::scan(cx.tables, SessionId(0), &mut |id, session| {
            match session.state {
                SessionState::Live if session.idle_ms >= ttl_ms && self.silence(cx, id) => over.push(id),
                SessionState::Live => {
                    if let Some(add) = self.idle_step(cx, id) {
                        silent.push((id, add));
                    }
                }
                SessionState::Ending { .. } => over.push(id),
                SessionState::Ended { .. } => {}
            }
            if session.state == SessionState::Live {
                live.push(id);
            }
            Ok(Visit::Next)
        })?;
        self.counted.retain(|id, _| live.binary_search(id).is_ok());
        self.live = Some(live);
        self.add_idle(cx, silent);
        for session in over {
            self.expire(cx, session);
        }
        Ok(())
    }

    /// Whether the session has not been heard of since its silence was last committed.
    fn silence(&self, cx: &Cx<'_>, session: SessionId) -> bool {
        let counted = self.counted.get(&session).copied().unwrap_or(cx.since);
        cx.shared.seen.last(session).is_none_or(|last| last <= counted)
    }

    /// Since when the session is silent, if that is a step ago and not committed yet.
    fn idle_step(&self, cx: &Cx<'_>, session: SessionId) -> Option<Instant> {
        let heard = cx.shared.seen.last(session).unwrap_or(cx.since).max(cx.since);
        let from = self.counted.get(&session).map_or(heard, |counted| heard.max(*counted));
        (cx.now >= from + limits::IDLE_STEP).then_some(from)
    }

    fn add_idle(&mut self, cx: &mut Cx<'_>, silent: Vec<(SessionId, Instant)>) {
        let mut steps = Vec::new();
        for (session, from) in silent {
            // A renewal that comes from here on waits for this addition, and takes it back.
            if cx.shared.seen.begin(session, from) {
                self.counted.insert(session, from + limits::IDLE_STEP);
                steps.push(IdleStep { session, add_ms: limits::IDLE_STEP.as_millis() as u64 });
            }
        }
        for batch in steps.chunks(limits::IDLE_BATCH) {
            let why = Why::AddIdle(batch.iter().map(|s| s.session).collect());
            cx.propose(why, vec![Command::AddIdle { sessions: batch.to_vec() }]);
        }
    }

    fn expire(&mut self, cx: &mut Cx<'_>, session: SessionId) {
        if self.expiring.len() < limits::EXPIRIES && self.expiring.insert(session) {
            let ttl_ms = limits::SESSION_TTL.as_millis() as u64;
            cx.propose(Why::Expire(session), vec![Command::ExpireSession { session, ttl_ms }]);
        }
    }

    /// One step of an expiry has been applied.
    pub(crate) fn expired(&mut self, cx: &mut Cx<'_>, session: SessionId, reply: &Reply) {
        self.expiring.remove(&session);
        if *reply == (Reply::Progress { finished: false }) {
            self.expire(cx, session);
        }
    }

    fn forget(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        let retention_ns = limits::SESSION_RETENTION.as_nanos() as i64;
        let before_ns = meta::last_time_ns(cx.tables)?.saturating_sub(retention_ns);
        if before_ns > 0 {
            cx.propose(Why::Forget, vec![Command::ForgetSessions { before_ns, limit: limits::FORGET_BATCH }]);
        }
        Ok(())
    }

    pub(crate) fn forgot(&mut self, now: Instant, reply: &Reply) {
        if *reply == (Reply::Progress { finished: false }) {
            self.next_forget = now;
        }
    }

    fn find_orphans(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        let Some(after) = self.orphan_scan else { return Ok(()) };
        let page = orphans::page(cx.tables, after, limits::PAGE)?;
        self.orphan_scan = page.last().copied().filter(|_| page.len() == limits::PAGE);
        let mut claims = cx.shared.claims.lock();
        for inode in page {
            claims.orphaned(inode);
        }
        Ok(())
    }

    /// S7: proposed only when every live session has told its claims in this term; `apply` re-checks the links.
    fn purge(&mut self, cx: &mut Cx<'_>) {
        let Some(live) = &self.live else { return };
        let inodes = cx.shared.claims.lock().purgeable(live, limits::PURGE_BATCH);
        if !inodes.is_empty() {
            cx.propose(Why::Purge(inodes.clone()), vec![Command::PurgeOrphans { inodes }]);
        }
    }
}

#[cfg(test)]
mod tests;
