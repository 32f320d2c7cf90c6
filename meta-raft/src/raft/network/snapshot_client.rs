//! Sends a checkpoint's files: offers them, goes on where the receiver already is, one piece after the other.
//!
//! The idle time-out is ours (STACK, openraft 7): a stream without progress is broken off, and the library comes back with the same
//! checkpoint, of which everything that arrived is kept.
//!
//! Every failure is `Unreachable`, after which the library waits longer and longer: a receiver whose disk is full, or which is taking another
//! snapshot, will not have changed its mind at once.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::raft::v1 as wire;
use caribou_proto::raft::v1::{snapshot_reply::Reply, snapshot_request::Part};
use openraft::errors::RPCError;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::client::unreachable;
use crate::raft::codec::wire as convert;
use crate::raft::config::{SNAPSHOT_CHUNK_BYTES, SNAPSHOT_IDLE_TIMEOUT, SNAPSHOT_INSTALL_TIMEOUT};
use crate::raft::snapshot::{Checkpoint, SnapshotFile};
use crate::raft::surroundings::{Blocking, Line};
use crate::raft::types::{TypeConfig, Vote};

type RpcError = RPCError<TypeConfig>;

/// Pieces on their way between disk and connection.
const PIECES_IN_FLIGHT: usize = 8;

/// Sends the checkpoint; the receiver's vote once it has installed it, or a higher one if it refuses.
pub(super) async fn send(
    mut client: wire::raft_service_client::RaftServiceClient<Line>,
    header: wire::Header,
    vote: Vote,
    checkpoint: &Arc<Checkpoint>,
    blocking: Blocking,
) -> Result<Vote, RpcError> {
    let files = checkpoint.files().map_err(unreachable)?;
    let total: u64 = files.iter().map(|f| f.bytes).sum();
    let (requests, outgoing) = mpsc::channel(PIECES_IN_FLIGHT);
    let offer = wire::SnapshotOffer {
        header: Some(header),
        vote: Some(convert::to_vote(&vote)),
        meta: Some(convert::to_snapshot_meta(&checkpoint.meta(), checkpoint.feature_level())),
        snapshot_id: checkpoint.id(),
        files: files.iter().map(|f| wire::SnapshotFile { name: f.name.clone(), bytes: f.bytes }).collect(),
    };
    let offer = wire::SnapshotRequest { part: Some(Part::Offer(offer)) };
    requests.send(offer).await.map_err(|_| unreachable("the snapshot's stream has ended"))?;
    let call = client.snapshot(ReceiverStream::new(outgoing));
    let mut replies = within(SNAPSHOT_IDLE_TIMEOUT, call).await?.into_inner();
    let have = match next(&mut replies, SNAPSHOT_IDLE_TIMEOUT).await? {
        Reply::Resume(resume) => resume.have_bytes,
        Reply::Installed(i) => return convert::from_vote(i.vote).map_err(unreachable),
        Reply::Received(_) => return Err(unreachable("the receiver acknowledges data before the offer")),
    };
    if have.len() != files.len() {
        return Err(unreachable("the receiver speaks of other files"));
    }
    tracing::info!(id = checkpoint.id(), bytes = total, resumed_bytes = have.iter().sum::<u64>(), "sending a snapshot");
    let reader = Arc::clone(checkpoint);
    // Ends by itself once the receiver of `requests` is gone.
    let reading = tokio::spawn(async move {
        let read = read_pieces(&reader, &files, &have, &requests, &blocking).await;
        blocking.let_go(reader);
        read
    });
    let mut received = 0;
    loop {
        let limit = if received < total { SNAPSHOT_IDLE_TIMEOUT } else { SNAPSHOT_INSTALL_TIMEOUT };
        match next(&mut replies, limit).await? {
            Reply::Received(r) => received = r.bytes,
            Reply::Installed(i) => {
                reading.await.map_err(unreachable)?.map_err(unreachable)?;
                return convert::from_vote(i.vote).map_err(unreachable);
            }
            Reply::Resume(_) => return Err(unreachable("the receiver answers the offer twice")),
        }
    }
}

/// Reads what is missing and queues it, small files first; stops quietly when nobody takes it any more. Not in the order of names: RocksDB numbers
/// the tables of one flush by where their families lie in memory, and how many pieces leave in one frame depends on their order.
async fn read_pieces(
    checkpoint: &Checkpoint,
    files: &[SnapshotFile],
    have: &[u64],
    requests: &mpsc::Sender<wire::SnapshotRequest>,
    blocking: &Blocking,
) -> std::io::Result<()> {
    let mut missing: Vec<_> =
        files.iter().zip(have).enumerate().filter(|(_, (file, have))| **have < file.bytes).collect();
    missing.sort_by_key(|(_, (file, _))| file.bytes);
    for (number, (file, have)) in missing {
        let path = checkpoint.path().join(&file.name);
        let open = Arc::new(blocking.run(move || File::open(path)).await??);
        let mut offset = *have;
        while offset < file.bytes {
            let length = (file.bytes - offset).min(SNAPSHOT_CHUNK_BYTES as u64) as usize;
            let file = Arc::clone(&open);
            let read = move || {
                let mut data = vec![0; length];
                file.read_exact_at(&mut data, offset).map(|()| data)
            };
            let data = blocking.run(read).await??;
            let crc32c = crc32c::crc32c(&data);
            let data = wire::SnapshotData { file: number as u32, offset, data: Bytes::from(data), crc32c };
            if requests.send(wire::SnapshotRequest { part: Some(Part::Data(data)) }).await.is_err() {
                return Ok(());
            }
            offset += length as u64;
        }
    }
    Ok(())
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, tonic::Status>>) -> Result<T, RpcError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(|status| unreachable(format!("{:?}: {}", status.code(), status.message()))),
        Err(_) => Err(unreachable(format!("no progress of a snapshot within {limit:?}"))),
    }
}

async fn next(replies: &mut tonic::Streaming<wire::SnapshotReply>, limit: Duration) -> Result<Reply, RpcError> {
    let reply = within(limit, replies.message()).await?.and_then(|r| r.reply);
    reply.ok_or_else(|| unreachable("the receiver has ended the snapshot's stream"))
}
