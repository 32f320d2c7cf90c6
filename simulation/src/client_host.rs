//! A client as a machine: the real client library on the simulated network.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use caribou_client::chunk::{self, LinkError};
use caribou_client::file::Ports;
use caribou_client::meta::{self, Environment, TransportError};
use caribou_client::{ClientConfig, Files, MetaClient};
use caribou_proto::chunk::v1::chunk_data_client::ChunkDataClient;
use caribou_proto::chunk::v1::{ReadReply, ReadRequest, WriteAck, WriteFragment};
use caribou_proto::meta::v1::ClientMessage;
use caribou_proto::meta::v1::meta_service_client::MetaServiceClient;
use futures::future::BoxFuture;
use futures::{FutureExt as _, StreamExt as _};
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::clock::SimClock;
use crate::hearing;
use crate::net::{Life, Net};
use crate::resends::Resends;

/// As the production transports have it.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(250);

/// See the module.
pub struct ClientHost {
    pub name: String,
    pub meta: MetaClient,
    pub files: Files,
}

impl ClientHost {
    /// Connects, for as long as it takes.
    pub async fn connect(
        name: &str,
        nodes: Vec<String>,
        net: &Arc<Net>,
        clock: &SimClock,
        rng: StdRng,
    ) -> Result<Self> {
        let life = net.add(name);
        let config = ClientConfig { meta: nodes, name: name.to_owned(), ..ClientConfig::default() };
        let transport = Transport { net: Arc::clone(net), own: life, resends: Resends::of(name) };
        let rng = Mutex::new(rng);
        let random = move || rng.lock().random();
        let environment = Environment { transport: Arc::new(transport.clone()), random: Arc::new(random) };
        let meta = MetaClient::connect_in(&config, environment).await?;
        let ports =
            Ports { meta: Arc::new(meta.clone()), transport: Arc::new(transport), clock: Arc::new(clock.clone()) };
        Ok(Self { name: name.to_owned(), meta, files: Files::new_in(ports, &config) })
    }

    /// Ends in order.
    pub async fn leave(self) {
        self.files.shutdown().await;
        self.meta.close();
    }
}

#[derive(Clone)]
struct Transport {
    net: Arc<Net>,
    own: Life,
    resends: Arc<Resends>,
}

impl meta::Transport for Transport {
    fn dial(&self, address: &str, first: ClientMessage) -> BoxFuture<'static, Result<meta::Link, TransportError>> {
        let mut client = MetaServiceClient::new(self.net.line(&self.own, address));
        async move {
            let failed = |status: Status| TransportError(status.to_string());
            let (sender, outbox) = mpsc::channel(meta::LINK_QUEUE);
            sender.try_send(first).expect("a new queue has room");
            let opening = tokio::time::timeout(CONNECT_TIMEOUT, client.session(ReceiverStream::new(outbox))).await;
            let answer = opening.map_err(|_| TransportError("no answer".to_owned()))?.map_err(failed)?;
            Ok(meta::Link { sender, receiver: answer.into_inner().map(move |item| item.map_err(failed)).boxed() })
        }
        .boxed()
    }
}

impl chunk::Transport for Transport {
    fn write(&self, address: &str) -> BoxFuture<'static, Result<chunk::Link<WriteFragment, WriteAck>, LinkError>> {
        let mut client = ChunkDataClient::new(self.net.line(&self.own, address));
        let stream = self.resends.stream();
        let leaves = move |fragment: &WriteFragment| stream.note(fragment).into_iter().for_each(hearing::violation);
        async move {
            let (requests, queue) = mpsc::channel(chunk::LINK_QUEUE);
            let fragments = ReceiverStream::new(queue).inspect(leaves);
            let replies = client.write(fragments).await.map_err(broken)?.into_inner();
            Ok(chunk::Link { requests, replies: replies.map(|reply| reply.map_err(broken)).boxed() })
        }
        .boxed()
    }

    fn read(&self, address: &str) -> BoxFuture<'static, Result<chunk::Link<ReadRequest, ReadReply>, LinkError>> {
        let mut client = ChunkDataClient::new(self.net.line(&self.own, address));
        async move {
            let (requests, queue) = mpsc::channel(chunk::LINK_QUEUE);
            let replies = client.read(ReceiverStream::new(queue)).await.map_err(broken)?.into_inner();
            Ok(chunk::Link { requests, replies: replies.map(|reply| reply.map_err(broken)).boxed() })
        }
        .boxed()
    }
}

fn broken(status: Status) -> LinkError {
    LinkError(status.to_string())
}
