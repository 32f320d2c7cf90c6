//! What operators ask: status of this node (and of the cluster, if it leads), `init`, a hand-over.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use caribou_proto::admin::v1 as wire;
use caribou_proto::admin::v1::admin_service_server::AdminService;
use caribou_proto::ids::{NodeId, SessionId};
use tonic::{Request, Response, Status};

use super::node::Node;
use crate::fsm::error::Fatal;
use crate::fsm::tables::meta::{self, Counter};
use crate::fsm::tables::sessions::Session;
use crate::fsm::tables::{Tables, Visit, chunks, servers, session_grants, sessions};
use crate::leader::LeaderHandle;
use crate::raft::RaftStatus;
use crate::usage::{Usage, usage};

/// Sessions that a status lists.
const CLIENTS_SHOWN: usize = 10_000;

/// Grants of a session that are looked at at once.
const GRANTS_PAGE: usize = 256;

/// The service of operators.
pub(crate) struct Admin {
    node: Arc<Node>,
    started: Instant,
}

impl Admin {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self { node, started: Instant::now() }
    }

    async fn leader_view(&self, leading: &LeaderHandle, raft: &RaftStatus) -> Result<wire::LeaderView, Fatal> {
        let attached = leading.servers().await;
        let (below_goal, _) = leading.backlog().await;
        let view = self.node.raft().view();
        let count = |counter| meta::counter(&view, counter);
        let chunk_servers = servers::all(&view)?.into_iter().map(|(id, row)| {
            let live = attached.iter().find(|s| s.server == id);
            wire::ChunkServer {
                server_id: id.0,
                address: row.address,
                connected: live.is_some(),
                incarnation: row.incarnation.0,
                total_bytes: live.map_or(row.total_bytes, |s| s.total_bytes),
                free_bytes: live.map_or(row.free_bytes, |s| s.free_bytes),
                chunks: live.map_or(0, |s| s.chunks),
                last_heartbeat_ms: live.map_or(0, |s| s.last_heartbeat_ms),
                disks: live.map_or(0, |s| s.disks),
                failed_disks: live.map_or(0, |s| s.failed_disks),
            }
        });
        let rows = all_sessions(&view)?;
        let clients = rows.clone().into_iter().map(|(id, row)| {
            let status = leading.session_status(id);
            wire::Client {
                session_id: id.0,
                expired: !row.is_live(),
                idle_ms: status.silent_ms.unwrap_or(row.idle_ms),
                name: row.name,
                connected: self.node.registry.is_connected(id),
                claims: status.claims,
            }
        });
        let (grants, held) = grants_and_holds(&view, rows.iter().map(|(id, _)| *id))?;
        let followers = raft.followers.iter().map(|f| wire::Follower {
            node_id: f.node_id.0,
            matched_index: f.matched_index,
            lag_entries: f.lag_entries,
            last_contact_ms: f.last_contact_ms.unwrap_or(u64::MAX),
            snapshotting: f.snapshotting,
        });
        Ok(wire::LeaderView {
            followers: followers.collect(),
            chunk_servers: chunk_servers.collect(),
            clients: clients.collect(),
            inodes: count(Counter::Inodes)?,
            chunks: count(Counter::Chunks)?,
            chunks_below_goal: below_goal as u64,
            chunks_in_recovery: count(Counter::Intents)?,
            chunks_held: held,
            garbage: count(Counter::Garbage)?,
            orphans: count(Counter::Orphans)?,
            grants,
        })
    }
}

fn all_sessions(view: &dyn Tables) -> Result<Vec<(SessionId, Session)>, Fatal> {
    let mut rows = Vec::new();
    sessions::scan(view, SessionId(0), &mut |id, row| {
        rows.push((id, row));
        Ok(if rows.len() < CLIENTS_SHOWN { Visit::Next } else { Visit::Stop })
    })?;
    Ok(rows)
}

/// Live grants, and chunks that wait for their writer (W5).
fn grants_and_holds(view: &dyn Tables, sessions: impl Iterator<Item = SessionId>) -> Result<(u64, u64), Fatal> {
    let (mut grants, mut holds) = (0, 0);
    for session in sessions {
        let mut after = None;
        loop {
            let page = session_grants::page(view, session, after, GRANTS_PAGE)?;
            for id in &page {
                let Some(chunk) = chunks::get(view, *id)? else { continue };
                grants += u64::from(chunk.grant.is_some_and(|g| g.session == session));
                holds += u64::from(chunk.hold.is_some_and(|h| h.session == session));
            }
            if page.len() < GRANTS_PAGE {
                break;
            }
            after = page.last().copied();
        }
    }
    Ok((grants, holds))
}

#[tonic::async_trait]
impl AdminService for Admin {
    async fn init(&self, request: Request<wire::InitRequest>) -> Result<Response<wire::InitReply>, Status> {
        let request = request.into_inner();
        let goal = match request.default_goal {
            0 => 0,
            goal @ 1..=9 => goal as u8,
            goal => return Err(Status::invalid_argument(format!("a goal of {goal} copies is not possible: 1 to 9"))),
        };
        let nodes = request.nodes.into_iter().map(|n| (NodeId(n.node_id), n.address)).collect();
        match self.node.raft().init(nodes, goal).await {
            Ok(cluster) => Ok(Response::new(wire::InitReply { cluster: Some(cluster.into()) })),
            Err(error) => Err(Status::failed_precondition(error.to_string())),
        }
    }

    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Status> {
        let raft = self.node.raft().status();
        let leader = match self.node.leading() {
            Some(leading) => match self.leader_view(&leading, &raft).await {
                Ok(view) => Some(view),
                Err(fatal) => {
                    self.node.stop(&fatal);
                    return Err(Status::internal(fatal.to_string()));
                }
            },
            None => None,
        };
        let Usage { context_switches, cpu_ms } = usage();
        let counters = wire::Counters {
            commands: raft.commands,
            replies_from_table: self.node.counters.replies_from_table.load(Ordering::Relaxed),
            entries: raft.entries,
            log_fsyncs: raft.log_fsyncs,
            queries: self.node.counters.queries.load(Ordering::Relaxed),
            peer_messages: raft.peer_messages,
            client_messages: self.node.counters.messages.load(Ordering::Relaxed),
            context_switches,
            cpu_ms,
        };
        Ok(Response::new(wire::StatusReply {
            node_id: raft.node_id.0,
            initialised: raft.cluster.is_some(),
            cluster: raft.cluster.map(Into::into),
            role: raft.role.to_string(),
            ready: leader.is_some(),
            term: raft.leader.term,
            leader_id: raft.leader.leader_id.map_or(0, |id| id.0),
            last_log_index: raft.last_log_index,
            committed_index: raft.committed_index,
            applied_index: raft.applied_index,
            purged_index: raft.purged_index,
            snapshot_index: raft.snapshot_index,
            state_hash: raft.state_hash,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_ms: self.started.elapsed().as_millis() as u64,
            nodes: self.node.meta_nodes(),
            leader,
            counters: Some(counters),
            installing_snapshot_bytes: raft.installing_bytes,
            installing_snapshot_total_bytes: raft.installing_total_bytes,
        }))
    }

    async fn transfer_leader(
        &self,
        request: Request<wire::TransferLeaderRequest>,
    ) -> Result<Response<wire::TransferLeaderReply>, Status> {
        let to = request.into_inner().to_node;
        let to = (to != 0).then_some(NodeId(to));
        match self.node.raft().transfer_leader(to).await {
            Ok(leader) => Ok(Response::new(wire::TransferLeaderReply { leader_id: leader.0 })),
            Err(error) => Err(Status::failed_precondition(error.to_string())),
        }
    }
}
