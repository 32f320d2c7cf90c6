//! Connections between metadata nodes: told apart from others by how they begin, and served on Raft's own runtime.
//!
//! All of a node's traffic comes in on one port. A connection of another metadata node says so before HTTP/2 begins; it is then handed to
//! the runtime on which Raft itself runs, so that a message from the leader reaches the log, and its answer the leader, without a change
//! of threads (docs/performance.md).

use std::io;

use caribou_proto::raft::v1::raft_service_server::RaftServiceServer;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint, Uri};

use super::server::Server;
use crate::listen::{self, Connection};
use crate::raft::config::MAX_MESSAGE_BYTES;

/// How a connection of a metadata node begins. HTTP/2 begins with "PRI", HTTP/1 with a letter too: the first byte decides.
const PREAMBLE: &[u8; 7] = b"\xcaribou\n";

/// A channel that announces itself; connects when the first message goes out.
pub(crate) fn connect_lazily(endpoint: &Endpoint) -> Channel {
    endpoint.connect_with_connector_lazy(tower::service_fn(dial))
}

async fn dial(uri: Uri) -> io::Result<TokioIo<TcpStream>> {
    let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect(authority.as_str()).await?;
    stream.set_nodelay(true)?;
    stream.write_all(PREAMBLE).await?;
    Ok(TokioIo::new(stream))
}

/// Whether the other end is a metadata node; what announced it has been read then.
pub(crate) async fn is_peer(stream: &mut TcpStream) -> io::Result<bool> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    if first[0] != PREAMBLE[0] {
        return Ok(false);
    }
    let mut found = [0; PREAMBLE.len()];
    stream.read_exact(&mut found).await?;
    if &found != PREAMBLE {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "neither HTTP/2 nor a metadata node of this version"));
    }
    Ok(true)
}

/// What they are served with.
pub(crate) fn service(server: Server) -> RaftServiceServer<Server> {
    RaftServiceServer::new(server)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

/// Serves the other metadata nodes until no more connections can come; on Raft's runtime.
pub(crate) async fn serve(
    server: Server,
    connections: mpsc::Receiver<Connection>,
) -> Result<(), tonic::transport::Error> {
    let connections = ReceiverStream::new(connections).map(Connection::on_this_runtime);
    listen::builder().add_service(service(server)).serve_with_incoming(connections).await
}
