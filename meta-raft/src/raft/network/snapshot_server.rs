//! Takes a snapshot that the leader sends: one at a time, resumed where it was, installed at the end.

use std::pin::Pin;

use caribou_proto::raft::v1 as wire;
use caribou_proto::raft::v1::{snapshot_reply::Reply, snapshot_request::Part};
use futures::Stream;
use openraft::async_runtime::watch::WatchReceiver as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::server::{Server, stopped};
use crate::fsm::FEATURE_LEVEL;
use crate::raft::codec::wire as convert;
use crate::raft::config::SNAPSHOT_IDLE_TIMEOUT;
use crate::raft::snapshot::receive::{Gathering, ReceiveError, Source};
use crate::raft::snapshot::{SnapshotData, SnapshotFile};
use crate::raft::types::{SnapshotMeta, Vote};

type Replies = mpsc::Sender<Result<wire::SnapshotReply, Status>>;

/// Acknowledgements waiting to be sent.
const REPLY_QUEUE: usize = 16;

/// Runs the stream in a task of its own.
pub(super) fn receive(
    server: Server,
    requests: Streaming<wire::SnapshotRequest>,
) -> Pin<Box<dyn Stream<Item = Result<wire::SnapshotReply, Status>> + Send>> {
    let (replies, outgoing) = mpsc::channel(REPLY_QUEUE);
    tokio::spawn(async move {
        if let Err(status) = run(&server, requests, &replies).await {
            tracing::warn!(reason = status.message(), "a snapshot's stream has broken off");
            // Nobody listens any more if the leader is gone; it starts anew.
            let _ = replies.send(Err(status)).await;
        }
    });
    Box::pin(ReceiverStream::new(outgoing))
}

struct Offer {
    vote: Vote,
    meta: SnapshotMeta,
    source: Source,
}

fn refused(e: &ReceiveError) -> Status {
    match e {
        ReceiveError::Io(_) => Status::internal(e.to_string()),
        _ => Status::invalid_argument(e.to_string()),
    }
}

async fn run(server: &Server, mut requests: Streaming<wire::SnapshotRequest>, replies: &Replies) -> Result<(), Status> {
    let Some(Part::Offer(offer)) = next(&mut requests).await? else {
        return Err(Status::invalid_argument("a snapshot's stream begins with its offer"));
    };
    let offer = admit(server, offer)?;
    let own = server.raft.metrics().borrow_watched().vote;
    if own > offer.vote {
        return send(replies, Reply::Installed(wire::SnapshotInstalled { vote: Some(convert::to_vote(&own)) })).await;
    }
    let mut gathering =
        server.gathering.try_lock().map_err(|_| Status::aborted("another snapshot is on its way to this node"))?;
    let result = gather(server, &mut gathering, requests, replies, offer).await;
    server.progress.set(0, 0);
    result
}

async fn gather(
    server: &Server,
    gathering: &mut Gathering,
    mut requests: Streaming<wire::SnapshotRequest>,
    replies: &Replies,
    offer: Offer,
) -> Result<(), Status> {
    // It may have to remove what an earlier offer left.
    let have = server.blocking.here(|| gathering.offer(offer.source).map(<[u64]>::to_vec));
    let have = have.map_err(|e| refused(&e))?;
    let total = gathering.total();
    server.progress.set(gathering.received(), total);
    send(replies, Reply::Resume(wire::SnapshotResume { have_bytes: have })).await?;
    while gathering.received() < total {
        let Some(Part::Data(piece)) = next(&mut requests).await? else {
            return Err(Status::invalid_argument("a piece of the snapshot was expected"));
        };
        server
            .blocking
            .here(|| gathering.data(piece.file, piece.offset, &piece.data, piece.crc32c))
            .map_err(|e| refused(&e))?;
        server.progress.set(gathering.received(), total);
        send(replies, Reply::Received(wire::SnapshotReceived { bytes: gathering.received() })).await?;
    }
    let received = server.blocking.here(|| gathering.finish()).map_err(|e| refused(&e))?;
    let snapshot = openraft::Snapshot { meta: offer.meta, snapshot: SnapshotData::Received(received) };
    let installed = server.raft.install_full_snapshot(offer.vote, snapshot).await.map_err(stopped)?;
    send(replies, Reply::Installed(wire::SnapshotInstalled { vote: Some(convert::to_vote(&installed.vote)) })).await
}

fn admit(server: &Server, offer: wire::SnapshotOffer) -> Result<Offer, Status> {
    let invalid = |e: convert::WireError| Status::invalid_argument(e.to_string());
    let header = server.admit(offer.header)?;
    let meta = offer.meta.ok_or_else(|| Status::invalid_argument("the offer lacks what the snapshot holds"))?;
    if meta.feature_level > FEATURE_LEVEL {
        return Err(Status::failed_precondition(format!(
            "the snapshot has feature level {}, node {} knows levels up to {FEATURE_LEVEL}: upgrade this node",
            meta.feature_level, header.to_node
        )));
    }
    Ok(Offer {
        vote: convert::from_vote(offer.vote).map_err(invalid)?,
        meta: convert::from_snapshot_meta(meta).map_err(invalid)?,
        source: Source {
            from_node: header.from_node,
            snapshot_id: offer.snapshot_id,
            files: offer.files.into_iter().map(|f| SnapshotFile { name: f.name, bytes: f.bytes }).collect(),
        },
    })
}

async fn next(requests: &mut Streaming<wire::SnapshotRequest>) -> Result<Option<Part>, Status> {
    match tokio::time::timeout(SNAPSHOT_IDLE_TIMEOUT, requests.message()).await {
        Ok(message) => Ok(message?.and_then(|m| m.part)),
        Err(_) => Err(Status::deadline_exceeded(format!("no piece of the snapshot within {SNAPSHOT_IDLE_TIMEOUT:?}"))),
    }
}

async fn send(replies: &Replies, reply: Reply) -> Result<(), Status> {
    let reply = wire::SnapshotReply { reply: Some(reply) };
    replies.send(Ok(reply)).await.map_err(|_| Status::cancelled("the leader has gone"))
}
