//! gRPC's side of the data service: hands streams over, and nothing else.
//!
//! A stream that breaks just ends here; what was received before is carried out. The seam for a peer's identity is here: one
//! place where a connection's certificate will become a principal.

use crate::server::ChunkServer;
use crate::service::{read, write};
use caribou_proto::chunk::v1::chunk_data_server::ChunkData;
use caribou_proto::chunk::v1::{ReadReply, ReadRequest, WriteAck, WriteFragment};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use std::sync::Arc;
use tonic::{Request, Response, Status, Streaming};
use tracing::debug;

pub(crate) struct DataService {
    pub(crate) server: Arc<ChunkServer>,
}

#[tonic::async_trait]
impl ChunkData for DataService {
    type WriteStream = BoxStream<'static, Result<WriteAck, Status>>;
    type ReadStream = BoxStream<'static, Result<ReadReply, Status>>;

    async fn write(&self, request: Request<Streaming<WriteFragment>>) -> Result<Response<Self::WriteStream>, Status> {
        self.open()?;
        let acks = write::serve(&self.server, until_broken(request.into_inner()));
        Ok(Response::new(acks.map(Ok).boxed()))
    }

    async fn read(&self, request: Request<Streaming<ReadRequest>>) -> Result<Response<Self::ReadStream>, Status> {
        self.open()?;
        let replies = read::serve(&self.server, until_broken(request.into_inner()));
        Ok(Response::new(replies.map(Ok).boxed()))
    }
}

impl DataService {
    fn open(&self) -> Result<(), Status> {
        if self.server.closing.is_cancelled() {
            return Err(Status::unavailable("this chunk server is stopping"));
        }
        Ok(())
    }
}

fn until_broken<T: Send + 'static>(messages: Streaming<T>) -> impl Stream<Item = T> + Send + 'static {
    messages.scan((), |(), message| {
        let message = message.map_err(|status| debug!(%status, "a stream broke")).ok();
        async move { message }
    })
}
