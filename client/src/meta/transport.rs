//! A stream of session messages to one node, as a trait: tonic in production (`grpc.rs`), channels in tests and simulations.
//! Knows nothing of sessions or leaders.

use caribou_proto::meta::v1::{ClientMessage, ServerMessage};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

/// Messages that a link takes before its sender has to wait for the network.
pub const LINK_QUEUE: usize = 1024;

/// One stream. Dropping it ends the stream on both sides. Messages arrive in the order in which they were sent.
pub struct Link {
    /// Towards the node; holds at most [`LINK_QUEUE`] messages.
    pub sender: mpsc::Sender<ClientMessage>,
    /// From the node; its end, or an error, means that the stream is broken.
    pub receiver: BoxStream<'static, Result<ServerMessage, TransportError>>,
}

/// A node could not be reached, or the stream to it broke. What happened, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TransportError(pub String);

/// Opens streams to metadata nodes.
pub trait Transport: Send + Sync + 'static {
    /// Opens a stream to `host:port` with `first` as its first message. Fails soon (within a connection timeout), never panics.
    fn dial(&self, address: &str, first: ClientMessage) -> BoxFuture<'static, Result<Link, TransportError>>;
}
