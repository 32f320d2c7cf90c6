//! Ids deleted in this incarnation (ADR 1.9): a late fragment with a create token cannot bring them back.
//!
//! Bounded: when the list is full it is emptied, and from then on create tokens with a grant up to the highest seen before are refused.
//! That is always safe: the client's stream breaks and it resends into a new chunk (W2).

use std::collections::HashSet;

use caribou_proto::ids::{ChunkId, GrantId};
use parking_lot::Mutex;

/// Ids kept: 16 MiB or so.
const LIMIT: usize = 1 << 20;

#[derive(Default)]
pub(crate) struct Tombstones(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    deleted: HashSet<ChunkId>,
    /// Grants up to this one create nothing.
    floor: GrantId,
    highest_grant: GrantId,
}

impl Tombstones {
    pub(crate) fn add(&self, chunk: ChunkId) {
        let mut inner = self.0.lock();
        if inner.deleted.len() >= LIMIT {
            inner.deleted.clear();
            inner.floor = inner.highest_grant;
        }
        inner.deleted.insert(chunk);
    }

    /// A committed command brings the chunk back.
    pub(crate) fn remove(&self, chunk: ChunkId) {
        self.0.lock().deleted.remove(&chunk);
    }

    /// Whether a create token may not make this chunk.
    pub(crate) fn forbids(&self, chunk: ChunkId, grant: GrantId) -> bool {
        let mut inner = self.0.lock();
        inner.highest_grant = inner.highest_grant.max(grant);
        inner.deleted.contains(&chunk) || (inner.floor != GrantId(0) && grant <= inner.floor)
    }

    pub(crate) fn contains(&self, chunk: ChunkId) -> bool {
        self.0.lock().deleted.contains(&chunk)
    }
}
