//! Raft over gRPC: [`client`] speaks to a peer, [`server`] answers, [`door`] tells its connections
//! from those of others. Replication, heartbeats with votes, and snapshots have connections of
//! their own per peer, so that bulk never delays what keeps a leader alive (STACK, openraft 10).

mod client;
mod company;
mod credit;
pub(crate) mod door;
pub(crate) mod peers;
pub(crate) mod server;
mod snapshot_client;
mod snapshot_server;
pub(crate) mod traffic;

use std::sync::Arc;

use openraft::network::RaftNetworkFactory;

use super::types::{Node, TypeConfig};
use client::PeerClient;
use peers::{Peers, Purpose};

/// Makes clients for the library.
#[derive(Debug)]
pub(crate) struct Factory {
    peers: Arc<Peers>,
}

impl Factory {
    pub(crate) fn new(peers: Arc<Peers>) -> Self {
        Self { peers }
    }

    fn client(&self, target: u64, node: &Node, purpose: Purpose) -> PeerClient {
        PeerClient::new(Arc::clone(&self.peers), target, node.address.clone(), purpose)
    }
}

impl RaftNetworkFactory<TypeConfig> for Factory {
    type Network = PeerClient;

    async fn new_client(&mut self, target: u64, node: &Node) -> PeerClient {
        self.client(target, node, Purpose::Replication)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> PeerClient {
        self.client(target, node, Purpose::Heartbeat)
    }

    async fn new_snapshot_client(&mut self, target: u64, node: &Node) -> PeerClient {
        self.client(target, node, Purpose::Snapshot)
    }
}
