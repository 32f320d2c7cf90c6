//! What this node says to one peer on behalf of the library.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use caribou_proto::raft::v1 as wire;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt as _};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, NetBackoff, NetSnapshot, NetStreamAppend, NetTransferLeader, NetVote, RPCOption};
use openraft::raft::{
    AppendEntriesRequest, SnapshotResponse, StreamAppendResult, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use parking_lot::Mutex;
use tonic::{Code, Status};

use super::company::in_company;
use super::credit::Credit;
use super::peers::{Peers, Purpose};
use super::snapshot_client;
use crate::raft::codec::wire::{self as convert, WireError};
use crate::raft::config::{CONNECT_TIMEOUT, REPLICATION_TIMEOUT};
use crate::raft::snapshot::{Checkpoint, SnapshotData};
use crate::raft::surroundings::Line;
use crate::raft::types::{Snapshot, TypeConfig, Vote};

type Client = wire::raft_service_client::RaftServiceClient<Line>;
type RpcError = RPCError<TypeConfig>;

/// First and longest wait before an unreachable peer is tried again.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_millis(200);

/// One peer, one purpose.
#[derive(Debug)]
pub(crate) struct PeerClient {
    peers: Arc<Peers>,
    target: u64,
    address: String,
    purpose: Purpose,
}

pub(super) fn unreachable(reason: impl ToString) -> RpcError {
    RPCError::Unreachable(Unreachable::from_string(reason))
}

/// A refused connection or message waits before the next try; anything else is tried again at once. Not for snapshots: see
/// [`snapshot_client`].
fn rpc_error(status: &Status) -> RpcError {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented => unreachable(status.message()),
        _ => RPCError::Network(NetworkError::from_string(format!("{:?}: {}", status.code(), status.message()))),
    }
}

fn malformed(e: &WireError) -> RpcError {
    unreachable(e)
}

impl PeerClient {
    pub(super) fn new(peers: Arc<Peers>, target: u64, address: String, purpose: Purpose) -> Self {
        Self { peers, target, address, purpose }
    }

    fn client(&self, purpose: Purpose) -> Result<Client, RpcError> {
        self.peers.client(&self.address, purpose).map_err(unreachable)
    }

    fn header(&self) -> Result<wire::Header, RpcError> {
        self.peers.header(self.target).map_err(unreachable)
    }

    async fn ask_vote(
        &self,
        rpc: VoteRequest<TypeConfig>,
        pre_vote: bool,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let request = convert::to_vote_request(self.header()?, rpc, pre_vote);
        let mut client = self.client(Purpose::Heartbeat)?;
        let reply = timely(CONNECT_TIMEOUT, client.vote(request)).await?.into_inner();
        convert::from_vote_reply(reply).map_err(|e| malformed(&e))
    }

    async fn send_checkpoint(
        &self,
        vote: Vote,
        checkpoint: &Arc<Checkpoint>,
        cancel: impl Future<Output = ReplicationClosed> + Send,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let _sending = self.peers.sending_snapshot(self.target);
        let client = self.client(Purpose::Snapshot)?;
        let header = self.header()?;
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            vote = snapshot_client::send(client, header, vote, checkpoint, self.peers.blocking()) => Ok(SnapshotResponse::new(vote?)),
        }
    }
}

/// The call's answer, or an error once `limit` has passed.
async fn timely<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, RpcError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => result.map_err(|status| rpc_error(&status)),
        Err(_) => Err(RPCError::Network(NetworkError::from_string(format!("no answer within {limit:?}")))),
    }
}

impl NetBackoff<TypeConfig> for PeerClient {
    fn backoff(&self) -> Option<Backoff> {
        let waits = std::iter::successors(Some(BACKOFF_FIRST), |wait| Some((*wait * 2).min(BACKOFF_MAX)));
        Some(Backoff::new(waits))
    }
}

impl NetVote<TypeConfig> for PeerClient {
    async fn vote(&mut self, rpc: VoteRequest<TypeConfig>, _: RPCOption) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(rpc, false).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        _: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(rpc, true).await
    }
}

impl NetTransferLeader<TypeConfig> for PeerClient {
    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let request = convert::to_transfer(self.header()?, &req);
        let mut client = self.client(Purpose::Heartbeat)?;
        let reply = timely(option.hard_ttl(), client.transfer_leader(request)).await?.into_inner();
        let Some(refused) = reply.refused else { return Ok(Ok(())) };
        Ok(Err(match refused {
            wire::transfer_leader_reply::Refused::VoteChanged(actual) => TransferLeaderError::VoteChanged {
                expected: *req.from_leader(),
                actual: convert::from_vote(Some(actual)).map_err(|e| malformed(&e))?,
            },
            wire::transfer_leader_reply::Refused::LogNotFlushed(l) => TransferLeaderError::LogNotFlushed {
                expected: req.last_log_id().copied(),
                actual: l.actual.map(convert::from_log_id),
            },
        }))
    }
}

/// Answers as they come; an error if requests are in flight and none comes for [`REPLICATION_TIMEOUT`].
struct Replies {
    replies: tonic::Streaming<wire::AppendReply>,
    /// Requests sent.
    sent: Arc<AtomicU64>,
    received: u64,
    credit: Arc<Mutex<Credit>>,
}

impl Replies {
    async fn next(&mut self) -> Option<Result<StreamAppendResult<TypeConfig>, RpcError>> {
        loop {
            let reply = match tokio::time::timeout(REPLICATION_TIMEOUT, self.replies.message()).await {
                Ok(reply) => reply,
                Err(_) if self.sent.load(Ordering::Acquire) == self.received => continue,
                Err(_) => {
                    let reason = format!("requests unanswered for {REPLICATION_TIMEOUT:?}");
                    return Some(Err(RPCError::Network(NetworkError::from_string(reason))));
                }
            };
            return match reply {
                Ok(None) => None,
                Ok(Some(reply)) => {
                    self.received += 1;
                    let counts = self.credit.lock().counts();
                    let reply = convert::from_append_reply(reply);
                    if matches!(reply, Ok(Ok(_))) && !counts {
                        continue;
                    }
                    Some(reply.map_err(|e| malformed(&e)))
                }
                Err(status) => Some(Err(rpc_error(&status))),
            };
        }
    }
}

type AppendReplies<'s> = BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>;

impl NetStreamAppend<TypeConfig> for PeerClient {
    fn stream_append<'s, S>(
        &'s mut self,
        mut input: S,
        _: RPCOption,
    ) -> Pin<Box<dyn Future<Output = Result<AppendReplies<'s>, RpcError>> + Send + 's>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            // The library pauses after failures where it makes a request: it must be asked for one before the peer is, or a peer that
            // refuses connections is dialled without pause.
            let Some(first) = input.next().await else { return Ok(futures::stream::empty().boxed()) };
            let header = self.header()?;
            let mut client = self.client(self.purpose)?;
            let sent = Arc::new(AtomicU64::new(0));
            let (counter, traffic) = (Arc::clone(&sent), self.peers.traffic());
            let credit = Arc::new(Mutex::new(Credit::default()));
            let made = Arc::clone(&credit);
            let input = futures::stream::iter([first]).chain(input);
            let input = input.inspect(move |request| made.lock().made(!request.entries.is_empty()));
            let requests = in_company(input, |request| request.entries.is_empty()).map(move |request| {
                counter.fetch_add(1, Ordering::Release);
                traffic.sent();
                convert::to_append(header.clone(), request)
            });
            let replies = timely(CONNECT_TIMEOUT, client.append(requests)).await?.into_inner();
            let replies = Replies { replies, sent, received: 0, credit };
            let stream = futures::stream::unfold(Some(replies), |state| async move {
                let mut replies = state?;
                let item = replies.next().await?;
                let more = matches!(item, Ok(Ok(_)));
                Some((item, more.then_some(replies)))
            });
            Ok(stream.boxed())
        })
    }
}

impl NetSnapshot<TypeConfig> for PeerClient {
    type SnapshotData = SnapshotData;

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let SnapshotData::Checkpoint(checkpoint) = snapshot.snapshot else {
            return Err(StreamingError::Closed(ReplicationClosed::new("a received snapshot is not sent on")));
        };
        let sent = self.send_checkpoint(vote, &checkpoint, cancel).await;
        // Another one may have been made meanwhile: the last user of an old one deletes its folder.
        self.peers.blocking().let_go(checkpoint);
        sent
    }
}

#[cfg(test)]
mod tests {
    use caribou_proto::ids::NodeId;

    use super::*;
    use crate::raft::config::RaftConfig;
    use crate::raft::identity::{ClusterIdentity, Identity};
    use crate::raft::snapshot::SnapshotStore;
    use crate::raft::state::{StateStore, Work};
    use crate::raft::surroundings::Surroundings;
    use crate::raft::types::{log_id, vote};

    /// Speaks to a peer that answers everything with `code`.
    fn client_of_refusing_peer(identity: Arc<Identity>, code: Code) -> PeerClient {
        let dial = move |_: &str| -> Result<Line, String> {
            let refuse = move |_: http::Request<tonic::body::Body>| async move {
                Err::<http::Response<tonic::body::Body>, Status>(Status::new(code, "the peer refuses"))
            };
            Ok(Line::new(tower::service_fn(refuse)))
        };
        let surroundings = Surroundings { dial: Arc::new(dial), ..Surroundings::default() };
        let peers = Arc::new(Peers::new(identity, surroundings));
        PeerClient::new(peers, 2, "peer:1".to_owned(), Purpose::Snapshot)
    }

    /// The library pauses after `Unreachable`; after other failures it tries again at once, ten times over.
    #[tokio::test]
    async fn a_snapshot_that_is_refused_is_not_sent_again_without_pause() {
        let dir = tempfile::tempdir().unwrap();
        let identity = Arc::new(Identity::load(dir.path(), NodeId(1)).unwrap());
        identity.join(ClusterIdentity { uuid: [7; 16], generation: 1, nonce: 3 }, 2).unwrap();
        let mut config = RaftConfig::new(NodeId(1), dir.path());
        (config.block_cache_bytes, config.write_buffer_bytes) = (1 << 20, 4 << 20);
        let state = StateStore::open(&dir.path().join("state"), &config).unwrap();
        state.apply(&[(log_id(1, 1), Work::Blank)]).unwrap();
        let snapshots = SnapshotStore::open(&dir.path().join("snapshots"), &state).unwrap();
        let checkpoint = snapshots.build(&state).unwrap();
        for code in [Code::Internal, Code::Aborted, Code::InvalidArgument, Code::DeadlineExceeded, Code::Unavailable] {
            let mut client = client_of_refusing_peer(Arc::clone(&identity), code);
            let data = SnapshotData::Checkpoint(Arc::clone(&checkpoint));
            let snapshot = Snapshot { meta: checkpoint.meta(), snapshot: data };
            let option = RPCOption::new(CONNECT_TIMEOUT);
            let refused = client.full_snapshot(vote(1, 1, true), snapshot, std::future::pending(), option).await;
            let refused = refused.unwrap_err();
            assert!(matches!(refused, StreamingError::Unreachable(_)), "{code:?}: {refused:?}");
            assert!(refused.to_string().contains("the peer refuses"), "{refused}");
        }
    }
}
