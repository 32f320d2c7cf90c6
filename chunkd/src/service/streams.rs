//! What this server remembers about chunks that are being written: the queue of each, which grant writes, which grants broke.
//!
//! Invariants:
//! - Fragments of one chunk are worked on one at a time, in the order in which they came.
//! - After a fragment of a (chunk, version, grant) failed here or behind, no later one of it is applied here (W4: no gaps),
//!   until a higher version or grant comes. Memory for this is bounded: past `limits::BROKEN_GRANTS` all grants up to the
//!   highest broken one are refused, whatever their chunk; their writers get new ones.
//! - Fragments of one grant that are under way together use one link: if it breaks, all of them fail, and none slips through
//!   on the next link before that is known.
//!
//! Plain state under one lock that is never held across an await. It does not know the store; `apply` asks it first.

use crate::chain::{Chain, Failure, Link};
use crate::limits;
use crate::service::write::Job;
use caribou_proto::chunk::v1::Status;
use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Whose stream a fragment belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) chunk: ChunkId,
    pub(crate) version: ChunkVersion,
    pub(crate) grant: GrantId,
}

impl Key {
    fn order(&self) -> (ChunkVersion, GrantId) {
        (self.version, self.grant)
    }
}

#[derive(Default)]
pub(crate) struct Streams {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    chunks: HashMap<ChunkId, Chunk>,
    broken: HashMap<ChunkId, Broken>,
    /// Grants up to this one are refused, because which of them broke has been forgotten.
    floor: GrantId,
}

#[derive(Default)]
struct Chunk {
    queue: VecDeque<Job>,
    /// A worker takes from the queue.
    running: bool,
    stream: Option<Stream>,
}

struct Stream {
    key: Key,
    next: Option<Holder>,
    link: Option<Arc<Link>>,
    /// Written here and not settled yet.
    in_flight: usize,
    ended: CancellationToken,
}

struct Broken {
    key: Key,
    failure: Failure,
}

impl Streams {
    /// Queues a fragment. True: nobody works on the chunk, the caller starts a worker.
    pub(crate) fn push(&self, chunk: ChunkId, job: Job) -> bool {
        let mut inner = self.inner.lock();
        let held = inner.chunks.entry(chunk).or_default();
        held.queue.push_back(job);
        !std::mem::replace(&mut held.running, true)
    }

    /// The worker's next fragment; `None`: the worker is done.
    pub(crate) fn pop(&self, chunk: ChunkId) -> Option<Job> {
        let mut inner = self.inner.lock();
        let held = inner.chunks.get_mut(&chunk)?;
        let job = held.queue.pop_front();
        if job.is_none() {
            held.running = false;
            inner.tidy(chunk);
        }
        job
    }

    /// W4: whether a fragment may be applied at all, before anything is done with it.
    pub(crate) fn check(&self, key: &Key) -> Result<(), Failure> {
        self.inner.lock().check(key)
    }

    /// The store has taken the fragment, so its version and grant are the right ones: counts it as under way.
    /// The token tells when its version has been fenced (V1) and nobody waits for it any more.
    pub(crate) fn enter(&self, key: &Key, next: Option<&Holder>) -> Result<CancellationToken, Failure> {
        let mut inner = self.inner.lock();
        inner.check(key)?;
        // Not refused, so what broke before is older.
        inner.broken.remove(&key.chunk);
        let held = inner.chunks.entry(key.chunk).or_default();
        if let Some(stream) = &mut held.stream
            && stream.key == *key
        {
            if stream.next.as_ref() != next {
                let detail = "the chain changed within one grant".to_owned();
                return Err(Failure { status: Status::Invalid, detail, server: 0 });
            }
            stream.in_flight += 1;
            return Ok(stream.ended.clone());
        }
        let ended = CancellationToken::new();
        let stream = Stream { key: *key, next: next.cloned(), link: None, in_flight: 1, ended: ended.clone() };
        if let Some(old) = held.stream.replace(stream) {
            old.ended.cancel();
        }
        Ok(ended)
    }

    /// The link that a fragment under way has to take. A broken one is returned as it is while others of the stream are under
    /// way, because they are about to fail on it.
    pub(crate) fn link(&self, key: &Key, behind: usize, chain: &Arc<Chain>) -> Result<Arc<Link>, Failure> {
        let mut inner = self.inner.lock();
        inner.check(key)?;
        let stream = inner.chunks.get_mut(&key.chunk).and_then(|held| held.stream.as_mut());
        let Some(stream) = stream.filter(|stream| stream.key == *key) else {
            return Err(fenced());
        };
        if stream.in_flight > 1
            && let Some(link) = &stream.link
        {
            return Ok(link.clone());
        }
        let Some(next) = &stream.next else {
            return Err(Failure {
                status: Status::Invalid,
                detail: "the tail has no next member".to_owned(),
                server: 0,
            });
        };
        let link = chain.link(next.server_id, &next.address, behind);
        stream.link = Some(link.clone());
        Ok(link)
    }

    /// A fragment that had entered is done. A success counts only if nothing of its stream failed meanwhile.
    pub(crate) fn settle(&self, key: &Key, outcome: Result<(), Failure>) -> Result<(), Failure> {
        let mut inner = self.inner.lock();
        if let Err(failure) = &outcome {
            inner.break_off(key, failure);
        }
        let outcome = outcome.and_then(|()| inner.check(key));
        if let Some(held) = inner.chunks.get_mut(&key.chunk)
            && let Some(stream) = &mut held.stream
            && stream.key == *key
        {
            stream.in_flight = stream.in_flight.saturating_sub(1);
        }
        inner.tidy(key.chunk);
        outcome
    }

    /// W4: nothing of this stream is applied here any more.
    pub(crate) fn break_off(&self, key: &Key, failure: &Failure) {
        self.inner.lock().break_off(key, failure);
    }

    /// V1: versions below this one are over here, and the store refuses them: what waits for them ends, what broke is forgotten.
    pub(crate) fn fence(&self, chunk: ChunkId, version: ChunkVersion) {
        let mut inner = self.inner.lock();
        if inner.broken.get(&chunk).is_some_and(|broken| broken.key.version < version) {
            inner.broken.remove(&chunk);
        }
        if let Some(held) = inner.chunks.get_mut(&chunk)
            && held.stream.as_ref().is_some_and(|stream| stream.key.version < version)
            && let Some(stream) = held.stream.take()
        {
            stream.ended.cancel();
        }
        inner.tidy(chunk);
    }

    /// Chunks that are being written, and grants that are remembered as broken.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let inner = self.inner.lock();
        (inner.chunks.len(), inner.broken.len())
    }
}

impl Inner {
    fn check(&self, key: &Key) -> Result<(), Failure> {
        if let Some(broken) = self.broken.get(&key.chunk)
            && key.order() <= broken.key.order()
        {
            let detail = format!("an earlier fragment of this grant failed: {}", broken.failure.detail);
            return Err(Failure { detail, ..broken.failure.clone() });
        }
        if key.grant <= self.floor {
            let detail = "too many grants broke on this server to tell them apart; take a new one".to_owned();
            return Err(Failure { status: Status::OldGrant, detail, server: 0 });
        }
        Ok(())
    }

    fn break_off(&mut self, key: &Key, failure: &Failure) {
        if self.broken.get(&key.chunk).is_some_and(|broken| broken.key.order() >= key.order()) {
            return;
        }
        if self.broken.len() >= limits::BROKEN_GRANTS {
            self.floor = self.broken.values().map(|broken| broken.key.grant).max().unwrap_or_default().max(self.floor);
            self.broken.clear();
        }
        self.broken.insert(key.chunk, Broken { key: *key, failure: failure.clone() });
    }

    fn tidy(&mut self, chunk: ChunkId) {
        if let Some(held) = self.chunks.get(&chunk)
            && !held.running
            && held.queue.is_empty()
            && held.stream.as_ref().is_none_or(|stream| stream.in_flight == 0)
        {
            self.chunks.remove(&chunk);
        }
    }
}

/// V1: what a fragment gets whose version is over.
pub(crate) fn fenced() -> Failure {
    Failure { status: Status::WrongVersion, detail: "a recovery of the chunk has begun".to_owned(), server: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(chunk: u64, version: u64, grant: u64) -> Key {
        Key { chunk: ChunkId(chunk), version: ChunkVersion(version), grant: GrantId(grant) }
    }
    fn failure(detail: &str) -> Failure {
        Failure { status: Status::Downstream, detail: detail.to_owned(), server: 3 }
    }

    #[test]
    fn nothing_of_a_broken_grant_passes_until_a_higher_one_or_a_fence() {
        let streams = Streams::default();
        let (one, two) = (key(1, 5, 10), key(1, 5, 10));
        streams.enter(&one, None).unwrap();
        streams.enter(&two, None).unwrap();
        streams.settle(&one, Err(failure("lost"))).unwrap_err();
        let late = streams.settle(&two, Ok(())).unwrap_err();
        assert_eq!((late.status, late.server), (Status::Downstream, 3));
        assert!(streams.check(&one).is_err());
        assert!(streams.check(&key(1, 5, 9)).is_err(), "an older grant neither");
        assert!(streams.check(&key(1, 4, 11)).is_err(), "nor an older version");
        assert!(streams.check(&key(2, 5, 10)).is_ok(), "other chunks go on");
        assert!(streams.check(&key(1, 5, 11)).is_ok());
        streams.fence(ChunkId(1), ChunkVersion(6));
        assert!(streams.check(&key(1, 6, 10)).is_ok());
        assert_eq!(streams.counts(), (0, 0));
    }

    #[test]
    fn a_fence_releases_what_waits() {
        let streams = Streams::default();
        let ended = streams.enter(&key(1, 5, 10), None).unwrap();
        streams.fence(ChunkId(1), ChunkVersion(5));
        assert!(!ended.is_cancelled());
        streams.fence(ChunkId(1), ChunkVersion(6));
        assert!(ended.is_cancelled());
        streams.settle(&key(1, 5, 10), Ok(())).unwrap();
        assert_eq!(streams.counts(), (0, 0));
    }

    #[test]
    fn the_memory_of_broken_grants_is_bounded_and_errs_on_the_safe_side() {
        let streams = Streams::default();
        for chunk in 0..=limits::BROKEN_GRANTS as u64 {
            streams.break_off(&key(chunk, 1, chunk + 1), &failure("x"));
        }
        assert_eq!(streams.counts().1, 1);
        assert!(streams.check(&key(3, 1, 4)).is_err());
        assert!(streams.check(&key(3, 1, limits::BROKEN_GRANTS as u64 + 5)).is_ok());
    }
}
