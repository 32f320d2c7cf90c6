//! Session streams over tonic. One connection per node, kept while it works, so that asking a follower again during an
//! election costs a stream and not a connection. Short connection timeout and HTTP/2 keep-alive: a dead peer is noticed soon.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use caribou_proto::meta::v1::ClientMessage;
use caribou_proto::meta::v1::meta_service_client::MetaServiceClient;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::transport::{LINK_QUEUE, Link, Transport, TransportError};

const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// Windows for many small messages and now and then a large page of a directory.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// The longest message taken from a server: a page of a directory with attributes stays far below.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The production transport.
#[derive(Clone, Default)]
pub struct GrpcTransport {
    /// Connections that worked when they were last used.
    channels: Arc<Mutex<HashMap<String, Channel>>>,
}

impl Transport for GrpcTransport {
    fn dial(&self, address: &str, first: ClientMessage) -> BoxFuture<'static, Result<Link, TransportError>> {
        let transport = self.clone();
        let address = address.to_owned();
        async move {
            let mut eviction = Eviction { transport: &transport, address: &address, armed: true };
            let channel = transport.channel(&address).await?;
            let (sender, outbox) = mpsc::channel(LINK_QUEUE);
            sender.try_send(first).expect("a new queue has room");
            let mut client = MetaServiceClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
            let answer = client.session(ReceiverStream::new(outbox)).await.map_err(|status| failed(&status))?;
            eviction.armed = false;
            let receiver = answer.into_inner().map(|item| item.map_err(|status| failed(&status))).boxed();
            Ok(Link { sender, receiver })
        }
        .boxed()
    }
}

impl GrpcTransport {
    async fn channel(&self, address: &str) -> Result<Channel, TransportError> {
        if let Some(channel) = self.channels.lock().get(address) {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| TransportError(format!("{address} is no host:port: {error}")))?
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(KEEP_ALIVE_TIMEOUT))
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let channel = tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect())
            .await
            .map_err(|_| TransportError(format!("no connection within {CONNECT_TIMEOUT:?}")))?
            .map_err(|error| TransportError(words(&error)))?;
        self.channels.lock().insert(address.to_owned(), channel.clone());
        Ok(channel)
    }
}

/// Forgets a connection on which a dial failed or was given up: the next one starts afresh.
struct Eviction<'a> {
    transport: &'a GrpcTransport,
    address: &'a str,
    armed: bool,
}

impl Drop for Eviction<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.transport.channels.lock().remove(self.address);
        }
    }
}

fn failed(status: &tonic::Status) -> TransportError {
    TransportError(format!("{:?}: {}", status.code(), status.message()))
}

/// An error with its causes, innermost last.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
