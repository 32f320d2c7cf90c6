//! Chunk servers and metadata nodes within one process, reached without sockets, for tests and simulations.
//!
//! Lines to an address can be cut (streams break, what was under way on them is lost) and blocked (nothing arrives until they
//! are opened again). Messages on one stream keep their order, as over TCP.

use super::{Answers, Opening, PeerError, Peers};
use crate::server::ChunkServer;
use caribou_proto::chunk::v1::{FromServer, ReadReply, ReadRequest, ToServer, WriteAck, WriteFragment};
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::{Arc, Weak};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

/// What a metadata node does with a control stream.
pub type ControlHandler = Arc<dyn Fn(mpsc::Receiver<FromServer>) -> Answers<ToServer> + Send + Sync>;

/// The network of one process.
#[derive(Default)]
pub struct LocalNet {
    inner: Mutex<Net>,
}

#[derive(Default)]
struct Net {
    chunk_servers: HashMap<String, Weak<ChunkServer>>,
    meta_nodes: HashMap<String, ControlHandler>,
    lines: HashMap<String, Line>,
}

struct Line {
    blocked: watch::Sender<bool>,
    cut: CancellationToken,
}

impl Default for Line {
    fn default() -> Self {
        Self { blocked: watch::Sender::new(false), cut: CancellationToken::new() }
    }
}

/// What a stream sees of its line.
struct Wire {
    blocked: watch::Receiver<bool>,
    cut: CancellationToken,
}

impl LocalNet {
    /// A network without anybody.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Puts a chunk server at an address, in the place of one that was there.
    pub fn add_chunk_server(&self, address: &str, server: &Arc<ChunkServer>) {
        self.inner.lock().chunk_servers.insert(address.to_owned(), Arc::downgrade(server));
    }

    /// Puts a metadata node at an address.
    pub fn add_meta_node(&self, address: &str, handler: ControlHandler) {
        self.inner.lock().meta_nodes.insert(address.to_owned(), handler);
    }

    /// Takes whatever is at an address away and cuts its lines.
    pub fn remove(&self, address: &str) {
        {
            let mut net = self.inner.lock();
            net.chunk_servers.remove(address);
            net.meta_nodes.remove(address);
        }
        self.cut(address);
    }

    /// Breaks all streams to an address. New ones can be opened at once.
    pub fn cut(&self, address: &str) {
        if let Some(line) = self.inner.lock().lines.remove(address) {
            line.cut.cancel();
        }
    }

    /// Holds back (or lets through again) what is sent to an address, on present and future streams.
    pub fn block(&self, address: &str, blocked: bool) {
        self.inner.lock().lines.entry(address.to_owned()).or_default().blocked.send_replace(blocked);
    }

    fn wire(&self, address: &str) -> Wire {
        let mut net = self.inner.lock();
        let line = net.lines.entry(address.to_owned()).or_default();
        Wire { blocked: line.blocked.subscribe(), cut: line.cut.clone() }
    }

    fn chunk_server(&self, address: &str) -> Result<Arc<ChunkServer>, PeerError> {
        let server = self.inner.lock().chunk_servers.get(address).and_then(Weak::upgrade);
        server.filter(|server| !server.closing.is_cancelled()).ok_or_else(|| unreachable(address))
    }
}

fn unreachable(address: &str) -> PeerError {
    PeerError(format!("{address} cannot be reached: nobody is there"))
}

impl Wire {
    fn carry<T: Send + 'static>(&self, messages: mpsc::Receiver<T>) -> BoxStream<'static, T> {
        let blocked = self.blocked.clone();
        let through = move |message| {
            let mut blocked = blocked.clone();
            async move {
                // An error means that the line is gone; the cut ends the stream.
                let _ = blocked.wait_for(|blocked| !blocked).await;
                message
            }
        };
        ReceiverStream::new(messages).then(through).take_until(self.cut.clone().cancelled_owned()).boxed()
    }

    fn back<T: Send + 'static>(
        &self,
        answers: impl futures::Stream<Item = Result<T, PeerError>> + Send + 'static,
    ) -> Answers<T> {
        answers.take_until(self.cut.clone().cancelled_owned()).boxed()
    }
}

impl Peers for Arc<LocalNet> {
    fn write(&self, address: &str, fragments: mpsc::Receiver<WriteFragment>) -> Opening<WriteAck> {
        let (net, address) = (self.clone(), address.to_owned());
        async move {
            let server = net.chunk_server(&address)?;
            let wire = net.wire(&address);
            Ok(wire.back(server.write(wire.carry(fragments)).map(Ok)))
        }
        .boxed()
    }

    fn read(&self, address: &str, requests: mpsc::Receiver<ReadRequest>) -> Opening<ReadReply> {
        let (net, address) = (self.clone(), address.to_owned());
        async move {
            let server = net.chunk_server(&address)?;
            let wire = net.wire(&address);
            Ok(wire.back(server.read(wire.carry(requests)).map(Ok)))
        }
        .boxed()
    }

    fn attach(&self, address: &str, messages: mpsc::Receiver<FromServer>) -> Opening<ToServer> {
        let (net, address) = (self.clone(), address.to_owned());
        async move {
            let handler = net.inner.lock().meta_nodes.get(&address).cloned().ok_or_else(|| unreachable(&address))?;
            let wire = net.wire(&address);
            let (sender, receiver) = mpsc::channel(crate::limits::CONTROL_QUEUE);
            let mut carried = wire.carry(messages);
            tokio::spawn(async move {
                while let Some(message) = carried.next().await {
                    if sender.send(message).await.is_err() {
                        return;
                    }
                }
            });
            Ok(wire.back(handler(receiver)))
        }
        .boxed()
    }
}
