//! The pool of streams to chunk servers. A chunk's fragments always take the same lane to a server, so that their order
//! holds; several lanes per server, because one connection is one task on each side.

use std::collections::HashMap;
use std::sync::Arc;

use caribou_proto::chunk::v1::{ReadReply, ReadRequest, WriteAck, WriteFragment};
use caribou_proto::cluster::v1::ClusterId;
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::{LinkError, Mux, Transport};

/// Connections to one server for writes, and as many for reads.
const LANES: u64 = 2;

/// A stream of fragments to the head of a chain.
pub(crate) type WriteStream = Arc<Mux<WriteFragment, WriteAck>>;
type ReadStream = Arc<Mux<ReadRequest, ReadReply>>;
type Lanes<Stream> = Mutex<HashMap<(String, u64), Stream>>;

/// All streams of one client.
pub(crate) struct Servers {
    transport: Arc<dyn Transport>,
    /// F1: goes with every message.
    pub(crate) cluster: ClusterId,
    /// Differs between clients, so that they spread over a chunk's replicas.
    pub(crate) seed: u64,
    writes: Lanes<WriteStream>,
    reads: Lanes<ReadStream>,
}

impl Servers {
    pub(crate) fn new(transport: Arc<dyn Transport>, cluster: ClusterId, seed: u64) -> Self {
        Self { transport, cluster, seed, writes: Mutex::default(), reads: Mutex::default() }
    }

    /// The stream for a chunk's fragments. W4: its user keeps it for one grant and never takes another one in the middle.
    pub(crate) fn write_stream(&self, address: &str, chunk: u64) -> WriteStream {
        let mut lanes = self.writes.lock();
        let key = (address.to_owned(), chunk % LANES);
        if let Some(stream) = lanes.get(&key)
            && !stream.is_closed()
        {
            return stream.clone();
        }
        lanes.retain(|_, stream| !stream.is_closed());
        let stream = Arc::new(Mux::open(self.transport.write(address)));
        lanes.insert(key, stream.clone());
        stream
    }

    /// Sends one read.
    pub(crate) fn read(&self, address: &str, request: ReadRequest) -> oneshot::Receiver<Result<ReadReply, LinkError>> {
        let mut lanes = self.reads.lock();
        let key = (address.to_owned(), request.chunk % LANES);
        if let Some(stream) = lanes.get(&key)
            && !stream.is_closed()
        {
            return stream.submit(request);
        }
        lanes.retain(|_, stream| !stream.is_closed());
        let stream = Arc::new(Mux::open(self.transport.read(address)));
        let answer = stream.submit(request);
        lanes.insert(key, stream);
        answer
    }
}
