//! A stream to one chunk server, as a trait: tonic in production (`grpc.rs`), channels in tests and simulations.
//! Knows nothing of chunks, versions or grants.

use caribou_proto::chunk::v1::{ReadReply, ReadRequest, WriteAck, WriteFragment};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

/// Messages that a link takes before its sender has to wait for the network.
pub const LINK_QUEUE: usize = 16;

/// One stream. Dropping it ends the stream on both sides. Messages arrive in the order in which they were sent.
pub struct Link<Request, Reply> {
    /// Towards the server; holds at most [`LINK_QUEUE`] messages.
    pub requests: mpsc::Sender<Request>,
    /// From the server; its end, or an error, means that the stream is broken.
    pub replies: BoxStream<'static, Result<Reply, LinkError>>,
}

/// A server could not be reached, or the stream to it broke. What happened, in words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct LinkError(pub String);

/// Opens streams to chunk servers. Each call makes a stream of its own (in production: a connection of its own).
pub trait Transport: Send + Sync + 'static {
    /// A `ChunkData.Write` stream to `host:port`. Fails soon (within a connection timeout), never panics.
    fn write(&self, address: &str) -> BoxFuture<'static, Result<Link<WriteFragment, WriteAck>, LinkError>>;
    /// A `ChunkData.Read` stream to `host:port`.
    fn read(&self, address: &str) -> BoxFuture<'static, Result<Link<ReadRequest, ReadReply>, LinkError>>;
}
