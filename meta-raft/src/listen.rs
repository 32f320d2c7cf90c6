//! The listening side: socket, cap on connections, who is served where, HTTP/2 limits. tonic's defaults bound nothing (STACK, gRPC).

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};

use crate::raft::door;

/// HTTP/2 windows: a session's replies, a snapshot's files.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
const FRAME_BYTES: u32 = 1 << 20;
/// Streams of one connection: a client has one session, a node a few calls at once.
const STREAMS_PER_CONNECTION: u32 = 256;
const PENDING_RESETS: usize = 32;
const HEADER_LIST_BYTES: u32 = 16 << 10;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be silent before it has said what it is.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(10);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);

/// A server with every limit set.
pub(crate) fn builder() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(STREAMS_PER_CONNECTION)
        .max_frame_size(FRAME_BYTES)
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(HEADER_LIST_BYTES)
        .http2_max_pending_accept_reset_streams(Some(PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(PENDING_RESETS))
}

/// Where accepted connections go.
pub(crate) struct Doors {
    /// Clients, chunk servers, operators.
    pub(crate) clients: mpsc::Sender<Connection>,
    /// The other metadata nodes.
    pub(crate) peers: mpsc::Sender<Connection>,
}

/// Accepts connections and sorts them, without end. Those above the cap are closed at once; a failing accept is tried again after a pause.
pub(crate) async fn accept(listener: TcpListener, connections: usize, doors: &Doors) {
    let slots = Arc::new(Semaphore::new(connections));
    let mut arriving = FuturesUnordered::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(()) = arriving.next() => continue,
        };
        match accepted {
            Ok((stream, _)) => match slots.clone().try_acquire_owned() {
                Ok(slot) => arriving.push(sort(Connection { stream, _slot: slot }, doors)),
                Err(_) => tracing::debug!("a connection was closed: there are too many"),
            },
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// Passes a connection on as soon as it has said what it is.
async fn sort(mut connection: Connection, doors: &Doors) {
    let begun = async {
        connection.stream.set_nodelay(true)?;
        door::is_peer(&mut connection.stream).await
    };
    match tokio::time::timeout(FIRST_BYTE_TIMEOUT, begun).await {
        Ok(Ok(is_peer)) => {
            let to = if is_peer { &doors.peers } else { &doors.clients };
            // Fails when the node stops.
            let _ = to.send(connection).await;
        }
        Ok(Err(error)) => tracing::debug!(%error, "a connection ended before it began"),
        Err(_) => tracing::debug!("a connection was closed: nothing came for {FIRST_BYTE_TIMEOUT:?}"),
    }
}

/// A connection and its place among those that are allowed.
pub(crate) struct Connection {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
}

impl Connection {
    /// The same connection, waited for by the runtime that this runs on.
    pub(crate) fn on_this_runtime(self) -> io::Result<Self> {
        Ok(Self { stream: TcpStream::from_std(self.stream.into_std()?)?, _slot: self._slot })
    }
}

impl Connected for Connection {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
