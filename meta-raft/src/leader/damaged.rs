//! Replicas whose servers have found damaged blocks in them (R3): they are mended in place, by a recovery.
//!
//! Such a replica is not lost: its other blocks may be the only sound copies that there are. So an Intent is started, whose plan takes each damaged
//! block from a holder that has it whole (V2, `plan`). Like a loss, damage counts when two heartbeats of one stream in a row say it about the
//! same version of a chunk at rest; anything under way (a grant, an Intent) comes to a recovery by itself, or is said again when it is
//! over. And only while every other holder is known to have its replica: a recovery leaves out who is silent or has nothing, and that may be the
//! one with the block.
//!
//! What no holder has whole stays as it is on all of them, and readers get EIO, never zeros (`plan::Choice::Lost`). That is not tried again before
//! something has changed: another holder, or more damage than there was. A replica that is damaged time after time is mended less and less
//! often, and never given up for that: nobody has read the others as a whole, and what they lack may be there.
//!
//! All this is in memory, so each new leader tries once. Servers of older releases name damaged replicas as lost: see `chunk/v1/control.proto`.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};
use tokio::time::Instant;

use super::context::Cx;
use super::inventory::Inventories;
use super::limits;
use super::lost::Losses;
use super::recovery::Recovery;
use crate::fsm::command::{IntentKind, StartIntent};
use crate::fsm::error::Fatal;
use crate::fsm::tables::chunks::{self, Chunk};

#[derive(Default)]
pub(crate) struct Damages {
    servers: BTreeMap<ServerId, Reports>,
    /// The last recovery that was started for a chunk's damage.
    tried: BTreeMap<ChunkId, Tried>,
    /// Chunks that cannot be mended, as far as the log has named them.
    hopeless: BTreeSet<ChunkId>,
}

/// What one server has said on its stream.
#[derive(Default)]
struct Reports {
    /// In the last heartbeat, of chunks at rest.
    last: BTreeMap<ChunkId, ChunkVersion>,
    /// How many blocks are damaged, and when that was said last.
    known: BTreeMap<ChunkId, (u32, Instant)>,
}

struct Tried {
    /// The version that it was decided from.
    version: ChunkVersion,
    started: Instant,
    /// When any server called the chunk damaged for the last time.
    said: Instant,
    holders: BTreeSet<ServerId>,
    /// How many blocks each holder had damaged then; fewer if it has said fewer since.
    blocks: BTreeMap<ServerId, u32>,
    /// How many there have been since all holders were damaged alike.
    times: u32,
}

/// What is to be done about a damaged chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Wait,
    Mend,
    /// No holder can help.
    Hopeless,
}

impl Damages {
    /// `damaged`: chunks, and how many blocks of each.
    pub(crate) fn heartbeat(
        &mut self,
        cx: &mut Cx<'_>,
        (inventories, losses): (&Inventories, &Losses),
        recovery: &mut Recovery,
        server: ServerId,
        damaged: &[(ChunkId, u32)],
    ) -> Result<(), Fatal> {
        let before = self.take_in(cx.now, server, damaged);
        let (mut said, mut starts) = (BTreeMap::new(), Vec::new());
        for chunk in damaged.iter().map(|(chunk, _)| *chunk).collect::<BTreeSet<_>>() {
            let Some(row) = chunks::get(cx.tables, chunk)? else { continue };
            let at_rest = row.grant.is_none() && row.intent.is_none() && !row.new && row.replica(server).is_some();
            if !at_rest {
                continue;
            }
            said.insert(chunk, row.version);
            let is_repeated = before.get(&chunk) == Some(&row.version);
            if !is_repeated || !others_are_there(cx, inventories, losses, &row, (chunk, server)) {
                continue;
            }
            let version = row.version;
            match self.judge(cx.now, &row, chunk) {
                Verdict::Mend if starts.len() < recovery.room() => {
                    let blocks = self.blocks(server, chunk);
                    tracing::info!(%chunk, %server, %version, blocks, "a replica has damaged blocks; a recovery takes them from the others");
                    self.begin(cx.now, &row, chunk);
                    starts.push(StartIntent { chunk, version, grant: None, kind: IntentKind::Recover });
                }
                Verdict::Hopeless => self.leave(chunk, server),
                // No room yet: it is said again.
                Verdict::Wait | Verdict::Mend => {}
            }
        }
        self.servers.entry(server).or_default().last = said;
        recovery.start(cx, starts);
        Ok(())
    }

    /// Whether a holder says that blocks of its replica are damaged.
    pub(crate) fn is_damaged(&self, holder: ServerId, chunk: ChunkId) -> bool {
        self.blocks(holder, chunk) > 0
    }

    pub(crate) fn server_detached(&mut self, server: ServerId) {
        self.servers.remove(&server);
    }

    fn blocks(&self, holder: ServerId, chunk: ChunkId) -> u32 {
        let known = self.servers.get(&holder).and_then(|reports| reports.known.get(&chunk));
        known.map_or(0, |(blocks, _)| *blocks)
    }

    /// Notes what a server says, and what it has ceased to say: that is mended. Returns what it said of chunks at rest before.
    fn take_in(
        &mut self,
        now: Instant,
        server: ServerId,
        damaged: &[(ChunkId, u32)],
    ) -> BTreeMap<ChunkId, ChunkVersion> {
        let Self { servers, tried, .. } = self;
        let said: BTreeMap<ChunkId, u32> = damaged.iter().map(|(chunk, blocks)| (*chunk, (*blocks).max(1))).collect();
        if !servers.contains_key(&server) {
            // It may have forgotten what it knew: whatever it says of these from now on is new.
            let others = tried.iter_mut().filter(|(chunk, _)| !said.contains_key(chunk));
            others.for_each(|(_, tried)| tried.blocks.retain(|holder, _| *holder != server));
        }
        let reports = servers.entry(server).or_default();
        let is_all = damaged.len() < limits::DAMAGED_PER_HEARTBEAT;
        reports.known.retain(|chunk, (_, at)| {
            let stays = said.contains_key(chunk) || (!is_all && now < *at + limits::LOSS_REMEMBERED);
            if let Some(tried) = tried.get_mut(chunk).filter(|_| !stays) {
                tried.blocks.remove(&server);
            }
            stays
        });
        for (chunk, blocks) in said {
            reports.known.insert(chunk, (blocks, now));
            if tried.get(&chunk).is_some_and(|tried| now >= tried.said + limits::MEND_REMEMBERED) {
                tried.remove(&chunk);
            }
            let Some(tried) = tried.get_mut(&chunk) else { continue };
            tried.said = now;
            if let Some(before) = tried.blocks.get_mut(&server) {
                *before = blocks.min(*before);
            }
        }
        std::mem::take(&mut reports.last)
    }

    /// P5, without end and without a loop: see the top.
    fn judge(&self, now: Instant, row: &Chunk, chunk: ChunkId) -> Verdict {
        if row.replicas.len() == 1 {
            return Verdict::Hopeless;
        }
        let Some(tried) = self.tried.get(&chunk) else { return Verdict::Mend };
        // All holders say by then what the recovery has found and left.
        let pause = limits::MEND_PAUSE * 2_u32.saturating_pow(tried.times.saturating_sub(1));
        if now < tried.started + pause.min(limits::MEND_REMEMBERED) {
            return Verdict::Wait;
        }
        if row.version == tried.version {
            return Verdict::Mend; // S6: the record was refused, since a grant or another Intent was ahead of it.
        }
        let holders = holders(row);
        let is_everywhere = holders.iter().all(|holder| self.is_damaged(*holder, chunk));
        let grew = |holder: &ServerId| self.blocks(*holder, chunk) > tried.blocks.get(holder).copied().unwrap_or(0);
        let has_changed = holders != tried.holders || holders.iter().any(grew);
        // A block that is damaged on all of them is among these: else one of them would be sound now.
        if is_everywhere && !has_changed { Verdict::Hopeless } else { Verdict::Mend }
    }

    fn begin(&mut self, now: Instant, row: &Chunk, chunk: ChunkId) {
        let before = self.tried.remove(&chunk);
        let times = before.map_or(1, |tried| tried.times + u32::from(tried.version != row.version));
        let holders = holders(row);
        let blocks = holders.iter().map(|holder| (*holder, self.blocks(*holder, chunk))).collect();
        while self.tried.len() >= limits::REPAIR_QUEUE {
            self.tried.pop_first();
        }
        self.tried.insert(chunk, Tried { version: row.version, started: now, said: now, holders, blocks, times });
        self.hopeless.remove(&chunk);
    }

    /// It stays as it is.
    fn leave(&mut self, chunk: ChunkId, server: ServerId) {
        if let Some(tried) = self.tried.get_mut(&chunk) {
            tried.times = 0;
        }
        if self.hopeless.len() < limits::PAGE && self.hopeless.insert(chunk) {
            tracing::error!(%chunk, %server, "blocks are damaged on all replicas: whoever reads them gets EIO");
        }
    }
}

fn holders(row: &Chunk) -> BTreeSet<ServerId> {
    row.replicas.iter().map(|replica| replica.server).collect()
}

fn others_are_there(
    cx: &Cx<'_>,
    inventories: &Inventories,
    losses: &Losses,
    row: &Chunk,
    (chunk, server): (ChunkId, ServerId),
) -> bool {
    let mut others = row.replicas.iter().map(|replica| replica.server).filter(|other| *other != server);
    others.all(|other| losses.is_there(cx, inventories, other, chunk))
}
