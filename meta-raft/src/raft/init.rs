//! `init`, once per cluster: makes UUID, generation and nonce, gives them to every node, then starts Raft with these nodes as voters.
//!
//! Nothing is changed anywhere before every node has answered that it is empty. If it breaks off in between it can be repeated: an
//! identity counts for nothing until its node has voted or stored an entry.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use caribou_proto::ids::NodeId;
use caribou_proto::raft::v1 as wire;
use openraft::errors::{InitializeError, RaftError};
use tokio::sync::watch;
use tonic::Code;

use super::api::{InitError, LeaderState};
use super::config::INIT_TIMEOUT;
use super::identity::{ClusterIdentity, Identity};
use super::network::peers::{Peers, Purpose};
use super::surroundings::Line;
use super::types::{Node, Raft};

/// A cluster has at most this many voters.
const MAX_VOTERS: usize = 7;
/// Copies of the default storage class if the operator names none, and at most.
const DEFAULT_GOAL: u8 = 2;
const MAX_GOAL: u8 = 9;
/// The first generation (F1).
const FIRST_GENERATION: u16 = 1;

pub(crate) struct Init {
    pub(crate) raft: Raft,
    pub(crate) identity: Arc<Identity>,
    pub(crate) peers: Arc<Peers>,
    pub(crate) leader: watch::Receiver<LeaderState>,
}

/// Checks what the operator asks for; node id → address.
fn checked(own: NodeId, nodes: &[(NodeId, String)], goal: u8) -> Result<(BTreeMap<u64, String>, u8), InitError> {
    let bad = |text: String| Err(InitError::BadRequest(text));
    let by_id: BTreeMap<u64, String> = nodes.iter().map(|(id, address)| (id.0, address.clone())).collect();
    let addresses: BTreeSet<&String> = by_id.values().collect();
    if by_id.len() != nodes.len() || addresses.len() != nodes.len() {
        return bad("two of the nodes have the same number or address: name each node once".to_owned());
    }
    if by_id.contains_key(&0) || by_id.values().any(String::is_empty) {
        return bad("every node needs a number from 1 and an address".to_owned());
    }
    if !by_id.contains_key(&own.0) {
        return bad(format!("the node asked, {own}, is not among the nodes: name it too, or ask another"));
    }
    if by_id.len() > MAX_VOTERS || by_id.len().is_multiple_of(2) {
        return bad(format!("{} nodes: a cluster has 1, 3, 5 or {MAX_VOTERS} metadata nodes", by_id.len()));
    }
    if goal > MAX_GOAL {
        return bad(format!("a goal of {goal} copies: between 1 and {MAX_GOAL}"));
    }
    Ok((by_id, if goal == 0 { DEFAULT_GOAL } else { goal }))
}

impl Init {
    pub(crate) async fn run(mut self, nodes: &[(NodeId, String)], goal: u8) -> Result<ClusterIdentity, InitError> {
        if let Some(cluster) = self.identity.member_of() {
            return Err(InitError::AlreadyInitialised(cluster));
        }
        let (nodes, goal) = checked(self.identity.node_id(), nodes, goal)?;
        let own = self.identity.node_id().0;
        for (id, address) in nodes.iter().filter(|(id, _)| **id != own) {
            self.probe(*id, address).await?;
        }
        let cluster = ClusterIdentity {
            uuid: *uuid::Uuid::new_v4().as_bytes(),
            generation: FIRST_GENERATION,
            nonce: rand::random(),
        };
        for (id, address) in nodes.iter().filter(|(id, _)| **id != own) {
            self.join(*id, address, cluster, goal).await?;
        }
        let written = self.identity.join(cluster, goal).and_then(|()| self.identity.take_part(cluster));
        written.map_err(InitError::Failed)?;
        let members: BTreeMap<u64, Node> = nodes.into_iter().map(|(id, address)| (id, Node { address })).collect();
        match self.raft.initialize(members).await {
            Ok(()) => {}
            Err(RaftError::APIError(InitializeError::NotAllowed(_))) => {
                return Err(InitError::AlreadyInitialised(cluster));
            }
            Err(e) => return Err(InitError::Failed(e.to_string())),
        }
        // Some node leads; whether the first record is there already is that leader's business (`leadership`).
        let elected = self.leader.wait_for(|state| state.leader_id.is_some());
        match tokio::time::timeout(INIT_TIMEOUT, elected).await {
            Ok(Ok(_)) => {
                tracing::info!(%cluster, "the cluster has been initialised");
                Ok(cluster)
            }
            _ => Err(InitError::Failed(format!(
                "no leader within {INIT_TIMEOUT:?}, but the cluster exists: look at the nodes"
            ))),
        }
    }

    async fn probe(&self, node_id: u64, address: &str) -> Result<(), InitError> {
        let request = wire::ProbeRequest { to_node: node_id };
        let reply = self.ask(node_id, address, async |mut client| client.probe(request).await).await?;
        if !reply.member {
            return Ok(());
        }
        let cluster = reply.cluster.as_ref().map(ClusterIdentity::try_from);
        let reason = match cluster {
            Some(Ok(cluster)) => format!("it already belongs to cluster {cluster}"),
            _ => "it already belongs to a cluster".to_owned(),
        };
        Err(InitError::Refused { node_id: NodeId(node_id), address: address.to_owned(), reason })
    }

    async fn join(&self, node_id: u64, address: &str, cluster: ClusterIdentity, goal: u8) -> Result<(), InitError> {
        let request =
            wire::JoinRequest { cluster: Some(cluster.into()), to_node: node_id, default_goal: u32::from(goal) };
        self.ask(node_id, address, async |mut client| client.join(request).await).await.map(drop)
    }

    async fn ask<T>(
        &self,
        node_id: u64,
        address: &str,
        call: impl AsyncFnOnce(
            wire::raft_service_client::RaftServiceClient<Line>,
        ) -> Result<tonic::Response<T>, tonic::Status>,
    ) -> Result<T, InitError> {
        let (id, at) = (NodeId(node_id), address.to_owned());
        let client = self.peers.client(address, Purpose::Init).map_err(InitError::BadRequest)?;
        match tokio::time::timeout(INIT_TIMEOUT, call(client)).await {
            Ok(Ok(reply)) => Ok(reply.into_inner()),
            Ok(Err(status)) if status.code() == Code::Unavailable => {
                Err(InitError::Unreachable { node_id: id, address: at, reason: status.message().to_owned() })
            }
            Ok(Err(status)) => {
                Err(InitError::Refused { node_id: id, address: at, reason: status.message().to_owned() })
            }
            Err(_) => Err(InitError::Unreachable {
                node_id: id,
                address: at,
                reason: format!("no answer within {INIT_TIMEOUT:?}"),
            }),
        }
    }
}
