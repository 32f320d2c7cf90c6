//! The gRPC service that chunk servers dial: registration, heartbeats, commands and their results.
//!
//! Runs on every node; only a ready leader keeps a stream. A stream's first message says who the server is; its registration is committed before
//! it is answered (F3). Heartbeats are answered here and at once, under the leader's own lease and past the gate of `shared::Leases` (ADR 7);
//! everything else goes to the leader's task. The stream ends when a newer one of the same server comes, or with the term.

use std::pin::Pin;
use std::sync::Arc;

use caribou_proto::chunk::v1::control_service_server::ControlService;
use caribou_proto::chunk::v1::{
    Disk, FromServer, Heartbeat, HeartbeatReply, NotLeader, RefusedServer, Register, Registered, ToServer, from_server,
    to_server,
};
use caribou_proto::cluster::v1::{ClusterId, MetaNode};
use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, ServerId};
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use super::handle::LeaderHandle;
use super::limits;
use super::links::Room;
use super::task::Told;
use crate::fsm::command::{Command, RegisterServer};
use crate::fsm::reply::Reply;
use crate::fsm::tables::servers;

/// What the service has to know of the node it runs on.
pub trait Host: Send + Sync + 'static {
    /// The loops of this node's term, while it is a ready leader.
    fn leader(&self) -> Option<LeaderHandle>;
    /// `None` before `init`.
    fn cluster(&self) -> Option<ClusterId>;
    /// Where the leader is, as far as this node knows; 0 and empty: unknown.
    fn leader_hint(&self) -> (u64, String);
    /// All metadata nodes.
    fn nodes(&self) -> Vec<MetaNode>;
}

/// The service; give it to tonic.
#[derive(Clone)]
pub struct Control {
    host: Arc<dyn Host>,
}

impl Control {
    pub fn new(host: Arc<dyn Host>) -> Self {
        Self { host }
    }
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<ToServer, Status>> + Send>>;

#[tonic::async_trait]
impl ControlService for Control {
    type AttachStream = Outgoing;

    async fn attach(&self, request: Request<Streaming<FromServer>>) -> Result<Response<Outgoing>, Status> {
        Ok(Response::new(serve(self.host.clone(), request.into_inner())))
    }
}

/// Serves one stream: answers on the stream that is returned, until either side ends it.
pub(super) fn serve<S>(host: Arc<dyn Host>, inbound: S) -> Outgoing
where
    S: Stream<Item = Result<FromServer, Status>> + Send + Unpin + 'static,
{
    let (outbox, outgoing) = mpsc::channel(limits::STREAM_MESSAGES);
    tokio::spawn(async move {
        let ending = match attend(&host, inbound, &outbox).await {
            Ending::Silent => return,
            Ending::Told(body) => body,
        };
        let _ = outbox.try_send(message(ending));
    });
    Box::pin(ReceiverStream::new(outgoing).map(Ok))
}

/// How a stream ends.
enum Ending {
    /// The other side is gone, or has been replaced.
    Silent,
    Told(to_server::Body),
}

async fn attend<S>(host: &Arc<dyn Host>, mut inbound: S, outbox: &mpsc::Sender<ToServer>) -> Ending
where
    S: Stream<Item = Result<FromServer, Status>> + Send + Unpin,
{
    let first = tokio::time::timeout(limits::REGISTER_TIMEOUT, inbound.next()).await;
    let register = match first {
        Ok(Some(Ok(FromServer { body: Some(from_server::Body::Register(register)) }))) => register,
        // It died, or went to another node, before it said who it is.
        Ok(None | Some(Err(_))) => return Ending::Silent,
        Ok(Some(Ok(_))) | Err(_) => {
            return refused("the first message of a control stream must be a registration".to_owned());
        }
    };
    let admitted = match admit(host, &register).await {
        Ok(admitted) => admitted,
        Err(ending) => return ending,
    };
    let (leader, server) = (admitted.leader, admitted.server);
    if outbox.try_send(message(to_server::Body::Registered(admitted.registered))).is_err() {
        return Ending::Silent;
    }
    let ended = CancellationToken::new();
    let dirty = register.dirty_chunks.iter().copied().map(ChunkId).collect();
    let (incarnation, room) = (Incarnation(register.incarnation), room(&register.disks));
    info!(%server, %incarnation, address = register.data_address, unclean = register.unclean, "a chunk server has attached");
    let attached = leader.attach(server, incarnation, outbox.clone(), ended.clone(), (room, dirty)).await;
    let Some(stream) = attached else { return not_leader(host) };
    let _ended = ended.clone().drop_guard();
    let term_over = leader.ended();
    loop {
        let message = tokio::select! {
            message = inbound.next() => message,
            () = ended.cancelled() => return Ending::Silent,
            () = term_over.cancelled() => return not_leader(host),
        };
        match message {
            Some(Ok(FromServer { body: Some(body) })) => take(&leader, server, stream, outbox, body).await,
            Some(Ok(_)) => {
                warn!(%server, "a chunk server sent a message that this version does not know; upgrade this node")
            }
            Some(Err(status)) => {
                debug!(%server, %status, "a control stream broke");
                return Ending::Silent;
            }
            None => return Ending::Silent,
        }
    }
}

async fn take(
    leader: &LeaderHandle,
    server: ServerId,
    stream: u64,
    outbox: &mpsc::Sender<ToServer>,
    body: from_server::Body,
) {
    match body {
        from_server::Body::Heartbeat(Heartbeat { stamp, disks, lost_chunks, damaged_chunks, stray_chunks }) => {
            let term = leader.term();
            leader.answer_heartbeat(server, stream, || {
                // Behind every command that was sent before: what must not be served is known first. Without room, no lease.
                let _ = outbox.try_send(message(to_server::Body::Heartbeat(HeartbeatReply { stamp, term })));
            });
            let lost = lost_chunks.into_iter().map(ChunkId).collect();
            let damaged = damaged_chunks.into_iter().map(|told| (ChunkId(told.chunk), told.blocks)).collect();
            let strays =
                stray_chunks.into_iter().map(|told| (ChunkId(told.chunk), ChunkVersion(told.version))).collect();
            leader.heartbeat(server, stream, Told { room: room(&disks), lost, damaged, strays }).await;
        }
        from_server::Body::Result(result) => leader.result(server, stream, result).await,
        from_server::Body::Register(_) => warn!(%server, "a chunk server registered twice on one stream"),
    }
}

struct Admitted {
    leader: LeaderHandle,
    server: ServerId,
    registered: Registered,
}

/// Checks who it is, and commits it.
async fn admit(host: &Arc<dyn Host>, register: &Register) -> Result<Admitted, Ending> {
    let (Some(leader), Some(cluster)) = (host.leader(), host.cluster()) else { return Err(not_leader(host)) };
    // F1.
    if let Some(theirs) = register.cluster.as_ref().filter(|theirs| **theirs != cluster) {
        return Err(refused(foreign(theirs, &cluster)));
    }
    let Ok(uuid) = <[u8; 16]>::try_from(register.server_uuid.as_ref()) else {
        return Err(refused("a chunk server's uuid has 16 bytes".to_owned()));
    };
    if register.data_address.is_empty() || register.incarnation == 0 {
        return Err(refused("a registration needs an address and an incarnation".to_owned()));
    }
    // Before anything is committed: a server that says it has a number must be known by it.
    let known = servers::by_uuid(&*leader.deps.view.tables(), &uuid);
    let known = known.map_err(|fatal| refused(fatal.to_string()))?.map_or(0, |id| id.0);
    if register.server_id != 0 && register.server_id != known {
        let theirs = register.server_id;
        return Err(refused(format!(
            "this chunk server says that it is number {theirs}, the cluster knows it as {known}: its data folders belong elsewhere"
        )));
    }
    let room = room(&register.disks);
    let command = Command::RegisterServer(RegisterServer {
        uuid,
        incarnation: Incarnation(register.incarnation),
        address: register.data_address.clone(),
        total_bytes: room.total_bytes,
        free_bytes: room.free_bytes,
    });
    let replied = tokio::time::timeout(limits::REGISTER_TIMEOUT, leader.propose_one(command)).await;
    let server = match replied {
        Ok(Ok(Reply::ServerRegistered { server })) => server,
        Ok(Ok(Reply::Refused(reason))) => return Err(refused(reason.to_owned())),
        _ => return Err(not_leader(host)),
    };
    let registered = Registered {
        cluster: Some(cluster),
        server_id: server.0,
        term: leader.term(),
        lease_ttl_ms: limits::LEASE_TTL.as_millis() as u64,
        nodes: host.nodes(),
    };
    Ok(Admitted { leader, server, registered })
}

fn foreign(theirs: &ClusterId, ours: &ClusterId) -> String {
    let name = |c: &ClusterId| c.uuid.iter().map(|b| format!("{b:02x}")).collect::<String>();
    if theirs.uuid == ours.uuid {
        let (theirs, ours) = (theirs.generation, ours.generation);
        return format!("the chunk server's data are of generation {theirs} of this cluster, which is at {ours}");
    }
    format!("the chunk server's data belong to cluster {}, this is {}", name(theirs), name(ours))
}

fn refused(reason: String) -> Ending {
    warn!(reason, "a chunk server is refused");
    Ending::Told(to_server::Body::Refused(RefusedServer { reason }))
}

fn not_leader(host: &Arc<dyn Host>) -> Ending {
    let (leader_id, leader_address) = host.leader_hint();
    Ending::Told(to_server::Body::NotLeader(NotLeader { leader_id, leader_address, nodes: host.nodes() }))
}

fn message(body: to_server::Body) -> ToServer {
    ToServer { body: Some(body) }
}

/// All disks together; failed ones have no room.
fn room(disks: &[Disk]) -> Room {
    let mut room = Room { disks: disks.len() as u32, ..Room::default() };
    for disk in disks {
        if disk.failed {
            room.failed_disks += 1;
            continue;
        }
        room.total_bytes = room.total_bytes.saturating_add(disk.total_bytes);
        room.free_bytes = room.free_bytes.saturating_add(disk.free_bytes);
        room.chunks += disk.chunks;
    }
    room
}

#[cfg(test)]
mod tests;
