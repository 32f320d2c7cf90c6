//! The listening side of gRPC: socket, HTTP/2 limits, the cap on connections.
//!
//! tonic's defaults bound nothing; every limit is set here. It knows nothing of what the service does.

use crate::limits;
use crate::server::ChunkServer;
use crate::service::data::DataService;
use caribou_proto::chunk::v1::chunk_data_server::ChunkDataServer;
use futures::Stream;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tracing::{debug, warn};

/// Binds the socket; done before anything on disk is touched.
pub(crate) async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the server closes; at most `connections` at once.
pub(crate) async fn serve(
    server: Arc<ChunkServer>,
    listener: TcpListener,
    connections: usize,
) -> Result<(), tonic::transport::Error> {
    let closing = server.closing.clone();
    let service = data_service(server);
    Server::builder()
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_concurrent_streams(limits::STREAMS_PER_CONNECTION)
        .max_frame_size(limits::FRAME_BYTES)
        .http2_keepalive_interval(Some(limits::KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(limits::KEEPALIVE_TIMEOUT))
        .http2_max_header_list_size(limits::HEADER_LIST_BYTES)
        .http2_max_pending_accept_reset_streams(Some(limits::PENDING_RESETS))
        .http2_max_local_error_reset_streams(Some(limits::PENDING_RESETS))
        .add_service(service)
        .serve_with_incoming_shutdown(accepted(listener, connections), closing.cancelled_owned())
        .await
}

fn data_service(server: Arc<ChunkServer>) -> ChunkDataServer<DataService> {
    ChunkDataServer::new(DataService { server })
        .max_decoding_message_size(limits::MESSAGE_BYTES)
        .max_encoding_message_size(limits::MESSAGE_BYTES)
}

impl ChunkServer {
    /// What others ask of it, without a socket: for simulations.
    pub fn routes(self: &Arc<Self>) -> Routes {
        Routes::new(data_service(self.clone()))
    }
}

/// Accepted connections. Those above the cap are closed at once; a failing accept is tried again after a pause.
fn accepted(listener: TcpListener, connections: usize) -> impl Stream<Item = io::Result<Connection>> {
    let slots = Arc::new(Semaphore::new(connections));
    futures::stream::unfold((listener, slots), |(listener, slots)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(limits::ACCEPT_BACKOFF).await;
                    continue;
                }
            };
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                debug!("a connection was closed: there are too many");
                continue;
            };
            if let Err(error) = stream.set_nodelay(true) {
                debug!(%error, "a connection was closed");
                continue;
            }
            return Some((Ok(Connection { stream, _slot: slot }), (listener, slots)));
        }
    })
}

/// A connection and its place among those that are allowed.
struct Connection {
    stream: TcpStream,
    _slot: OwnedSemaphorePermit,
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
