//! Connections to the other metadata nodes: opened when first used, kept, one per peer and purpose.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::raft::v1 as wire;
use caribou_proto::raft::v1::raft_service_client::RaftServiceClient;
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use super::door;
use super::traffic::Traffic;
use crate::raft::config::{CONNECT_TIMEOUT, MAX_MESSAGE_BYTES};
use crate::raft::identity::Identity;
use crate::raft::surroundings::{Blocking, Line, Surroundings};

/// A dead peer is noticed although nothing is being sent.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Purpose {
    Replication,
    /// Heartbeats, votes, hand-over.
    Heartbeat,
    Snapshot,
    /// Probes and identities during `init`.
    Init,
}

/// All connections of this node.
pub(crate) struct Peers {
    identity: Arc<Identity>,
    surroundings: Surroundings,
    channels: Mutex<HashMap<(String, Purpose), Line>>,
    snapshots: Mutex<HashSet<u64>>,
    traffic: Arc<Traffic>,
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "peers of node {}", self.node_id())
    }
}

impl Peers {
    pub(crate) fn new(identity: Arc<Identity>, surroundings: Surroundings) -> Self {
        Self {
            identity,
            surroundings,
            channels: Mutex::default(),
            snapshots: Mutex::default(),
            traffic: Arc::default(),
        }
    }

    pub(crate) fn node_id(&self) -> u64 {
        self.identity.node_id().0
    }

    pub(crate) fn blocking(&self) -> Blocking {
        self.surroundings.blocking.clone()
    }

    pub(crate) fn traffic(&self) -> Arc<Traffic> {
        Arc::clone(&self.traffic)
    }

    /// The header of a message to `to_node` (F1).
    pub(crate) fn header(&self, to_node: u64) -> Result<wire::Header, String> {
        let cluster = self.identity.cluster().ok_or("this node belongs to no cluster yet")?;
        Ok(wire::Header { cluster: Some(cluster.into()), from_node: self.node_id(), to_node })
    }

    /// A client on the connection for this purpose; connects when the first message goes out.
    pub(crate) fn client(&self, address: &str, purpose: Purpose) -> Result<RaftServiceClient<Line>, String> {
        let mut channels = self.channels.lock();
        let channel = match channels.get(&(address.to_owned(), purpose)) {
            Some(channel) => channel.clone(),
            None => {
                let channel = (self.surroundings.dial)(address)?;
                channels.insert((address.to_owned(), purpose), channel.clone());
                channel
            }
        };
        Ok(RaftServiceClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// Says that a snapshot is being sent to `target` while the guard lives.
    pub(crate) fn sending_snapshot(self: &Arc<Self>, target: u64) -> SendingSnapshot {
        self.snapshots.lock().insert(target);
        SendingSnapshot { peers: Arc::clone(self), target }
    }

    pub(crate) fn is_sending_snapshot(&self, target: u64) -> bool {
        self.snapshots.lock().contains(&target)
    }
}

/// See [`Peers::sending_snapshot`].
#[derive(Debug)]
pub(crate) struct SendingSnapshot {
    peers: Arc<Peers>,
    target: u64,
}

impl Drop for SendingSnapshot {
    fn drop(&mut self) {
        self.peers.snapshots.lock().remove(&self.target);
    }
}

pub(crate) fn connect(address: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|e| format!("\"{address}\" is no address of a metadata node: {e}"))?;
    let endpoint = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    Ok(door::connect_lazily(&endpoint))
}
