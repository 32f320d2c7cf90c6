//! Chunk servers that come and go: leases for those that know what they must not serve, `ServerDown` for those that are silent (F2, ADR 7),
//! the chunks that came back dirty (V3), and the candidates for placement.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;

use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, ServerId};
use tokio::time::Instant;

use super::context::{Cx, Why};
use super::garbage::Collector;
use super::limits;
use super::links::Room;
use super::placement::Candidate;
use super::recovery::Recovery;
use crate::fsm::command::{Command, IntentKind, RegisterServer, StartIntent};
use crate::fsm::error::Fatal;
use crate::fsm::tables::chunks::{self, Chunk, Replica};
use crate::fsm::tables::servers;

#[derive(Default)]
pub(crate) struct Liveness {
    /// Streams whose heartbeats are not answered yet.
    gated: BTreeMap<ServerId, u64>,
    downing: BTreeSet<(ServerId, Incarnation)>,
    /// Chunks that a server has told to be dirty, until a Ready has named it anew.
    dirty: BTreeMap<ServerId, Dirty>,
    /// When a server's room was last committed.
    room_committed: HashMap<ServerId, Instant>,
    next_placement: Option<Instant>,
}

/// What one server has told to be dirty.
struct Dirty {
    /// With the version that each had when it was first looked at.
    chunks: BTreeMap<ChunkId, Option<ChunkVersion>>,
    /// Whose turn it was last; `None`: the next turn is that of the first.
    last: Option<ChunkId>,
}

impl Dirty {
    /// Those to look at in this tick: all have their turn, again and again.
    fn turn(&mut self) -> Vec<ChunkId> {
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.chunks.range::<ChunkId, _>((after, Bound::Unbounded)).map(|(chunk, _)| *chunk);
        let turn: Vec<ChunkId> = rest.take(limits::DIRTY_BATCH).collect();
        self.last = turn.last().copied().filter(|_| turn.len() == limits::DIRTY_BATCH);
        turn
    }
}

impl Liveness {
    pub(crate) fn attached(&mut self, cx: &mut Cx<'_>, server: ServerId, stream: u64, dirty: Vec<ChunkId>) {
        cx.shared.leases.shut(server);
        self.gated.insert(server, stream);
        let chunks = dirty.into_iter().map(|chunk| (chunk, None)).collect();
        self.dirty.insert(server, Dirty { chunks, last: None });
        self.next_placement = None;
    }

    pub(crate) fn detached(&mut self, cx: &mut Cx<'_>, server: ServerId) {
        cx.shared.leases.shut(server);
        self.gated.remove(&server);
        self.dirty.remove(&server);
        self.next_placement = None;
    }

    pub(crate) fn changed(&mut self) {
        self.next_placement = None;
    }

    pub(crate) fn tick(
        &mut self,
        cx: &mut Cx<'_>,
        garbage: &mut Collector,
        recovery: &mut Recovery,
    ) -> Result<(), Fatal> {
        self.start_intents(cx, recovery)?;
        self.open_gates(cx, garbage, recovery)?;
        for server in cx.links.overdue(cx.now) {
            tracing::warn!(%server, "the control stream of a chunk server is silent; it is closed");
            cx.links.end(server);
        }
        self.down(cx)?;
        self.place(cx)
    }

    /// V3: what was in the dirty journal at an unclean start is recovered before it is served again. A record may be refused, and a recovery
    /// that was under way may name the server as it was before: it is looked at again until a Ready has named this incarnation.
    ///
    /// The dirty copy refuses readers by itself, an Intent would keep them from the other one as well: few at a time, except where somebody
    /// has to wait anyway, a writer, or readers that nobody serves.
    fn start_intents(&mut self, cx: &mut Cx<'_>, recovery: &mut Recovery) -> Result<(), Fatal> {
        for server in self.dirty.keys().copied().collect::<Vec<_>>() {
            let Some(incarnation) = cx.links.get(server).map(|link| link.incarnation) else { continue };
            let turn = self.dirty.get_mut(&server).map(Dirty::turn).unwrap_or_default();
            let mut starts = Vec::new();
            for chunk in turn {
                let Some(row) = self.still_dirty(cx, Replica { server, incarnation }, chunk)? else { continue };
                let is_waited_for = row.grant.is_some() || !self.is_served(cx, server, &row, chunk);
                if row.intent.is_none() && (is_waited_for || starts.len() < recovery.room()) {
                    let grant = row.grant.map(|g| g.id);
                    starts.push(StartIntent { chunk, version: row.version, grant, kind: IntentKind::Recover });
                }
            }
            recovery.start(cx, starts);
        }
        self.dirty.retain(|_, dirty| !dirty.chunks.is_empty());
        Ok(())
    }

    /// The chunk, unless this holder has nothing of it to recover any more.
    fn still_dirty(&mut self, cx: &Cx<'_>, holder: Replica, chunk: ChunkId) -> Result<Option<Chunk>, Fatal> {
        let Some(dirty) = self.dirty.get_mut(&holder.server) else { return Ok(None) };
        let Some(row) = chunks::get(cx.tables, chunk)?.filter(|row| row.replica(holder.server).is_some()) else {
            dirty.chunks.remove(&chunk);
            return Ok(None);
        };
        let first = *dirty.chunks.entry(chunk).or_default().get_or_insert(row.version);
        if row.version > first && row.replicas.contains(&holder) {
            dirty.chunks.remove(&chunk);
            return Ok(None);
        }
        Ok(Some(row))
    }

    /// Whether another holder may have a lease, and has not told the chunk to be dirty as well.
    fn is_served(&self, cx: &Cx<'_>, server: ServerId, row: &Chunk, chunk: ChunkId) -> bool {
        let in_doubt = |other: ServerId| self.dirty.get(&other).is_some_and(|dirty| dirty.chunks.contains_key(&chunk));
        let mut others = row.replicas.iter().map(|replica| replica.server).filter(|other| *other != server);
        others.any(|other| !cx.is_silent(other) && !in_doubt(other))
    }

    fn open_gates(&mut self, cx: &mut Cx<'_>, garbage: &mut Collector, recovery: &Recovery) -> Result<(), Fatal> {
        for server in self.gated.keys().copied().collect::<Vec<_>>() {
            self.open_gate(cx, garbage, recovery, server)?;
        }
        Ok(())
    }

    /// M3: a server may answer reads once a command ahead of the answer on its stream names every replica that it must not serve.
    ///
    /// Those are what its garbage names of chunks that have a row: these went on without it, and readers must not go back. A chunk without a
    /// row never gets one again (F1); nobody is told of its place, there is no newer copy, and a file that is unlinked and open keeps its rows
    /// (S7). Who still knows the place has not heard that the file was cut or is gone. Servers that were never away answer it as well until
    /// their Delete comes: no record waits for that, and what ends it is the file's data generation, not the lease (docs/adr/0008).
    ///
    /// What is added to the garbage behind the search: a Ready that leaves this server out is waited for, and the search begins anew; any
    /// other one leaves an attached server out only where it refuses the old version by itself (`recovery`).
    pub(crate) fn open_gate(
        &mut self,
        cx: &mut Cx<'_>,
        garbage: &mut Collector,
        recovery: &Recovery,
        server: ServerId,
    ) -> Result<(), Fatal> {
        let Some(stream) = self.gated.get(&server).copied() else { return Ok(()) };
        // Each gets on, however much the others have.
        let pages = limits::GATE_PAGES.div_ceil(self.gated.len());
        if recovery.leaves_out(server) {
            garbage.look_again(server);
        } else if garbage.send_stale(cx, server, pages)? {
            self.gated.remove(&server);
            cx.shared.leases.open(server, stream);
        }
        Ok(())
    }

    /// ADR 7: silent for TTL + 10 %, whoever answered it last.
    fn down(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        for (server, row) in servers::all(cx.tables)? {
            let attached = cx.links.get(server).is_some();
            // A record that was on its way when the server came back has crossed its registration.
            if !row.up
                && cx.links.is_attached(server, row.incarnation)
                && self.downing.insert((server, row.incarnation))
            {
                let (total_bytes, free_bytes) = (row.total_bytes, row.free_bytes);
                let (uuid, address, incarnation) = (row.uuid, row.address.clone(), row.incarnation);
                let register = RegisterServer { uuid, incarnation, address, total_bytes, free_bytes };
                cx.propose(Why::ServerDown(server, incarnation), vec![Command::RegisterServer(register)]);
            }
            if !row.up || attached || !cx.is_silent(server) || !self.downing.insert((server, row.incarnation)) {
                continue;
            }
            tracing::info!(%server, incarnation = %row.incarnation, "a chunk server is down");
            let (incarnation, why) = (row.incarnation, Why::ServerDown(server, row.incarnation));
            cx.propose(why, vec![Command::ServerDown { server, incarnation }]);
        }
        Ok(())
    }

    pub(crate) fn downed(&mut self, server: ServerId, incarnation: Incarnation) {
        self.downing.remove(&(server, incarnation));
        self.next_placement = None;
    }

    /// A server's room; committed when it has changed much, so that `statfs` of any leader is about right.
    pub(crate) fn room(&mut self, cx: &mut Cx<'_>, server: ServerId, room: Room) -> Result<(), Fatal> {
        let Some(link) = cx.links.get_mut(server) else { return Ok(()) };
        link.room = room;
        link.heard = cx.now;
        let incarnation = link.incarnation;
        let Some(row) = servers::get(cx.tables, server)?.filter(|s| s.up && s.incarnation == incarnation) else {
            return Ok(());
        };
        let step = room.total_bytes / limits::FREE_BYTES_STEP;
        let much = row.total_bytes != room.total_bytes || row.free_bytes.abs_diff(room.free_bytes) > step;
        let last = self.room_committed.get(&server);
        if much && last.is_none_or(|at| cx.now >= *at + limits::FREE_BYTES_INTERVAL) {
            self.room_committed.insert(server, cx.now);
            let command = Command::RegisterServer(RegisterServer {
                uuid: row.uuid,
                incarnation,
                address: row.address,
                total_bytes: room.total_bytes,
                free_bytes: room.free_bytes,
            });
            cx.propose(Why::Hint, vec![command]);
        }
        Ok(())
    }

    /// Servers that are up, attached in the committed incarnation, and may serve what they get.
    fn place(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        if self.next_placement.is_some_and(|at| cx.now < at) {
            return Ok(());
        }
        self.next_placement = Some(cx.now + limits::PLACEMENT_INTERVAL);
        let mut candidates = Vec::new();
        for (server, row) in servers::all(cx.tables)? {
            let open = row.up && cx.links.is_attached(server, row.incarnation);
            if let Some(link) = cx.links.get(server).filter(|_| open) {
                candidates.push(Candidate { server, free_bytes: link.room.free_bytes });
            }
        }
        cx.shared.placement.lock().replace(candidates);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
