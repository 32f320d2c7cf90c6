//! The gRPC service for the other metadata nodes. Every message is checked first: this cluster, this generation, this node (F1).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;

use caribou_proto::raft::v1 as wire;
use caribou_proto::raft::v1::raft_service_server::RaftService;
use futures::{Stream, StreamExt as _};
use openraft::raft::{AppendEntriesRequest, TransferLeaderError};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

use super::company::in_company;
use super::peers::Peers;
use super::snapshot_server;
use super::traffic::Traffic;
use crate::raft::codec::wire as convert;
use crate::raft::identity::{ClusterIdentity, Identity};
use crate::raft::snapshot::receive::{Gathering, Progress};
use crate::raft::surroundings::Blocking;
use crate::raft::types::{Raft, TypeConfig};

type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the service needs of the node; holds no store open.
#[derive(Clone)]
pub struct Server {
    pub(super) raft: Raft,
    pub(super) identity: Arc<Identity>,
    pub(super) gathering: Arc<tokio::sync::Mutex<Gathering>>,
    pub(super) progress: Arc<Progress>,
    pub(super) blocking: Blocking,
    traffic: Arc<Traffic>,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Raft service of node {}", self.identity.node_id())
    }
}

fn invalid(e: impl ToString) -> Status {
    Status::invalid_argument(e.to_string())
}

/// The library has stopped: the node is about to exit.
pub(super) fn stopped(e: impl ToString) -> Status {
    Status::unavailable(format!("this node has stopped: {}", e.to_string()))
}

impl Server {
    pub(crate) fn new(
        raft: Raft,
        identity: Arc<Identity>,
        gathering: Gathering,
        progress: Arc<Progress>,
        peers: &Peers,
    ) -> Self {
        let gathering = Arc::new(tokio::sync::Mutex::new(gathering));
        Self { raft, identity, gathering, progress, blocking: peers.blocking(), traffic: peers.traffic() }
    }

    /// F1: refuses what is not for this cluster, generation and node, before anything else is looked at.
    pub(super) fn admit(&self, header: Option<wire::Header>) -> Result<wire::Header, Status> {
        admit(&self.identity, header)
    }
}

fn admit(identity: &Identity, header: Option<wire::Header>) -> Result<wire::Header, Status> {
    let header = header.ok_or_else(|| invalid("the message lacks its header"))?;
    addressed_to(identity, header.to_node)?;
    let cluster = header.cluster.as_ref().ok_or_else(|| invalid("the message lacks its cluster"))?;
    identity.take_part(ClusterIdentity::try_from(cluster).map_err(invalid)?).map_err(Status::failed_precondition)?;
    Ok(header)
}

fn addressed_to(identity: &Identity, to_node: u64) -> Result<(), Status> {
    let own = identity.node_id().0;
    if to_node == own {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "this is node {own}, the message is for node {to_node}: check the addresses"
    )))
}

#[tonic::async_trait]
impl RaftService for Server {
    type AppendStream = Replies<wire::AppendReply>;
    type SnapshotStream = Replies<wire::SnapshotReply>;

    async fn append(
        &self,
        request: Request<Streaming<wire::AppendRequest>>,
    ) -> Result<Response<Self::AppendStream>, Status> {
        let identity = Arc::clone(&self.identity);
        // The library takes a stream without errors: one that occurs ends it, is kept here and sent after what came before it.
        let broken: Arc<Mutex<Option<Status>>> = Arc::default();
        let slot = Arc::clone(&broken);
        let requests = request.into_inner().map(move |message| {
            let mut message = message?;
            admit(&identity, message.header.take())?;
            convert::from_append(message).map_err(invalid)
        });
        // Unanswered requests, and whether they bring no entries: the answers come in the same order.
        let unanswered: Arc<Mutex<VecDeque<bool>>> = Arc::default();
        let asked = Arc::clone(&unanswered);
        let requests = requests.scan((), move |(), request: Result<AppendEntriesRequest<TypeConfig>, Status>| {
            let request = request.map_err(|status| *slot.lock() = Some(status)).ok();
            asked.lock().extend(request.as_ref().map(|request| request.entries.is_empty()));
            async move { request }
        });
        let replies = self.raft.stream_append(requests).map(|r| r.map(convert::to_append_reply).map_err(stopped));
        // Hardly anybody waits for the answer to a message that only told a commit: it leaves with that of the entries that came with it.
        let replies = replies.map(move |reply| {
            let mut unanswered = unanswered.lock();
            let can_wait = unanswered.pop_front().unwrap_or(false) && unanswered.contains(&false);
            (reply, can_wait)
        });
        let traffic = Arc::clone(&self.traffic);
        let replies = in_company(replies.boxed(), |(_, can_wait)| *can_wait).map(move |(reply, _)| {
            traffic.sent();
            reply
        });
        let last = futures::stream::once(async move { broken.lock().take() });
        let replies = replies.chain(last.filter_map(|status| async move { status.map(Err) }));
        Ok(Response::new(Box::pin(replies)))
    }

    async fn vote(&self, request: Request<wire::VoteRequest>) -> Result<Response<wire::VoteReply>, Status> {
        let mut request = request.into_inner();
        self.admit(request.header.take())?;
        let pre_vote = request.pre_vote;
        let request = convert::from_vote_request(request).map_err(invalid)?;
        let reply = if pre_vote { self.raft.pre_vote(request).await } else { self.raft.vote(request).await };
        Ok(Response::new(convert::to_vote_reply(reply.map_err(stopped)?)))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderReply>, Status> {
        use wire::transfer_leader_reply::Refused;
        let mut request = request.into_inner();
        self.admit(request.header.take())?;
        let request = convert::from_transfer(request).map_err(invalid)?;
        let refused = match self.raft.handle_transfer_leader(request).await.map_err(stopped)? {
            Ok(()) => None,
            Err(TransferLeaderError::VoteChanged { actual, .. }) => {
                Some(Refused::VoteChanged(convert::to_vote(&actual)))
            }
            Err(TransferLeaderError::LogNotFlushed { actual, .. }) => {
                Some(Refused::LogNotFlushed(wire::LogNotFlushed { actual: actual.map(convert::to_log_id) }))
            }
        };
        Ok(Response::new(wire::TransferLeaderReply { refused }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotRequest>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Ok(Response::new(snapshot_server::receive(self.clone(), request.into_inner())))
    }

    async fn probe(&self, request: Request<wire::ProbeRequest>) -> Result<Response<wire::ProbeReply>, Status> {
        addressed_to(&self.identity, request.into_inner().to_node)?;
        Ok(Response::new(wire::ProbeReply {
            node_id: self.identity.node_id().0,
            cluster: self.identity.cluster().map(Into::into),
            member: self.identity.member_of().is_some(),
        }))
    }

    async fn join(&self, request: Request<wire::JoinRequest>) -> Result<Response<wire::JoinReply>, Status> {
        let request = request.into_inner();
        addressed_to(&self.identity, request.to_node)?;
        let cluster = request.cluster.as_ref().ok_or_else(|| invalid("the message lacks its cluster"))?;
        let cluster = ClusterIdentity::try_from(cluster).map_err(invalid)?;
        let goal = u8::try_from(request.default_goal).map_err(|_| invalid("a goal has 8 bits"))?;
        self.identity.join(cluster, goal).map_err(Status::failed_precondition)?;
        tracing::info!(%cluster, "this node has been given its cluster");
        Ok(Response::new(wire::JoinReply {}))
    }
}
