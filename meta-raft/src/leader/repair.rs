//! Brings chunks back to their goal (R2): a copy is made at the same version while no grant is live, then `RepairDone`.
//!
//! Candidates are told by effects and found by scans: a new leader's first, and of the chunks of servers that are down for longer than a
//! restart takes. What cannot be copied at the same version (a holder that is down is still named; a leftover of an earlier copy has completed
//! it; no source is in the named incarnation) goes through an Intent, whose recovery joins a replacement (V1, V6); few chunks at a time, since
//! until it is over they are out of reach, although a copy is up.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{self as wire, BlockRange, CommandResult, Fetch, Prepare, Status};
use caribou_proto::ids::{BLOCK_BYTES, BLOCKS_PER_CHUNK, ChunkId, ChunkVersion, GrantId, Incarnation, ServerId};
use tokio::time::Instant;

use super::context::{Cx, Why};
use super::garbage::Collector;
use super::limits;
use super::links::Purpose;
use super::recovery::Recovery;
use crate::fsm::command::{Command, IntentKind, RepairDone, StartIntent};
use crate::fsm::error::Fatal;
use crate::fsm::reply::Reply;
use crate::fsm::tables::chunks::{self, Chunk, Replica};
use crate::fsm::tables::{classes, garbage, inodes, server_chunks, servers};

pub(crate) struct Repair {
    queue: BTreeSet<ChunkId>,
    /// How often a chunk's copy has failed since the last that did not.
    failures: HashMap<ChunkId, u32>,
    retry: BTreeMap<ChunkId, Instant>,
    active: BTreeMap<ChunkId, Copying>,
    refusals: HashMap<ChunkId, u32>,
    /// Chunks below their goal whose grants are in the way.
    granted: HashMap<ChunkId, Granted>,
    /// Servers that are down, since when, and how far their chunks have been looked at.
    down: BTreeMap<ServerId, Down>,
    /// Where the scan of all chunks is; `None`: it is done.
    scan: Option<Option<ChunkId>>,
    next_scan: Instant,
    last_round: u64,
    /// Chunks that need an Intent and wait until fewer are in recovery.
    crowded: BTreeSet<ChunkId>,
}

struct Down {
    since: Instant,
    scan: Option<Option<ChunkId>>,
}

/// How long a chunk has waited for its writer, and is going to.
struct Granted {
    since: Instant,
    patience: Duration,
}

/// One copy under way.
struct Copying {
    round: u64,
    version: ChunkVersion,
    last_grant: GrantId,
    source: Replica,
    target: ServerId,
    incarnation: Option<Incarnation>,
    blocks: u32,
    committing: bool,
}

/// What there is to be done about a chunk.
enum Need {
    Nothing,
    Later,
    /// V1 instead of a copy. A grant that is named ends.
    Intent(ChunkVersion, Option<GrantId>),
    Copy(Copying),
}

impl Repair {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            queue: BTreeSet::new(),
            failures: HashMap::new(),
            retry: BTreeMap::new(),
            active: BTreeMap::new(),
            refusals: HashMap::new(),
            granted: HashMap::new(),
            down: BTreeMap::new(),
            scan: Some(None),
            next_scan: now + limits::REPAIR_SCAN,
            last_round: 0,
            crowded: BTreeSet::new(),
        }
    }

    pub(crate) fn rescan(&mut self) {
        self.scan = Some(None);
    }

    /// A chunk is said to be below its goal.
    pub(crate) fn below_goal(&mut self, chunk: ChunkId) {
        if self.queue.len() < limits::REPAIR_QUEUE && !self.active.contains_key(&chunk) {
            self.retry.remove(&chunk);
            self.crowded.remove(&chunk);
            self.queue.insert(chunk);
        }
    }

    /// Chunks that are known to be below their goal.
    pub(crate) fn len(&self) -> usize {
        self.queue.len() + self.retry.len() + self.active.len() + self.crowded.len()
    }

    /// Whether a copy of the chunk is being made there.
    pub(crate) fn is_copying(&self, server: ServerId, chunk: ChunkId) -> bool {
        self.active.get(&chunk).is_some_and(|copy| copy.target == server)
    }

    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>, garbage: &Collector, recovery: &mut Recovery) -> Result<(), Fatal> {
        self.watch_servers(cx)?;
        self.scan_step(cx)?;
        let due: Vec<ChunkId> = self.retry.iter().filter(|(_, at)| **at <= cx.now).map(|(c, _)| *c).collect();
        for chunk in due {
            self.below_goal(chunk);
        }
        for _ in 0..recovery.room() {
            self.queue.extend(self.crowded.pop_first());
        }
        cx.shared.held_back.lock().retain(|_, until| *until > cx.now);
        while self.active.len() < limits::REPAIRS
            && let Some(chunk) = self.queue.pop_first()
        {
            self.start(cx, garbage, recovery, chunk)?;
        }
        Ok(())
    }

    /// A restart is waited for; after that, the chunks of a server that is down need other copies.
    fn watch_servers(&mut self, cx: &Cx<'_>) -> Result<(), Fatal> {
        let mut down = BTreeSet::new();
        for (server, _) in servers::all(cx.tables)?.into_iter().filter(|(_, s)| !s.up) {
            down.insert(server);
            self.down.entry(server).or_insert(Down { since: cx.now, scan: Some(None) });
        }
        self.down.retain(|server, _| down.contains(server));
        for (server, state) in &mut self.down {
            let Some(after) = state.scan.filter(|_| cx.now >= state.since + limits::REPAIR_DELAY) else { continue };
            if self.queue.len() + self.crowded.len() + limits::PAGE > limits::REPAIR_QUEUE {
                continue;
            }
            let page = server_chunks::page(cx.tables, *server, after, limits::PAGE)?;
            state.scan = (page.len() == limits::PAGE).then(|| page.last().copied());
            self.queue.extend(page.into_iter().filter(|c| !self.active.contains_key(c)));
        }
        Ok(())
    }

    fn scan_step(&mut self, cx: &Cx<'_>) -> Result<(), Fatal> {
        if cx.now >= self.next_scan {
            self.next_scan = cx.now + limits::REPAIR_SCAN;
            self.scan = self.scan.or(Some(None));
        }
        let Some(after) = self.scan.filter(|_| self.queue.len() + limits::PAGE <= limits::REPAIR_QUEUE) else {
            return Ok(());
        };
        let page = chunks::page(cx.tables, after, limits::PAGE)?;
        self.scan = (page.len() == limits::PAGE).then(|| page.last().map(|(id, _)| *id));
        for (id, row) in page {
            if row.replicas.len() < classes::get(cx.tables, row.class)?.goal() {
                self.below_goal(id);
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        cx: &mut Cx<'_>,
        garbage: &Collector,
        recovery: &mut Recovery,
        chunk: ChunkId,
    ) -> Result<(), Fatal> {
        match self.need(cx, garbage, recovery, chunk)? {
            Need::Nothing => {
                self.refusals.remove(&chunk);
                self.granted.remove(&chunk);
            }
            Need::Later => self.later(cx, chunk),
            Need::Intent(version, grant) => {
                self.recover(cx, recovery, StartIntent { chunk, version, grant, kind: IntentKind::Recover });
            }
            Need::Copy(copy) => {
                let prepare = Prepare { version: copy.version.0, join: true, old_grant: copy.last_grant.0 };
                let purpose = Purpose::Repair { chunk, round: copy.round };
                if cx.send(copy.target, chunk, Body::Prepare(prepare), purpose) {
                    self.active.insert(chunk, copy);
                } else {
                    self.later(cx, chunk);
                }
            }
        }
        Ok(())
    }

    fn later(&mut self, cx: &Cx<'_>, chunk: ChunkId) {
        self.active.remove(&chunk);
        self.retry.insert(chunk, cx.now + limits::REPAIR_RETRY);
    }

    /// A copy has failed: the next one waits for longer, since it may be for good (a block that nobody has whole), and others need the room.
    fn failed(&mut self, cx: &Cx<'_>, chunk: ChunkId) {
        self.active.remove(&chunk);
        if self.failures.len() >= limits::REPAIR_QUEUE {
            self.failures.clear();
        }
        let times = self.failures.entry(chunk).or_default();
        let pause = limits::REPAIR_RETRY * 2_u32.saturating_pow(*times);
        *times += 1;
        self.retry.insert(chunk, cx.now + pause.min(limits::REPAIR_PATIENCE));
    }

    /// Few at a time: those that wait are read meanwhile, and decided anew when it is their turn.
    fn recover(&mut self, cx: &mut Cx<'_>, recovery: &mut Recovery, start: StartIntent) {
        let chunk = start.chunk;
        self.later(cx, chunk);
        if recovery.room() > 0 {
            recovery.start(cx, vec![start]);
        } else if self.crowded.len() < limits::REPAIR_QUEUE {
            self.retry.remove(&chunk);
            self.crowded.insert(chunk);
        }
    }

    fn need(&mut self, cx: &Cx<'_>, garbage: &Collector, recovery: &Recovery, chunk: ChunkId) -> Result<Need, Fatal> {
        let Some(row) = chunks::get(cx.tables, chunk)? else { return Ok(Need::Nothing) };
        let goal = classes::get(cx.tables, row.class)?.goal();
        if row.new {
            return Ok(Need::Nothing);
        }
        let gone = |r: &&Replica| self.down.get(&r.server).is_some_and(|d| cx.now >= d.since + limits::REPAIR_DELAY);
        let replaces = row.replicas.iter().find(gone).map(|r| r.server).filter(|_| row.replicas.len() >= goal);
        if row.replicas.len() >= goal && replaces.is_none() {
            return Ok(Need::Nothing);
        }
        if row.intent.is_some() {
            self.granted.entry(chunk).and_modify(|granted| granted.since = cx.now);
            return Ok(Need::Later);
        }
        let except: Vec<ServerId> = row.replicas.iter().map(|r| r.server).collect();
        let target = cx.shared.placement.lock().next(1, &except).first().copied();
        if let Some(grant) = &row.grant {
            let is_room = target.is_some() && recovery.room() > 0;
            return Ok(self.beside_grant(cx, chunk, &row, grant.id, is_room));
        }
        self.granted.remove(&chunk);
        // M9: a server that was named for this version must not get it again as a copy, so it is left out by a Ready (V1, V6).
        if replaces.is_some() {
            return Ok(Need::Intent(row.version, None));
        }
        let Some(target) = target else { return Ok(Need::Later) };
        if garbage.is_deleting(target, chunk) || garbage::get(cx.tables, target, chunk)?.is_some() {
            return Ok(Need::Later);
        }
        let Some(source) = row.replicas.iter().find(|r| cx.links.is_attached(r.server, r.incarnation)).copied() else {
            // A holder that is back in another incarnation has to be named again before it is a source.
            let back = row.replicas.iter().any(|r| cx.links.get(r.server).is_some());
            return Ok(if back { Need::Intent(row.version, None) } else { Need::Later });
        };
        self.last_round += 1;
        Ok(Need::Copy(Copying {
            round: self.last_round,
            version: row.version,
            last_grant: row.last_grant,
            source,
            target,
            incarnation: None,
            blocks: blocks_within(cx, &row)?,
            committing: false,
        }))
    }

    /// R2: a copy starts only while no grant is live. A writer that does not let go of the chunk goes on under a new version, whose recovery
    /// joins what is missing (V6); where that comes to nothing it is tried again less and less often.
    fn beside_grant(&mut self, cx: &Cx<'_>, chunk: ChunkId, row: &Chunk, grant: GrantId, is_room: bool) -> Need {
        let new = || Granted { since: cx.now, patience: limits::WRITER_PATIENCE };
        let granted = self.granted.entry(chunk).or_insert_with(new);
        if !is_room || cx.now < granted.since + granted.patience {
            return Need::Later;
        }
        *granted = Granted { since: cx.now, patience: (granted.patience * 2).min(limits::REPAIR_SCAN) };
        tracing::info!(%chunk, %grant, "the writer of a chunk below its goal does not let go of it; its grant ends for a copy");
        Need::Intent(row.version, Some(grant))
    }

    pub(crate) fn result(
        &mut self,
        cx: &mut Cx<'_>,
        recovery: &mut Recovery,
        (chunk, round): (ChunkId, u64),
        result: CommandResult,
    ) -> Result<(), Fatal> {
        let Some(copy) = self.active.get_mut(&chunk).filter(|c| c.round == round) else { return Ok(()) };
        if result.status() != Status::Ok {
            tracing::warn!(%chunk, target = %copy.target, status = ?result.status(), detail = result.detail, "a copy failed");
            self.failed(cx, chunk);
            return Ok(());
        }
        match copy.incarnation {
            None => {
                let prepared = result.prepared.unwrap_or_default();
                if prepared.found && prepared.had_version >= copy.version.0 {
                    // What is there at this version is not known to be what is meant, and does not change under it.
                    let (version, kind) = (copy.version, IntentKind::Recover);
                    self.recover(cx, recovery, StartIntent { chunk, version, grant: None, kind });
                    return Ok(());
                }
                copy.incarnation = Some(Incarnation(prepared.incarnation));
                self.copy(cx, chunk)
            }
            Some(incarnation) => {
                copy.committing = true;
                self.failures.remove(&chunk);
                let done = RepairDone {
                    chunk,
                    version: copy.version,
                    last_grant: Some(copy.last_grant),
                    server: copy.target,
                    incarnation,
                    replaces: None,
                };
                cx.propose(Why::RepairDone(chunk), vec![Command::RepairDone(done)]);
                Ok(())
            }
        }
    }

    fn copy(&mut self, cx: &mut Cx<'_>, chunk: ChunkId) -> Result<(), Fatal> {
        let copy = self.active.get(&chunk).expect("its target has just answered");
        let source = cx.holder(copy.source.server, copy.source.incarnation)?;
        let blocks = vec![BlockRange { first: 0, count: copy.blocks }];
        let fetches = match copy.blocks {
            0 => Vec::new(),
            _ => vec![Fetch { source, version: copy.version.0, blocks }],
        };
        // What an earlier copy may have left beyond the source's bytes must not come back when the file grows.
        let cut_length = (copy.blocks < BLOCKS_PER_CHUNK).then_some(copy.blocks * BLOCK_BYTES);
        let fix = wire::Fix { version: copy.version.0, fetches, cut_length, resum_damaged: false };
        let (target, purpose) = (copy.target, Purpose::Repair { chunk, round: copy.round });
        if !cx.send(target, chunk, Body::Fix(fix), purpose) {
            self.later(cx, chunk);
        }
        Ok(())
    }

    /// The answer will not come.
    pub(crate) fn lost(&mut self, cx: &Cx<'_>, (chunk, round): (ChunkId, u64)) {
        if self.active.get(&chunk).is_some_and(|c| c.round == round && !c.committing) {
            self.later(cx, chunk);
        }
    }

    pub(crate) fn committed(&mut self, cx: &Cx<'_>, chunk: ChunkId, reply: &Reply) {
        self.active.remove(&chunk);
        if *reply == Reply::Done {
            self.refusals.remove(&chunk);
            cx.shared.held_back.lock().remove(&chunk);
            self.below_goal(chunk);
            return;
        }
        let refusals = self.refusals.entry(chunk).or_insert(0);
        *refusals += 1;
        // R2: a chunk that is written all the time gets its copy too.
        if *refusals >= limits::REFUSALS {
            cx.shared.held_back.lock().insert(chunk, cx.now + limits::HOLD_BACK);
            *refusals = 0;
        }
        self.later(cx, chunk);
    }
}

/// Blocks of the chunk below the file's committed length: there is nothing beyond (W9).
fn blocks_within(cx: &Cx<'_>, row: &Chunk) -> Result<u32, Fatal> {
    let length = inodes::existing(cx.tables, row.inode)?.size;
    Ok(row.cut_at(length).div_ceil(BLOCK_BYTES))
}
