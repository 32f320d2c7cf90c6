//! The control stream: one leader at a time, heartbeats to it, its commands (F2).
//!
//! Invariants: messages of a stream are taken in order; a Prepare or Delete blocks reads of its chunk from the moment it is
//! taken, so a lease extension that follows it on the stream cannot let the old version be read; commands of a stream that
//! ended are given up; only one stream exists at a time, each under a term not below the last.

use crate::attach::{self, Attached, Nodes, Refusal};
use crate::heartbeat::{self, Heartbeats};
use crate::peers::Answers;
use crate::recover;
use crate::server::ChunkServer;
use caribou_planted::{self as planted, Bug};
use caribou_proto::chunk::v1::{FromServer, Inventory, ToServer, to_server};
use caribou_proto::ids::{ChunkId, ChunkVersion};
use futures::StreamExt;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::{debug, info, warn};

/// What a command needs to know of the stream that it came on.
#[derive(Clone)]
pub(crate) struct Session {
    pub(crate) generation: u16,
    pub(crate) outbound: mpsc::Sender<FromServer>,
    /// The stream is gone: nobody waits for a result, and another leader may be about to plan anew.
    pub(crate) ended: CancellationToken,
}

/// Follows the leader until the server closes. Fails only if the first leader that is found refuses this server.
pub(crate) async fn follow(server: Arc<ChunkServer>, meta: Vec<String>) -> Result<(), Refusal> {
    let mut nodes = Nodes::new(meta);
    let mut accepted_before = false;
    loop {
        let attached = tokio::select! {
            found = attach::find(&server, &mut nodes, accepted_before) => found?,
            () = server.closing.cancelled() => return Ok(()),
        };
        accepted_before = true;
        let (address, term) = (attached.address.clone(), attached.term);
        info!(address, term, "attached to the leader");
        let reason = attend(&server, &mut nodes, attached).await;
        if server.closing.is_cancelled() {
            return Ok(());
        }
        info!(address, term, reason, "lost the leader; looking for the next one");
    }
}

struct Stream {
    session: Session,
    term: u64,
    beats: Heartbeats,
    ttl: std::time::Duration,
    _ends: DropGuard,
}

/// Serves one control stream; returns why it ended.
async fn attend(server: &Arc<ChunkServer>, nodes: &mut Nodes, attached: Attached) -> String {
    let Attached { generation, term, lease_ttl, outbound, mut inbound, .. } = attached;
    let ended = CancellationToken::new();
    let mut stream = Stream {
        session: Session { generation, outbound, ended: ended.clone() },
        term,
        beats: Heartbeats::new(lease_ttl, server.clock.now_ns()),
        ttl: lease_ttl,
        _ends: ended.drop_guard(),
    };
    // The first tick is at once: reads need the lease.
    let mut tick = tokio::time::interval(stream.beats.interval());
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            message = inbound.next() => match message {
                None => return "it closed the stream".to_owned(),
                Some(Err(error)) => return error.to_string(),
                Some(Ok(message)) => if let Some(reason) = stream.take(server, nodes, message) {
                    return reason;
                },
            },
            _ = tick.tick() => if let Some(reason) = stream.beat(server) {
                if planted::is(Bug::OldTermObeyed) {
                    server.work.spawn(obey_on(server.clone(), stream, inbound));
                }
                return reason;
            },
            () = server.closing.cancelled() => return "this server is stopping".to_owned(),
        }
    }
}

/// What a planted bug does: a stream that was left is obeyed all the same.
async fn obey_on(server: Arc<ChunkServer>, stream: Stream, mut inbound: Answers<ToServer>) {
    while let Some(Ok(message)) = inbound.next().await {
        if let Some(to_server::Body::Command(command)) = message.body {
            recover::take(&server, &stream.session, command);
        }
    }
}

impl Stream {
    /// Sends a heartbeat, unless the leader has been silent for too long.
    fn beat(&mut self, server: &ChunkServer) -> Option<String> {
        let now_ns = server.clock.now_ns();
        if self.beats.overdue(now_ns) {
            return Some("it does not answer heartbeats".to_owned());
        }
        match self.session.outbound.try_send(heartbeat::heartbeat(&server.store, now_ns)) {
            Ok(()) => self.beats.sending(now_ns),
            Err(mpsc::error::TrySendError::Full(_)) => debug!("a heartbeat was left out: the leader reads slowly"),
            Err(mpsc::error::TrySendError::Closed(_)) => return Some("the stream broke".to_owned()),
        }
        None
    }

    /// Takes a message; the reason if it ends the stream.
    fn take(&mut self, server: &Arc<ChunkServer>, nodes: &mut Nodes, message: ToServer) -> Option<String> {
        match message.body {
            Some(to_server::Body::Heartbeat(reply)) => {
                if reply.term == self.term && self.beats.answered(reply.stamp, server.clock.now_ns()) {
                    server.lease.extend(reply.stamp, self.ttl);
                }
                None
            }
            Some(to_server::Body::Command(command)) => {
                recover::take(server, &self.session, command);
                None
            }
            Some(to_server::Body::Inventory(inventory)) => {
                compare(server, inventory);
                None
            }
            Some(to_server::Body::NotLeader(hint)) => {
                nodes.learn(&hint.nodes);
                Some("it is not the leader any more".to_owned())
            }
            Some(to_server::Body::Refused(refused)) => Some(format!("it refuses this server: {}", refused.reason)),
            Some(to_server::Body::Registered(_)) => Some("it registered this server twice".to_owned()),
            None => {
                warn!("the leader sent a message that this version does not know; upgrade this server");
                None
            }
        }
    }
}

/// R4: what the leader counts on, beside what is here. One of an older release names neither versions nor a range of ids.
fn compare(server: &ChunkServer, inventory: Inventory) {
    let Inventory { first, chunks, versions, from, up_to, under_way } = inventory;
    let counted = chunks.iter().chain(&under_way).copied().map(ChunkId).collect();
    let range = (up_to > 0).then_some(ChunkId(from)..=ChunkId(up_to));
    server.store.compare(first, range.clone(), &counted);
    server.store.expect_vanished(first, range, &counted);
    let versions = versions.into_iter().chain(std::iter::repeat(0)).map(ChunkVersion);
    let chunks: Vec<_> = chunks.into_iter().map(ChunkId).zip(versions).collect();
    server.store.expect(first, &chunks);
}
