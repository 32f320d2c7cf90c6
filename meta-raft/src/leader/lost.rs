//! Replicas that a server itself reports as lost (R3).
//!
//! A report counts when two heartbeats of one stream in a row say it about the same version of a chunk at rest; anything under way (a grant,
//! an Intent) finds out by itself. And only while another holder vouches for its own: what is missing here may lie on a disk that was not
//! mounted, and must not be given up for a copy that nobody has seen, or that is damaged: what that one lacks may be there. `apply` never removes
//! the last replica.

use std::collections::{BTreeMap, BTreeSet};

use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};
use tokio::time::Instant;

use super::context::{Cx, Why};
use super::damaged::Damages;
use super::inventory::Inventories;
use super::limits;
use crate::fsm::command::Command;
use crate::fsm::error::Fatal;
use crate::fsm::tables::chunks;

#[derive(Default)]
pub(crate) struct Losses {
    servers: BTreeMap<ServerId, Reports>,
    /// Chunks without another copy, as far as the log has named them.
    alone: BTreeSet<ChunkId>,
}

/// What one server has said on its stream.
#[derive(Default)]
struct Reports {
    /// In the last heartbeat.
    last: BTreeMap<ChunkId, ChunkVersion>,
    /// At all, and when it was said last.
    at: BTreeMap<ChunkId, Instant>,
    /// The last heartbeat named as many as it can: there may be more.
    is_full: bool,
}

impl Losses {
    pub(crate) fn heartbeat(
        &mut self,
        cx: &mut Cx<'_>,
        (inventories, damages, recovering): (&Inventories, &Damages, usize),
        server: ServerId,
        lost: &[ChunkId],
    ) -> Result<(), Fatal> {
        let reports = self.servers.entry(server).or_default();
        let before = std::mem::take(&mut reports.last);
        reports.at.retain(|_, at| cx.now < *at + limits::LOSS_REMEMBERED);
        reports.at.extend(lost.iter().map(|chunk| (*chunk, cx.now)));
        reports.is_full = lost.len() >= limits::LOST_PER_HEARTBEAT;
        let mut said = BTreeMap::new();
        let mut commands = Vec::new();
        for chunk in lost.iter().copied().collect::<BTreeSet<_>>() {
            let Some(row) = chunks::get(cx.tables, chunk)? else { continue };
            let at_rest = row.grant.is_none() && row.intent.is_none() && row.replica(server).is_some();
            if !at_rest {
                continue;
            }
            said.insert(chunk, row.version);
            if before.get(&chunk) != Some(&row.version) {
                continue;
            }
            let vouches =
                |other: ServerId| self.is_there(cx, inventories, other, chunk) && !damages.is_damaged(other, chunk);
            let mut others = row.replicas.iter().map(|replica| replica.server).filter(|other| *other != server);
            if !others.clone().any(vouches) {
                let is_known = !others.any(|other| is_undecided(cx, inventories, other));
                if is_known && self.alone.len() < limits::PAGE && self.alone.insert(chunk) {
                    tracing::error!(%chunk, %server, version = %row.version, "a replica is damaged or missing, and no other is known to be there");
                }
            } else if recovering + commands.len() < limits::LOSSES_AT_ONCE {
                tracing::warn!(%chunk, %server, version = %row.version, "a server has lost its replica");
                said.remove(&chunk);
                self.alone.remove(&chunk);
                commands.push(Command::ReplicaLost { chunk, version: row.version, server });
            }
        }
        self.servers.entry(server).or_default().last = said;
        if !commands.is_empty() {
            cx.propose(Why::Hint, commands);
        }
        Ok(())
    }

    /// Whether a holder is attached, knows what is counted on there, and does not say that it lacks this chunk.
    pub(crate) fn is_there(&self, cx: &Cx<'_>, inventories: &Inventories, holder: ServerId, chunk: ChunkId) -> bool {
        let reported = self.servers.get(&holder).is_some_and(|reports| reports.at.contains_key(&chunk));
        cx.links.get(holder).is_some() && inventories.is_settled(cx.now, holder) && !reported
    }

    /// Whether the holder may lack more than it has said.
    pub(crate) fn may_lack_more(&self, holder: ServerId) -> bool {
        self.servers.get(&holder).is_some_and(|reports| reports.is_full)
    }

    pub(crate) fn server_detached(&mut self, server: ServerId) {
        self.servers.remove(&server);
    }
}

/// Whether a holder has not had the time yet to say what it lacks, which it is given anew by each leader.
fn is_undecided(cx: &Cx<'_>, inventories: &Inventories, holder: ServerId) -> bool {
    let is_new = cx.now < cx.since + limits::INVENTORY_SETTLED;
    is_new || (cx.links.get(holder).is_some() && !inventories.is_settled(cx.now, holder))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use caribou_proto::chunk::v1::{Heartbeat, from_server};
    use caribou_proto::ids::{ChunkVersion, ServerId};
    use futures::StreamExt;

    use crate::leader::limits;
    use crate::leader::testing::{Node, dial, from_server, registration};

    #[tokio::test(start_paused = true)]
    async fn r3_a_loss_counts_when_it_is_said_twice_about_a_chunk_at_rest() {
        let mut node = Node::new(2);
        for server in [1, 2] {
            node.connect(server, 1, &[]);
            node.attached(server).await;
        }
        let session = node.world.lock().open(1);
        let (_, chunk) = node.file(session, "f", &[1]);
        tokio::time::sleep(limits::INVENTORY_SETTLED + Duration::from_secs(1)).await;
        node.disconnect(2);
        let (sender, mut answers) = dial(node.host());
        sender.send(from_server(from_server::Body::Register(registration(2, 2, &[])))).await.unwrap();
        answers.next().await.unwrap();
        node.attached(2).await;
        let lost = |stamp| Heartbeat { stamp, lost_chunks: vec![chunk.0, 999], ..Heartbeat::default() };
        sender.send(from_server(from_server::Body::Heartbeat(lost(1)))).await.unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert_eq!(node.chunk(chunk).replicas.len(), 2);
        sender.send(from_server(from_server::Body::Heartbeat(lost(2)))).await.unwrap();
        node.until("it is one less", |n| n.chunk(chunk).replicas.len() == 1).await;
        node.ready(chunk).await;
        assert_eq!(node.chunk(chunk).version, ChunkVersion(2), "M9");
        assert!(node.chunk(chunk).replica(ServerId(1)).is_some());
    }
}
