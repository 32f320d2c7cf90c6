//! Calls to the metadata nodes' AdminService: unary, each with a deadline, several nodes in parallel.

use std::time::Duration;

use anyhow::{Context, Result};
use caribou_proto::admin::v1::admin_service_client::AdminServiceClient;
use caribou_proto::admin::v1::{InitReply, InitRequest, StatusReply, StatusRequest, TransferLeaderRequest};
use tonic::transport::{Channel, Endpoint};

use crate::failure::usage;

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// How long a node may take to answer about itself.
const STATUS_TIMEOUT: Duration = Duration::from_secs(2);
/// `init` waits for the other nodes and for the first leader.
const INIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Where metadata nodes are, as every command takes it.
#[derive(Debug, Clone, clap::Args)]
pub struct MetaAddresses {
    /// Metadata nodes, host:port, separated by commas.
    #[arg(
        long,
        env = "CARIBOU_META",
        value_name = "ADDR,ADDR,…",
        value_delimiter = ',',
        default_value = "127.0.0.1:9430"
    )]
    pub meta: Vec<String>,
}

async fn connect(address: &str, timeout: Duration) -> Result<AdminServiceClient<Channel>> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| usage(format!("\"{address}\" is no address: give host:port")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(timeout)
        .tcp_nodelay(true);
    let channel = endpoint.connect().await.with_context(|| {
        format!("the metadata node at {address} cannot be reached: check that caribou-meta runs there and the address is right")
    })?;
    Ok(AdminServiceClient::new(channel))
}

/// What one node says about itself.
pub async fn status(address: &str) -> Result<StatusReply> {
    let mut client = connect(address, STATUS_TIMEOUT).await?;
    let reply = client.status(StatusRequest {}).await.with_context(|| format!("status of {address}"))?;
    Ok(reply.into_inner())
}

/// What each of several nodes says, in their order.
pub async fn status_of_all(addresses: &[String]) -> Vec<(String, Result<StatusReply>)> {
    let calls = addresses.iter().map(|address| async move { (address.clone(), status(address).await) });
    futures::future::join_all(calls).await
}

/// Makes a cluster of empty nodes.
pub async fn init(address: &str, request: InitRequest) -> Result<InitReply> {
    let mut client = connect(address, INIT_TIMEOUT).await.map_err(|e| usage(format!("{e:#}")))?;
    match client.init(request).await {
        Ok(reply) => Ok(reply.into_inner()),
        Err(status) => Err(usage(format!("init was refused by {address}: {}", status.message()))),
    }
}

/// Hands leadership over; 0 for any up-to-date follower. Returns the new leader.
pub async fn transfer_leader(address: &str, to_node: u64) -> Result<u64> {
    let mut client = connect(address, STATUS_TIMEOUT).await?;
    let reply = client.transfer_leader(TransferLeaderRequest { to_node }).await;
    Ok(reply.map_err(|status| anyhow::anyhow!("{}", status.message()))?.into_inner().leader_id)
}
