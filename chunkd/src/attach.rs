//! Finding the leader: dials all known metadata nodes at the same time, registers with each, and takes the first that accepts.
//!
//! Each node is tried again after its own short pause, so a node that hangs delays nobody, and a new leader is found within
//! a pause of its election. What a leader says is obeyed only after its cluster (F1) and its generation and term (F2) have been
//! checked and made durable.

use crate::heartbeat;
use crate::limits;
use crate::peers::Answers;
use crate::server::ChunkServer;
use crate::service::status::{cluster_from_wire, detail_of};
use crate::store;
use caribou_proto::chunk::v1::{FromServer, Registered, ToServer, to_server};
use caribou_proto::cluster::v1::MetaNode;
use caribou_proto::ids::ServerId;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

/// How long other nodes have to accept after one has refused us, before the refusal is believed.
const REFUSAL_GRACE: Duration = Duration::from_secs(1);
/// How often it is said that no leader was found.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(10);

/// A control stream whose leader has accepted this server.
pub(crate) struct Attached {
    pub(crate) address: String,
    pub(crate) generation: u16,
    pub(crate) term: u64,
    pub(crate) lease_ttl: Duration,
    pub(crate) outbound: mpsc::Sender<FromServer>,
    pub(crate) inbound: Answers<ToServer>,
}

/// The cluster does not want this server; nothing helps but a person.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the metadata node {address} refuses this chunk server: {reason}; check meta and the data folders")]
pub struct Refusal {
    /// Who refused.
    pub address: String,
    /// Its words.
    pub reason: String,
}

/// The metadata nodes that are known.
pub(crate) struct Nodes {
    configured: Vec<String>,
    learnt: Vec<String>,
}

impl Nodes {
    pub(crate) fn new(configured: Vec<String>) -> Self {
        Self { configured, learnt: Vec::new() }
    }

    /// Replaces what was learnt before; what is configured stays.
    pub(crate) fn learn(&mut self, nodes: &[MetaNode]) {
        if !nodes.is_empty() {
            self.learnt = nodes.iter().take(limits::META_NODES).map(|node| node.address.clone()).collect();
        }
    }

    fn hint(&mut self, address: &str) {
        if !address.is_empty()
            && !self.learnt.iter().any(|known| known == address)
            && self.learnt.len() < limits::META_NODES
        {
            self.learnt.push(address.to_owned());
        }
    }

    fn all(&self) -> impl Iterator<Item = &String> {
        self.learnt.iter().chain(self.configured.iter().filter(|address| !self.learnt.contains(address)))
    }
}

enum Answer {
    Accepted(Box<Accepted>),
    NotLeader { leader: String, nodes: Vec<MetaNode> },
    Refused(String),
    Failed(String),
}

struct Accepted {
    registered: Registered,
    outbound: mpsc::Sender<FromServer>,
    inbound: Answers<ToServer>,
}

type Attempts = FuturesUnordered<BoxFuture<'static, (String, Answer)>>;

/// Looks until a leader accepts. A refusal ends the search only while no leader has accepted this process before.
pub(crate) async fn find(
    server: &Arc<ChunkServer>,
    nodes: &mut Nodes,
    accepted_before: bool,
) -> Result<Attached, Refusal> {
    let mut attempts = Attempts::new();
    let mut pauses: HashMap<String, Duration> = HashMap::new();
    let mut troubles: BTreeMap<String, String> = BTreeMap::new();
    let mut refusal: Option<(Instant, Refusal)> = None;
    let mut complain_at = Instant::now() + COMPLAINT_INTERVAL;
    loop {
        // `pauses` names the nodes that have an attempt under way.
        for address in nodes.all() {
            if !pauses.contains_key(address) {
                pauses.insert(address.clone(), limits::ATTACH_BACKOFF_MIN);
                attempts.push(attempt(server.clone(), address.clone(), Duration::ZERO));
            }
        }
        let believe_at = refusal.as_ref().map(|(since, _)| *since + REFUSAL_GRACE);
        let (address, answer) = tokio::select! {
            Some(answered) = attempts.next() => answered,
            () = sleep_until(believe_at), if !accepted_before => {
                let (_, refusal) = refusal.expect("the pause is endless without one");
                return Err(refusal);
            }
            () = tokio::time::sleep_until(complain_at) => {
                warn!(nodes = ?troubles, "no leader accepts this server; trying on");
                complain_at = Instant::now() + COMPLAINT_INTERVAL;
                continue;
            }
        };
        let trouble = match answer {
            Answer::Accepted(accepted) => match accept(server, nodes, address.clone(), *accepted).await {
                Ok(attached) => return Ok(attached),
                Err(Unacceptable::Refused(reason)) => {
                    refuse(&mut refusal, &address, &reason);
                    reason
                }
                Err(Unacceptable::Failed(trouble)) => trouble,
            },
            Answer::NotLeader { leader, nodes: known } => {
                nodes.learn(&known);
                nodes.hint(&leader);
                "is not the leader".to_owned()
            }
            Answer::Refused(reason) => {
                refuse(&mut refusal, &address, &reason);
                reason
            }
            Answer::Failed(trouble) => trouble,
        };
        troubles.insert(address.clone(), trouble);
        let pause = pauses.entry(address.clone()).or_insert(limits::ATTACH_BACKOFF_MIN);
        attempts.push(attempt(server.clone(), address, *pause));
        *pause = (*pause * 2).min(limits::ATTACH_BACKOFF_MAX);
    }
}

fn refuse(refusal: &mut Option<(Instant, Refusal)>, address: &str, reason: &str) {
    if refusal.is_none() {
        *refusal = Some((Instant::now(), Refusal { address: address.to_owned(), reason: reason.to_owned() }));
    }
}

async fn sleep_until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn attempt(server: Arc<ChunkServer>, address: String, pause: Duration) -> BoxFuture<'static, (String, Answer)> {
    async move {
        tokio::time::sleep(pause).await;
        let asked = tokio::time::timeout(limits::REGISTER_TIMEOUT, register(&server, &address)).await;
        let answer = asked.unwrap_or_else(|_| Answer::Failed("does not answer".to_owned()));
        (address, answer)
    }
    .boxed()
}

async fn register(server: &ChunkServer, address: &str) -> Answer {
    let (outbound, messages) = mpsc::channel(limits::CONTROL_QUEUE);
    // There is room: it is the first message.
    let _ = outbound.try_send(heartbeat::register(&server.store, &server.settings.data_address));
    let mut inbound = match server.peers.attach(address, messages).await {
        Ok(inbound) => inbound,
        Err(error) => return Answer::Failed(error.to_string()),
    };
    match inbound.next().await {
        None => Answer::Failed("closed the stream".to_owned()),
        Some(Err(error)) => Answer::Failed(error.to_string()),
        Some(Ok(message)) => match message.body {
            Some(to_server::Body::Registered(registered)) => {
                Answer::Accepted(Box::new(Accepted { registered, outbound, inbound }))
            }
            Some(to_server::Body::NotLeader(hint)) => {
                Answer::NotLeader { leader: hint.leader_address, nodes: hint.nodes }
            }
            Some(to_server::Body::Refused(refused)) => Answer::Refused(refused.reason),
            _ => Answer::Failed("answered a registration with something else".to_owned()),
        },
    }
}

enum Unacceptable {
    Refused(String),
    Failed(String),
}

/// F1, F2: checks who accepted us and makes it durable before anything of it is obeyed.
async fn accept(
    server: &ChunkServer,
    nodes: &mut Nodes,
    address: String,
    accepted: Accepted,
) -> Result<Attached, Unacceptable> {
    let Accepted { registered, outbound, inbound } = accepted;
    let new = server.store.cluster().is_none();
    let Some(cluster) = registered.cluster.as_ref().and_then(cluster_from_wire) else {
        return Err(Unacceptable::Failed("names no valid cluster".to_owned()));
    };
    if registered.server_id == 0 || registered.lease_ttl_ms == 0 {
        return Err(Unacceptable::Failed("accepts the registration without a server id or a lease time".to_owned()));
    }
    let unusable = |error: store::Error| match error {
        store::Error::ForeignCluster { .. } => Unacceptable::Refused(detail_of(&error)),
        error => Unacceptable::Failed(detail_of(&error)),
    };
    // F1 before F2: another cluster's term must not become our fence.
    server.store.adopt(cluster, ServerId(registered.server_id)).await.map_err(unusable)?;
    server.store.fence(cluster.generation, registered.term).await.map_err(unusable)?;
    nodes.learn(&registered.nodes);
    if new {
        info!(
            server = registered.server_id,
            generation = cluster.generation,
            "registered in a cluster for the first time"
        );
    }
    Ok(Attached {
        address,
        generation: cluster.generation,
        term: registered.term,
        lease_ttl: Duration::from_millis(registered.lease_ttl_ms),
        outbound,
        inbound,
    })
}
