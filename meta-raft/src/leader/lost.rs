//! Replicas that a server itself reports as lost (R3).
//!
//! A report counts when two heartbeats of one stream in a row say it about the same version of a chunk at rest; anything under way (a grant,
//! an Intent) finds out by itself. `apply` never removes the last replica.

use std::collections::{BTreeMap, BTreeSet};

use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};

use super::context::{Cx, Why};
use super::limits;
use crate::fsm::command::Command;
use crate::fsm::error::Fatal;
use crate::fsm::tables::chunks;

#[derive(Default)]
pub(crate) struct Losses {
    /// What the last heartbeat of each server said.
    said: BTreeMap<ServerId, BTreeMap<ChunkId, ChunkVersion>>,
    /// Chunks whose last replica is lost, as far as the log has named them.
    last: BTreeSet<ChunkId>,
}

impl Losses {
    pub(crate) fn heartbeat(&mut self, cx: &mut Cx<'_>, server: ServerId, lost: &[ChunkId]) -> Result<(), Fatal> {
        let before = self.said.remove(&server).unwrap_or_default();
        let mut said = BTreeMap::new();
        for chunk in lost.iter().copied().collect::<BTreeSet<_>>() {
            let Some(row) = chunks::get(cx.tables, chunk)? else { continue };
            let at_rest = row.grant.is_none() && row.intent.is_none() && row.replica(server).is_some();
            if !at_rest {
                continue;
            }
            let again = before.get(&chunk) == Some(&row.version);
            if again && row.replicas.len() > 1 {
                tracing::warn!(%chunk, %server, version = %row.version, "a server has lost its replica");
                cx.propose(Why::Hint, vec![Command::ReplicaLost { chunk, version: row.version, server }]);
                continue;
            }
            if again && self.last.len() < limits::PAGE && self.last.insert(chunk) {
                tracing::error!(%chunk, %server, version = %row.version, "the last replica of a chunk is damaged or missing");
            }
            said.insert(chunk, row.version);
        }
        if !said.is_empty() {
            self.said.insert(server, said);
        }
        Ok(())
    }

    pub(crate) fn server_detached(&mut self, server: ServerId) {
        self.said.remove(&server);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use caribou_proto::chunk::v1::{Heartbeat, from_server};
    use caribou_proto::ids::{ChunkVersion, ServerId};
    use futures::StreamExt;

    use crate::leader::testing::{Node, dial, from_server, registration};

    #[tokio::test(start_paused = true)]
    async fn r3_a_loss_counts_when_it_is_said_twice_about_a_chunk_at_rest() {
        let mut node = Node::new(2);
        node.connect(1, 1, &[]);
        node.attached(1).await;
        let session = node.world.lock().open(1);
        let (_, chunk) = node.file(session, "f", &[1]);
        let (sender, mut answers) = dial(node.host());
        sender.send(from_server(from_server::Body::Register(registration(2, 1, &[])))).await.unwrap();
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
