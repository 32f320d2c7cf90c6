//! The transport, as an argument: how this server reaches other chunk servers and the metadata nodes.
//!
//! Each call opens a stream of its own on a connection of its own, so that one stream's back-pressure is never another's.
//! A dropped sender ends a stream in one direction, a dropped answer stream cancels it in both.
//! - [`tonic`] – gRPC over TCP.
//! - [`local`] – within one process, for tests and simulations; its lines can be cut and blocked.

pub mod local;
pub mod tonic;

use caribou_proto::chunk::v1::{FromServer, ReadReply, ReadRequest, ToServer, WriteAck, WriteFragment};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

/// Why a peer could not be reached, or why its stream ended; for a person.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct PeerError(pub String);

/// What comes back on a stream.
pub type Answers<T> = BoxStream<'static, Result<T, PeerError>>;
/// A stream that is being opened.
pub type Opening<T> = BoxFuture<'static, Result<Answers<T>, PeerError>>;

/// Opens streams to others. Cancel-safe: dropping the future abandons the attempt.
pub trait Peers: Send + Sync + 'static {
    /// The write stream of the next member of a chain (W3).
    fn write(&self, address: &str, fragments: mpsc::Receiver<WriteFragment>) -> Opening<WriteAck>;
    /// Reads from another chunk server, for recovery.
    fn read(&self, address: &str, requests: mpsc::Receiver<ReadRequest>) -> Opening<ReadReply>;
    /// The control stream to a metadata node (F2).
    fn attach(&self, address: &str, messages: mpsc::Receiver<FromServer>) -> Opening<ToServer>;
}
