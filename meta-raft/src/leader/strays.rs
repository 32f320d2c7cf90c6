//! Replicas that servers have and nobody counts on (R4, docs/adr/0009): joins that were given up, copies that were refused, what an old disk has
//! brought back. Servers name them as hints (`inventory`); here a hint becomes a committed deletion, or nothing.
//!
//! A hint counts when two heartbeats of one stream in a row say it about the same version, once the server has known for half a minute what is
//! counted on there. What decides is this leader's own state: the chunk is gone, or at rest without that server. And as long as it lives, only
//! while it has all its copies and another holder vouches for its own (`lost`): below its goal a repair may be about to make use of
//! what is there, and nobody's last bytes are cleared away. `apply` looks again.
//!
//! What this leader has joined itself it asks about by itself, so that it need not wait for the next comparison of everything.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};

use caribou_proto::chunk::v1::{Inventory, to_server};
use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};
use tokio::time::Instant;

use super::context::{Cx, Why};
use super::damaged::Damages;
use super::inventory::Inventories;
use super::limits;
use super::lost::Losses;
use super::repair::Repair;
use crate::fsm::command::{Command, StrayFound};
use crate::fsm::error::Fatal;
use crate::fsm::tables::{chunks, classes, garbage, meta};

/// Those who know what a server was told, who has what, and what is being made.
type Others<'a> = (&'a Inventories, &'a Losses, &'a Damages, &'a Repair);

#[derive(Default)]
pub(crate) struct Strays {
    /// What would be proposed, had the last heartbeat on each server's stream not been the first to say so.
    said: BTreeMap<ServerId, BTreeMap<ChunkId, StrayFound>>,
    /// Replicas that this leader has had made, in the order of the times when to see what has become of them.
    joined: VecDeque<Joined>,
}

struct Joined {
    due: Instant,
    server: ServerId,
    chunk: ChunkId,
}

impl Strays {
    /// `strays`: chunks, and the versions that the server's replicas have persisted.
    pub(crate) fn heartbeat(
        &mut self,
        cx: &mut Cx<'_>,
        others: Others<'_>,
        server: ServerId,
        strays: &[(ChunkId, ChunkVersion)],
    ) -> Result<(), Fatal> {
        let before = self.said.remove(&server).unwrap_or_default();
        if strays.is_empty() || !others.0.is_settled(cx.now, server) {
            return Ok(());
        }
        let (mut said, mut commands) = (BTreeMap::new(), Vec::new());
        for (chunk, version) in strays.iter().take(limits::STRAYS_PER_HEARTBEAT) {
            let Some(stray) = judge(cx, others, server, (*chunk, *version))? else { continue };
            if before.get(chunk) == Some(&stray) {
                commands.push(Command::StrayFound(stray));
            } else {
                said.insert(*chunk, stray);
            }
        }
        self.said.insert(server, said);
        if let Some(Command::StrayFound(first)) = commands.first() {
            let (replicas, chunk, version) = (commands.len(), first.chunk, first.version);
            tracing::info!(%server, replicas, %chunk, %version, "replicas that nobody counts on are deleted; the first of them is named");
            cx.propose(Why::Hint, commands);
        }
        Ok(())
    }

    pub(crate) fn server_detached(&mut self, server: ServerId) {
        self.said.remove(&server);
    }

    /// Sees what has become of joined replicas, and asks about those that nobody counts on. Of a server that is away everything is compared when
    /// it comes back.
    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        for (server, chunk) in cx.links.take_joined() {
            self.remember(cx.now, server, chunk);
        }
        for _ in 0..limits::PAGE {
            if self.joined.front().is_none_or(|joined| cx.now < joined.due) {
                break;
            }
            let Some(Joined { server, chunk, .. }) = self.joined.pop_front() else { break };
            let row = chunks::get(cx.tables, chunk)?;
            if row.as_ref().is_some_and(|row| row.replica(server).is_some()) {
                continue;
            }
            if row.is_some_and(|row| row.intent.is_some()) {
                self.remember(cx.now, server, chunk);
            } else {
                cx.links.tell(server, to_server::Body::Inventory(question(chunk)));
            }
        }
        Ok(())
    }

    fn remember(&mut self, now: Instant, server: ServerId, chunk: ChunkId) {
        if self.joined.len() < limits::JOINS_REMEMBERED {
            self.joined.push_back(Joined { due: now + limits::JOIN_SETTLED, server, chunk });
        }
    }
}

/// Says of one chunk that it is not counted on.
fn question(chunk: ChunkId) -> Inventory {
    Inventory { from: chunk.0, up_to: chunk.0, ..Inventory::default() }
}

/// The deletion of what a server says that it has; `None`: somebody counts on it or may be about to, or its deletion is committed already.
fn judge(
    cx: &Cx<'_>,
    (inventories, losses, damages, repair): Others<'_>,
    server: ServerId,
    (chunk, version): (ChunkId, ChunkVersion),
) -> Result<Option<StrayFound>, Fatal> {
    // F1: what the metadata do not know is not theirs to delete.
    if version.0 == 0 || !meta::is_given(cx.tables, chunk)? || repair.is_copying(server, chunk) {
        return Ok(None);
    }
    let row = chunks::get(cx.tables, chunk)?;
    let stray = StrayFound { server, chunk, version, row_version: row.as_ref().map(|row| row.version) };
    let committed = garbage::get(cx.tables, server, chunk)?;
    if committed.is_some_and(|committed| committed >= stray.up_to()) {
        return Ok(None);
    }
    let Some(row) = row else { return Ok(Some(stray)) };
    let at_rest = !row.new && row.grant.is_none() && row.intent.is_none() && row.replica(server).is_none();
    if !at_rest || version > row.version {
        return Ok(None);
    }
    // It is decided already, and refused there as long as it names a lower version.
    if committed.is_some() {
        return Ok(Some(stray));
    }
    let vouches = |holder: ServerId| {
        let is_there = losses.is_there(cx, inventories, holder, chunk) && !losses.may_lack_more(holder);
        is_there && !damages.is_damaged(holder, chunk)
    };
    let is_whole = row.replicas.len() >= classes::get(cx.tables, row.class)?.goal();
    let is_spare = is_whole && row.replicas.iter().any(|replica| vouches(replica.server));
    Ok(is_spare.then_some(stray))
}
