//! Carries committed deletions out (R4): Delete to the server, then `GarbageDone`.
//!
//! There are two sorts. Where the chunk still has a row, the replica is a stale one: a Ready or RepairDone left it out, or it was lost, and it
//! may lack writes that came after. So it is deleted even if the chunk is below its goal – the server keeps the bytes in its quarantine. On a
//! new stream these go first, ahead of the server's read lease (M3, `Liveness::open_gate`): a Delete blocks reads of its chunk from the moment
//! the server takes it. Where the chunk is gone there is only room to be won, in the background.

use std::collections::{BTreeMap, HashMap};

use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{CommandResult, Delete, Status};
use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};
use tokio::time::Instant;

use super::context::{Cx, Why};
use super::limits;
use super::links::Purpose;
use crate::fsm::command::Command;
use crate::fsm::error::Fatal;
use crate::fsm::tables::{chunks, garbage};

#[derive(Default)]
pub(crate) struct Collector {
    servers: BTreeMap<ServerId, Queue>,
}

struct Queue {
    /// Up to here the rows of stale replicas have been sent; `None`: all of them, and the others may follow.
    stale: Option<Option<ChunkId>>,
    /// Rows of both sorts up to here have been sent; `None`: from the beginning.
    after: Option<ChunkId>,
    /// All rows that there were have been sent.
    exhausted: bool,
    in_flight: HashMap<ChunkId, ChunkVersion>,
    done: BTreeMap<ChunkId, ChunkVersion>,
    committing: BTreeMap<ChunkId, ChunkVersion>,
    /// Since the last scan: they are not sent again before the next one.
    refused: HashMap<ChunkId, ChunkVersion>,
    next_scan: Instant,
}

impl Queue {
    fn new(now: Instant) -> Self {
        Self {
            stale: Some(None),
            after: None,
            exhausted: false,
            in_flight: HashMap::new(),
            done: BTreeMap::new(),
            committing: BTreeMap::new(),
            refused: HashMap::new(),
            next_scan: now + limits::GARBAGE_SCAN,
        }
    }

    fn is_known(&self, chunk: ChunkId, version: ChunkVersion) -> bool {
        self.in_flight.get(&chunk).is_some_and(|v| *v >= version)
            || self.done.get(&chunk).is_some_and(|v| *v >= version)
            || self.committing.get(&chunk).is_some_and(|v| *v >= version)
            || self.refused.get(&chunk).is_some_and(|v| *v >= version)
    }

    /// Sends a deletion, unless it has been sent; false if there is no room for it.
    fn send(&mut self, cx: &mut Cx<'_>, server: ServerId, chunk: ChunkId, version: ChunkVersion) -> bool {
        if self.is_known(chunk, version) {
            return true;
        }
        let delete = Delete { up_to_version: version.0 };
        let sent = cx.send(server, chunk, Body::Delete(delete), Purpose::Delete { chunk, version });
        if sent {
            self.in_flight.insert(chunk, version);
        }
        sent
    }
}

impl Collector {
    /// A server has a new stream: everything is sent anew.
    pub(crate) fn server_attached(&mut self, now: Instant, server: ServerId) {
        self.servers.insert(server, Queue::new(now));
    }

    pub(crate) fn server_detached(&mut self, server: ServerId) {
        self.servers.remove(&server);
    }

    /// There is new garbage for a server: the next tick sends it. One that refuses what it has been sent gets it with the next scan.
    pub(crate) fn added(&mut self, server: ServerId) {
        if let Some(queue) = self.servers.get_mut(&server).filter(|queue| queue.refused.is_empty()) {
            queue.after = None;
            queue.exhausted = false;
        }
    }

    /// Effects were dropped: there may be garbage that nobody has told of.
    pub(crate) fn rescan(&mut self) {
        for queue in self.servers.values_mut() {
            queue.after = None;
            queue.exhausted = false;
        }
    }

    /// Sends deletions of an attached server's stale replicas, from where the last call ended; whether all are on their way.
    pub(crate) fn send_stale(&mut self, cx: &mut Cx<'_>, server: ServerId, pages: usize) -> Result<bool, Fatal> {
        let Some(queue) = self.servers.get_mut(&server) else { return Ok(false) };
        for _ in 0..pages {
            let Some(after) = queue.stale else { break };
            let page = garbage::page(cx.tables, server, after, limits::PAGE)?;
            let is_last = page.len() < limits::PAGE;
            for (chunk, version) in page {
                if chunks::get(cx.tables, chunk)?.is_some() {
                    let is_room = queue.in_flight.len() < limits::DELETIONS;
                    if !is_room || !queue.send(cx, server, chunk, version) {
                        return Ok(false);
                    }
                }
                queue.stale = Some(Some(chunk));
            }
            if is_last {
                queue.stale = None;
            }
        }
        Ok(queue.stale.is_none())
    }

    /// There may be stale replicas among what [`Collector::send_stale`] has passed by.
    pub(crate) fn look_again(&mut self, server: ServerId) {
        if let Some(queue) = self.servers.get_mut(&server) {
            queue.stale = Some(None);
        }
    }

    /// Whether a deletion of this chunk is under way at the server: no copy may be made there meanwhile.
    pub(crate) fn is_deleting(&self, server: ServerId, chunk: ChunkId) -> bool {
        self.servers.get(&server).is_some_and(|q| q.in_flight.contains_key(&chunk))
    }

    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        for server in self.servers.keys().copied().collect::<Vec<_>>() {
            self.commit(cx, server);
            let queue = self.servers.get_mut(&server).expect("listed above");
            if cx.now >= queue.next_scan {
                queue.next_scan = cx.now + limits::GARBAGE_SCAN;
                queue.refused.clear();
                queue.after = None;
                queue.exhausted = false;
            }
            self.fill(cx, server)?;
        }
        Ok(())
    }

    /// Sends deletions until the server has enough under way or none is left; stale replicas have gone before.
    fn fill(&mut self, cx: &mut Cx<'_>, server: ServerId) -> Result<(), Fatal> {
        let Some(queue) = self.servers.get_mut(&server).filter(|queue| queue.stale.is_none()) else { return Ok(()) };
        while !queue.exhausted && queue.in_flight.len() < limits::DELETIONS {
            let page = garbage::page(cx.tables, server, queue.after, limits::PAGE)?;
            queue.exhausted = page.len() < limits::PAGE;
            for (chunk, version) in page {
                if !queue.send(cx, server, chunk, version) {
                    queue.exhausted = false;
                    return Ok(());
                }
                queue.after = Some(chunk);
            }
        }
        Ok(())
    }

    /// The server has answered a Delete; what it refused is sent again by the next scan.
    pub(crate) fn deleted(
        &mut self,
        server: ServerId,
        (chunk, version): (ChunkId, ChunkVersion),
        result: &CommandResult,
    ) {
        let Some(queue) = self.servers.get_mut(&server) else { return };
        // A Delete of a higher version may have been sent since.
        if queue.in_flight.get(&chunk) == Some(&version) {
            queue.in_flight.remove(&chunk);
        }
        if result.status() == Status::Ok {
            let done = queue.done.entry(chunk).or_insert(version);
            *done = version.max(*done);
        } else {
            // A disk that has failed refuses them all: one line until the next scan says it.
            if queue.refused.is_empty() {
                let (status, detail) = (result.status(), &result.detail);
                tracing::warn!(%server, %chunk, %version, ?status, detail, "a deletion failed; it is tried again");
            }
            queue.refused.insert(chunk, version);
        }
    }

    fn commit(&mut self, cx: &mut Cx<'_>, server: ServerId) {
        let Some(queue) = self.servers.get_mut(&server).filter(|q| !q.done.is_empty() && q.committing.is_empty())
        else {
            return;
        };
        let chunks: Vec<(ChunkId, ChunkVersion)> =
            queue.done.iter().take(limits::GARBAGE_BATCH).map(|(c, v)| (*c, *v)).collect();
        for (chunk, version) in &chunks {
            queue.done.remove(chunk);
            queue.committing.insert(*chunk, *version);
        }
        let command = Command::GarbageDone { server, chunks: chunks.clone() };
        cx.propose(Why::Garbage { server, chunks }, vec![command]);
    }

    pub(crate) fn committed(&mut self, server: ServerId, chunks: &[(ChunkId, ChunkVersion)]) {
        if let Some(queue) = self.servers.get_mut(&server) {
            for (chunk, _) in chunks {
                queue.committing.remove(chunk);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: Status) -> CommandResult {
        CommandResult { status: status as i32, ..CommandResult::default() }
    }

    #[test]
    fn a_higher_version_is_another_deletion() {
        let (server, chunk) = (ServerId(1), ChunkId(5));
        let mut collector = Collector::default();
        let mut queue = Queue::new(Instant::now());
        queue.committing.insert(chunk, ChunkVersion(2));
        assert!(queue.is_known(chunk, ChunkVersion(2)));
        assert!(!queue.is_known(chunk, ChunkVersion(3)), "what is being confirmed is the older one");
        queue.in_flight.insert(chunk, ChunkVersion(3));
        collector.servers.insert(server, queue);
        collector.deleted(server, (chunk, ChunkVersion(2)), &answer(Status::Ok));
        assert!(collector.is_deleting(server, chunk), "R2: no copy is made there yet");
        collector.deleted(server, (chunk, ChunkVersion(3)), &answer(Status::Ok));
        assert!(!collector.is_deleting(server, chunk));
    }

    #[test]
    fn what_a_failed_disk_refuses_waits_for_the_next_scan() {
        let (server, chunk) = (ServerId(1), ChunkId(5));
        let mut collector = Collector::default();
        let mut queue = Queue::new(Instant::now());
        queue.in_flight.insert(chunk, ChunkVersion(2));
        collector.servers.insert(server, queue);
        collector.deleted(server, (chunk, ChunkVersion(2)), &answer(Status::IoError));
        let queue = &collector.servers[&server];
        assert!(queue.is_known(chunk, ChunkVersion(2)), "new garbage does not send it again");
        assert!(!queue.is_known(chunk, ChunkVersion(3)));
        assert!(!collector.is_deleting(server, chunk), "R2: nothing is under way");
    }
}
