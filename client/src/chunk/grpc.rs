//! Streams to chunk servers over gRPC: one HTTP/2 connection per stream, since one connection is one task per side.
//! Windows, frame sizes and keep-alive are set here and nowhere else.

use std::time::Duration;

use caribou_proto::chunk::v1::chunk_data_client::ChunkDataClient;
use caribou_proto::chunk::v1::{ReadReply, ReadRequest, WriteAck, WriteFragment};
use futures::future::BoxFuture;
use futures::stream::{BoxStream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

use super::{LINK_QUEUE, Link, LinkError, Transport};

/// How long a connection attempt may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A stream with something in flight pings the server this often …
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// … and is broken when a ping stays unanswered this long. Together: a server that is gone without a word (power, cable, a
/// stopped process) is noticed after two seconds, while one that is busy with a long fdatasync still answers pings.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP/2 flow control: large enough that one stream fills the link.
const STREAM_WINDOW: u32 = 16 << 20;
const CONNECTION_WINDOW: u32 = 64 << 20;
/// HTTP/2 frames up to this size are accepted (worth a factor of two on bulk reads).
const MAX_FRAME: u32 = 1 << 20;
/// A fragment of 1 MiB and its envelope.
const MAX_MESSAGE: usize = 2 << 20;

/// The production transport.
#[derive(Clone, Debug, Default)]
pub struct GrpcTransport;

impl Transport for GrpcTransport {
    fn write(&self, address: &str) -> BoxFuture<'static, Result<Link<WriteFragment, WriteAck>, LinkError>> {
        let address = address.to_owned();
        Box::pin(async move {
            let mut client = connect(&address).await?;
            let (requests, queue) = mpsc::channel(LINK_QUEUE);
            let replies = client.write(ReceiverStream::new(queue)).await.map_err(|status| broken(&address, &status))?;
            Ok(Link { requests, replies: named(address, replies.into_inner()) })
        })
    }

    fn read(&self, address: &str) -> BoxFuture<'static, Result<Link<ReadRequest, ReadReply>, LinkError>> {
        let address = address.to_owned();
        Box::pin(async move {
            let mut client = connect(&address).await?;
            let (requests, queue) = mpsc::channel(LINK_QUEUE);
            let replies = client.read(ReceiverStream::new(queue)).await.map_err(|status| broken(&address, &status))?;
            Ok(Link { requests, replies: named(address, replies.into_inner()) })
        })
    }
}

async fn connect(address: &str) -> Result<ChunkDataClient<Channel>, LinkError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|error| LinkError(format!("{address} is not an address of a chunk server: {error}")))?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(MAX_FRAME)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| LinkError(format!("chunk server {address} cannot be reached: {}", chain(&error))))?;
    Ok(ChunkDataClient::new(channel).max_decoding_message_size(MAX_MESSAGE).max_encoding_message_size(MAX_MESSAGE))
}

fn named<Reply: Send + 'static>(
    address: String,
    replies: Streaming<Reply>,
) -> BoxStream<'static, Result<Reply, LinkError>> {
    replies.map(move |reply| reply.map_err(|status| broken(&address, &status))).boxed()
}

fn broken(address: &str, status: &tonic::Status) -> LinkError {
    LinkError(format!("the stream to chunk server {address} broke: {}", status.message()))
}

/// An error and its sources in one line: tonic's own text is only "transport error".
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}
