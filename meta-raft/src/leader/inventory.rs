//! Compares what the state says of a server's replicas with what the server has (R4): the leader tells it, page by page, which chunks it counts
//! on there, and the server says in its heartbeats which of them are missing (R3, `lost`).
//!
//! Nothing else would notice a disk that was replaced by an empty one while its server was stopped: its chunks would stay one copy short.

use std::collections::BTreeMap;

use caribou_proto::chunk::v1::{Inventory, to_server};
use caribou_proto::ids::{ChunkId, ServerId};
use tokio::time::Instant;

use super::context::Cx;
use super::limits;
use crate::fsm::error::Fatal;
use crate::fsm::tables::server_chunks;

#[derive(Default)]
pub(crate) struct Inventories {
    servers: BTreeMap<ServerId, Walk>,
}

/// How far a server has been told.
struct Walk {
    /// `None`: the next page is the first.
    after: Option<ChunkId>,
    due: Instant,
}

impl Inventories {
    /// A server has a new stream: it may have come back with other disks.
    pub(crate) fn server_attached(&mut self, now: Instant, server: ServerId) {
        self.servers.insert(server, Walk { after: None, due: now });
    }

    pub(crate) fn server_detached(&mut self, server: ServerId) {
        self.servers.remove(&server);
    }

    /// One page for each server whose turn it is.
    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        for (server, walk) in self.servers.iter_mut().filter(|(_, walk)| walk.due <= cx.now) {
            let page = server_chunks::page(cx.tables, *server, walk.after, limits::PAGE)?;
            let chunks = page.iter().map(|chunk| chunk.0).collect();
            let told = Inventory { first: walk.after.is_none(), chunks };
            if !cx.links.tell(*server, to_server::Body::Inventory(told)) {
                continue;
            }
            let more = page.len() == limits::PAGE;
            walk.after = page.last().copied().filter(|_| more);
            if !more {
                walk.due = cx.now + limits::INVENTORY_INTERVAL;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use caribou_proto::ids::ServerId;

    use crate::leader::testing::{Node, Replica};

    #[tokio::test(start_paused = true)]
    async fn r4_what_vanished_with_a_disk_is_copied_again() {
        let mut node = Node::new(2);
        for server in 1..=3 {
            node.connect(server, 1, &[]);
            node.attached(server).await;
        }
        let session = node.world.lock().open(1);
        let (_, lost) = node.file(session, "lost", &[1, 2]);
        let (_, kept) = node.file(session, "kept", &[3]);
        let gone = node.chunk(lost).replicas[0].server.0;
        node.disconnect(gone);
        node.disks.lock().replicas.remove(&(gone, lost));
        node.connect(gone, 2, &[]);
        node.until("two copies again", |n| {
            let row = n.chunk(lost);
            let whole = |r: &crate::fsm::tables::chunks::Replica| {
                n.replica(r.server.0, lost).is_some_and(|copy| copy.cells == Replica::whole(1, &[1, 2]).cells)
            };
            row.version.0 > 1 && row.intent.is_none() && row.replicas.len() == 2 && row.replicas.iter().all(whole)
        })
        .await;
        assert_eq!(node.chunk(kept).version.0, 1, "nothing was wrong with it");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_replica_stays_named_even_if_it_is_missing() {
        let mut node = Node::new(1);
        node.connect(1, 1, &[]);
        node.attached(1).await;
        let session = node.world.lock().open(1);
        let (_, chunk) = node.file(session, "f", &[1]);
        node.disconnect(1);
        node.disks.lock().replicas.clear();
        node.connect(1, 2, &[]);
        let told = node.told().len();
        node.until("it was told", |n| n.told()[told..].iter().any(|(_, text)| text.starts_with("inventory"))).await;
        tokio::time::sleep(std::time::Duration::from_secs(5)).await;
        assert!(node.chunk(chunk).replica(ServerId(1)).is_some(), "R3: the disk may come back");
    }
}
