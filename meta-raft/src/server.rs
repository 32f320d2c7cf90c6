//! The process: from the configuration to a listening node, and from SIGTERM to a clean stop.
//!
//! Order matters: configuration and socket first, then the data folder, so that what is wrong with the former changes nothing on disk.
//! A node that leads hands over before it stops.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use caribou_proto::admin::v1::admin_service_server::AdminServiceServer;
use caribou_proto::chunk::v1::control_service_server::ControlServiceServer;
use caribou_proto::ids::NodeId;
use caribou_proto::meta::v1::meta_service_server::MetaServiceServer;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::config::{self, Config};
use crate::leader::control::Control;
use crate::listen::{self, Doors};
use crate::raft::{FatalError, RaftConfig, RaftNode, StartError};
use crate::service::Meta;
use crate::service::admin::Admin;
use crate::service::node::Node;

/// Largest message of a client: an extended attribute and its frame, or a caller with all groups there are.
const CLIENT_MESSAGE_BYTES: usize = 1 << 20;
/// Largest message of a chunk server: a registration with a full list of dirty chunks.
const CONTROL_MESSAGE_BYTES: usize = 16 << 20;
/// Connections that have been accepted and not yet taken over by their server.
const ARRIVING: usize = 64;

/// Why the node does not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::Error),
    #[error("cannot listen on {address} ({source}): stop what uses it or choose another address with --listen")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the data folder {path} cannot be used ({source}): create it, or correct data (--data)")]
    Folder { path: PathBuf, source: std::io::Error },
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    Fatal(#[from] FatalError),
    #[error("cannot wait for signals ({0}): the system is out of resources")]
    Signals(std::io::Error),
    #[error("a part of the node failed ({0}): restart it")]
    Serve(#[from] tonic::transport::Error),
}

/// Runs until SIGTERM or SIGINT, or until something makes that impossible.
pub async fn run(config: Config) -> Result<(), Error> {
    let address = config.listen_address()?;
    let mut stop = Stop::new().map_err(Error::Signals)?;
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    std::fs::metadata(&config.data).map_err(|source| Error::Folder { path: config.data.clone(), source })?;

    let (node, mut told_to_stop) = Node::new(config.limits.clone());
    let events = node.clone();
    let raft = RaftNode::start(raft_config(&config), Arc::new(move |event| events.event(event))).await?;
    node.set_raft(raft.clone());
    let follow = tokio::spawn(node.clone().follow_leadership());
    tracing::info!(%address, node = config.node_id, cluster = raft.cluster().map(|c| c.to_string()), "listening");

    let closing = CancellationToken::new();
    let serving = serve(node.clone(), listener, config.limits.connections, closing.clone());
    tokio::pin!(serving);
    let outcome = tokio::select! {
        served = &mut serving => served.map_err(Error::from),
        fatal = raft.fatal() => Err(fatal.into()),
        Some(fatal) = told_to_stop.recv() => Err(fatal.into()),
        signal = stop.received() => {
            tracing::info!(signal, "stopping");
            Ok(())
        }
    };
    if outcome.is_ok() {
        // This node serves on meanwhile: its successor has to reach it to say that it leads.
        tokio::select! {
            _ = &mut serving => {}
            () = hand_over(&raft) => {}
        }
    }
    closing.cancel();
    follow.abort();
    raft.shutdown().await;
    outcome
}

async fn serve(
    node: Arc<Node>,
    listener: TcpListener,
    connections: usize,
    closing: CancellationToken,
) -> Result<(), tonic::transport::Error> {
    let (clients, arriving) = mpsc::channel(ARRIVING);
    let (peers, arriving_peers) = mpsc::channel(ARRIVING);
    let serving_peers = node.raft().serve(arriving_peers);
    let doors = Doors { clients, peers };
    let serving = listen::builder().add_routes(routes(&node)).serve_with_incoming_shutdown(
        ReceiverStream::new(arriving).map(Ok::<_, Infallible>),
        closing.cancelled_owned(),
    );
    tokio::select! {
        served = serving => served,
        served = serving_peers => served,
        () = listen::accept(listener, connections, &doors) => unreachable!("accepts without end"),
    }
}

/// What clients, chunk servers and operators ask of a node.
pub(crate) fn routes(node: &Arc<Node>) -> Routes {
    let clients = MetaServiceServer::new(Meta { node: node.clone() }).max_decoding_message_size(CLIENT_MESSAGE_BYTES);
    let chunk_servers = ControlServiceServer::new(Control::new(node.clone()));
    Routes::new(clients)
        .add_service(chunk_servers.max_decoding_message_size(CONTROL_MESSAGE_BYTES))
        .add_service(AdminServiceServer::new(Admin::new(node.clone())))
}

/// A planned stop of the leader is a hand-over, not an outage.
async fn hand_over(raft: &RaftNode) {
    let leads = raft.leader().borrow().ready;
    if leads && raft.members().iter().filter(|m| m.voter).count() > 1 {
        match raft.transfer_leader(None).await {
            Ok(to) => tracing::info!(%to, "handed the leadership over"),
            Err(error) => tracing::warn!(%error, "the leadership could not be handed over: the others elect a leader"),
        }
    }
}

fn raft_config(config: &Config) -> RaftConfig {
    let bytes = |size: bytesize::ByteSize| usize::try_from(size.as_u64()).unwrap_or(usize::MAX);
    RaftConfig {
        heartbeat: config.raft.heartbeat,
        election_timeout_min: config.raft.election_timeout_min,
        election_timeout_max: config.raft.election_timeout_max,
        snapshot_after_bytes: config.raft.snapshot_after.as_u64(),
        log_keep_bytes: config.raft.log_keep.as_u64(),
        block_cache_bytes: bytes(config.storage.block_cache),
        write_buffer_bytes: bytes(config.storage.write_buffer),
        ..RaftConfig::new(NodeId(config.node_id), &config.data)
    }
}

/// SIGTERM and SIGINT.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
}

impl Stop {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
