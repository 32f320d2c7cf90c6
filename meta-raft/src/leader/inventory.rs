//! Compares what the state says of a server's replicas with what the server has (R4): the leader tells it, page by page, which chunks it counts
//! on there and at which versions, and the server says in its heartbeats which of them it lacks (R3, `lost`), and what else it has (`strays`).
//! Pages follow each other without a gap, the last one goes on for ever: of every id the server knows whether it is counted on.
//!
//! Nothing else would notice a disk that was replaced by an empty one, or by an old image of itself (V5), while its server was stopped: chunks that
//! nobody writes would stay one copy short, and an old copy would count as one.

use std::collections::BTreeMap;
use std::time::Duration;

use caribou_proto::chunk::v1::{Inventory, to_server};
use caribou_proto::ids::{ChunkId, ServerId};
use tokio::time::Instant;

use super::context::Cx;
use super::limits;
use crate::fsm::error::Fatal;
use crate::fsm::tables::{chunks, server_chunks};

#[derive(Default)]
pub(crate) struct Inventories {
    servers: BTreeMap<ServerId, Walk>,
    /// Whose turn it was last.
    last: Option<ServerId>,
}

/// How far a server has been told.
struct Walk {
    /// `None`: the next page is the first.
    after: Option<ChunkId>,
    due: Instant,
    /// When it had been told everything for the first time on this stream.
    whole: Option<Instant>,
}

impl Inventories {
    /// A server has a new stream: it may have come back with other disks.
    pub(crate) fn server_attached(&mut self, now: Instant, server: ServerId) {
        self.servers.insert(server, Walk { after: None, due: now, whole: None });
    }

    pub(crate) fn server_detached(&mut self, server: ServerId) {
        self.servers.remove(&server);
    }

    /// Whether the server has known for long enough what is counted on there: what it has not reported missing by now, it has.
    pub(crate) fn is_settled(&self, now: Instant, server: ServerId) -> bool {
        let whole = self.servers.get(&server).and_then(|walk| walk.whole);
        whole.is_some_and(|whole| now >= whole + limits::INVENTORY_SETTLED)
    }

    /// One page for one server, in turn.
    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        let due = |(_, walk): &(&ServerId, &Walk)| walk.due <= cx.now;
        let later = self.servers.iter().filter(due).map(|(server, _)| *server).find(|s| Some(*s) > self.last);
        let turn = later.or_else(|| self.servers.iter().find(due).map(|(server, _)| *server));
        let Some((server, walk)) = turn.and_then(|server| Some((server, self.servers.get_mut(&server)?))) else {
            return Ok(());
        };
        self.last = Some(server);
        let page = server_chunks::page(cx.tables, server, walk.after, limits::PAGE)?;
        let last = page.last().copied().filter(|_| page.len() == limits::PAGE);
        // F1: of what an older generation made nothing is asked, but what the metadata know.
        let oldest = ChunkId::new(cx.links.generation(), 0);
        let (first, from) =
            (walk.after.is_none(), walk.after.map_or(oldest, |after| ChunkId(after.0.saturating_add(1))));
        let from = from.max(oldest).0;
        let mut told = Inventory { first, from, up_to: last.map_or(u64::MAX, |last| last.0), ..Inventory::default() };
        for chunk in &page {
            // Under a grant or an Intent a replica may be on its way; whoever works on the chunk finds out.
            let row = chunks::existing(cx.tables, *chunk)?;
            if !row.new && row.grant.is_none() && row.intent.is_none() {
                told.chunks.push(chunk.0);
                told.versions.push(row.version.0);
            } else {
                told.under_way.push(chunk.0);
            }
        }
        if !cx.links.tell(server, to_server::Body::Inventory(told)) {
            return Ok(());
        }
        walk.after = last;
        if last.is_none() {
            walk.whole.get_or_insert(cx.now);
            // Not all at once, although all were told at once after an election.
            walk.due = cx.now + limits::INVENTORY_INTERVAL + Duration::from_secs(server.0 % 60);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::Duration;

    use caribou_proto::chunk::v1::{Inventory, from_server, to_server};
    use caribou_proto::ids::{ChunkId, ServerId, SessionId};
    use futures::StreamExt;

    use crate::leader::limits;
    use crate::leader::testing::{Node, Replica, dial, from_server, registration};

    /// A leader of chunks with two copies, servers 1 to `servers`, and a session.
    async fn attached(servers: u64) -> (Node, SessionId) {
        let mut node = Node::new(2);
        for server in 1..=servers {
            node.connect(server, 1, &[]);
            node.attached(server).await;
        }
        let session = node.world.lock().open(1);
        (node, session)
    }

    /// Until every server vouches for what it has not reported, on the paused clock.
    async fn settled() {
        tokio::time::sleep(limits::INVENTORY_SETTLED + Duration::from_secs(1)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn r4_pages_leave_no_id_out_and_name_all_that_is_counted_on() {
        let (node, session) = attached(1).await;
        let files: Vec<_> = (0..300).map(|n| node.file(session, &format!("f{n}"), &[1])).collect();
        node.apply(|w| {
            w.take(session, files[7].0, 0);
        });
        let (sender, mut answers) = dial(node.host());
        sender.send(from_server(from_server::Body::Register(registration(2, 1, &[])))).await.unwrap();
        let mut pages: Vec<Inventory> = Vec::new();
        while pages.last().is_none_or(|page| page.up_to < u64::MAX) {
            if let Some(to_server::Body::Inventory(page)) = answers.next().await.expect("the stream goes on").body {
                pages.push(page);
            }
        }
        assert_eq!(pages.iter().map(|page| page.first).collect::<Vec<_>>(), [true, false]);
        assert_eq!((pages[0].from, pages[1].from), (ChunkId::new(1, 0).0, pages[0].up_to + 1));
        let all: BTreeSet<u64> =
            pages.iter().flat_map(|page| page.chunks.iter().chain(&page.under_way)).copied().collect();
        assert_eq!(all, files.iter().map(|(_, chunk)| chunk.0).collect());
        assert_eq!((&pages[0].under_way, pages[1].under_way.is_empty()), (&vec![files[7].1.0], true));
        assert!(!pages[0].chunks.contains(&files[7].1.0), "what is under way is not missing");
    }

    #[tokio::test(start_paused = true)]
    async fn r4_what_vanished_with_a_disk_is_copied_again() {
        let (mut node, session) = attached(3).await;
        let (_, lost) = node.file(session, "lost", &[1, 2]);
        let (_, kept) = node.file(session, "kept", &[3]);
        let gone = node.chunk(lost).replicas[0].server.0;
        settled().await;
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
    async fn v5_what_an_old_disk_has_is_copied_again() {
        let (mut node, session) = attached(2).await;
        let (_, chunk) = node.file(session, "old", &[1]);
        settled().await;
        let old = node.disks.lock().replicas[&(2, chunk)].clone();
        // The chunk goes on to another version, and is left alone.
        node.disconnect(2);
        node.disks.lock().replicas.remove(&(2, chunk));
        node.connect(2, 2, &[]);
        node.until("it went on", |n| n.chunk(chunk).version.0 > 1 && n.chunk(chunk).intent.is_none()).await;
        let version = node.chunk(chunk).version;
        node.until("two copies", |n| n.chunk(chunk).replicas.len() == 2 && n.chunk(chunk).intent.is_none()).await;
        settled().await;
        node.disconnect(2);
        node.disks.lock().replicas.insert((2, chunk), old);
        node.connect(2, 3, &[]);
        node.until("the old copy is replaced", |n| {
            let row = n.chunk(chunk);
            let copy = n.replica(2, chunk);
            row.version > version
                && row.intent.is_none()
                && row.replicas.len() == 2
                && copy.is_some_and(|c| c.completed == row.version.0)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn few_chunks_are_out_of_reach_at_once() {
        let (mut node, session) = attached(2).await;
        let files: Vec<_> = (0..300).map(|n| node.file(session, &format!("f{n}"), &[1]).1).collect();
        settled().await;
        node.disconnect(2);
        node.disks.lock().replicas.retain(|(server, _), _| *server == 1);
        node.disks.lock().mute.push((1, "prepare"));
        node.connect(2, 2, &[]);
        let rows = |n: &Node| files.iter().map(|chunk| n.chunk(*chunk)).collect::<Vec<_>>();
        tokio::time::sleep(Duration::from_secs(5)).await;
        // No recovery gets on: the rest of the chunks is read meanwhile.
        let out_of_reach = rows(&node).iter().filter(|row| row.intent.is_some()).count();
        assert!((1..=limits::LOSSES_AT_ONCE).contains(&out_of_reach), "{out_of_reach}");
        node.disks.lock().mute.clear();
        node.until("all are whole again", |n| {
            rows(n).iter().all(|row| row.intent.is_none() && row.version.0 > 1 && row.replicas.len() == 2)
        })
        .await;
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_given_up_for_a_copy_that_nobody_has_seen() {
        let (mut node, session) = attached(3).await;
        let (_, chunk) = node.file(session, "f", &[1]);
        let holders: Vec<u64> = node.chunk(chunk).replicas.iter().map(|r| r.server.0).collect();
        settled().await;
        // Both come back without their disks: neither copy can stand for the other.
        let mut disks = Vec::new();
        for server in &holders {
            node.disconnect(*server);
            disks.push(node.disks.lock().replicas.remove(&(*server, chunk)).unwrap());
        }
        for server in &holders {
            node.connect(*server, 2, &[]);
        }
        tokio::time::sleep(3 * limits::INVENTORY_SETTLED).await;
        assert_eq!(node.chunk(chunk).version.0, 1);
        assert_eq!(node.chunk(chunk).replicas.len(), 2);
        // One disk is found again.
        node.disconnect(holders[0]);
        node.disks.lock().replicas.insert((holders[0], chunk), disks.remove(0));
        node.connect(holders[0], 3, &[]);
        node.until("two copies again", |n| {
            let row = n.chunk(chunk);
            row.intent.is_none() && row.version.0 > 1 && row.replicas.len() == 2
        })
        .await;
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
        tokio::time::sleep(2 * limits::INVENTORY_SETTLED).await;
        assert!(node.chunk(chunk).replica(ServerId(1)).is_some(), "R3: the disk may come back");
    }
}
