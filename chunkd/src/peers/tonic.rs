//! gRPC over TCP. Owns the client side's transport settings; the server side's are in `server`.

use super::{Answers, Opening, PeerError, Peers};
use crate::limits;
use ::tonic::transport::{Channel, Endpoint};
use ::tonic::{Status, Streaming};
use caribou_proto::chunk::v1::chunk_data_client::ChunkDataClient;
use caribou_proto::chunk::v1::control_service_client::ControlServiceClient;
use caribou_proto::chunk::v1::{FromServer, ReadReply, ReadRequest, ToServer, WriteAck, WriteFragment};
use futures::{FutureExt, StreamExt};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Peers over gRPC.
#[derive(Debug, Clone)]
pub struct TonicPeers {
    connect_timeout: Duration,
}

impl TonicPeers {
    /// `connect_timeout` bounds the TCP and HTTP/2 handshake.
    pub fn new(connect_timeout: Duration) -> Self {
        Self { connect_timeout }
    }

    async fn connect(self, address: String) -> Result<Channel, PeerError> {
        let failed =
            |error: &dyn std::error::Error| PeerError(format!("{address} cannot be reached: {}", chain_of(error)));
        Endpoint::from_shared(format!("http://{address}"))
            .map_err(|error| failed(&error))?
            .connect_timeout(self.connect_timeout)
            .tcp_nodelay(true)
            .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
            .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
            .max_frame_size(limits::FRAME_BYTES)
            .http2_keep_alive_interval(limits::KEEPALIVE_INTERVAL)
            .keep_alive_timeout(limits::KEEPALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .http2_max_header_list_size(limits::HEADER_LIST_BYTES)
            .connect()
            .await
            .map_err(|error| failed(&error))
    }
}

impl Peers for TonicPeers {
    fn write(&self, address: &str, fragments: mpsc::Receiver<WriteFragment>) -> Opening<WriteAck> {
        let (peers, address) = (self.clone(), address.to_owned());
        async move {
            let mut client = ChunkDataClient::new(peers.connect(address.clone()).await?)
                .max_decoding_message_size(limits::MESSAGE_BYTES)
                .max_encoding_message_size(limits::MESSAGE_BYTES);
            let answers =
                client.write(ReceiverStream::new(fragments)).await.map_err(|status| ended(&address, &status))?;
            Ok(answers_of(address, answers.into_inner()))
        }
        .boxed()
    }

    fn read(&self, address: &str, requests: mpsc::Receiver<ReadRequest>) -> Opening<ReadReply> {
        let (peers, address) = (self.clone(), address.to_owned());
        async move {
            let mut client = ChunkDataClient::new(peers.connect(address.clone()).await?)
                .max_decoding_message_size(limits::MESSAGE_BYTES)
                .max_encoding_message_size(limits::MESSAGE_BYTES);
            let answers =
                client.read(ReceiverStream::new(requests)).await.map_err(|status| ended(&address, &status))?;
            Ok(answers_of(address, answers.into_inner()))
        }
        .boxed()
    }

    fn attach(&self, address: &str, messages: mpsc::Receiver<FromServer>) -> Opening<ToServer> {
        let (peers, address) = (self.clone(), address.to_owned());
        async move {
            let mut client = ControlServiceClient::new(peers.connect(address.clone()).await?)
                .max_decoding_message_size(limits::CONTROL_MESSAGE_BYTES)
                .max_encoding_message_size(limits::CONTROL_MESSAGE_BYTES);
            let answers =
                client.attach(ReceiverStream::new(messages)).await.map_err(|status| ended(&address, &status))?;
            Ok(answers_of(address, answers.into_inner()))
        }
        .boxed()
    }
}

fn answers_of<T: Send + 'static>(address: String, answers: Streaming<T>) -> Answers<T> {
    answers.map(move |answer| answer.map_err(|status| ended(&address, &status))).boxed()
}

fn ended(address: &str, status: &Status) -> PeerError {
    PeerError(format!("the stream to {address} ended: {}", status.message()))
}

/// The causes of an error in one line; tonic's own message says only "transport error".
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        // hyper repeats itself on the way up.
        let inner_text = inner.to_string();
        if !text.ends_with(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}
