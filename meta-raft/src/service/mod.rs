//! gRPC: what clients, operators and chunk servers ask of this node (STYLE: request → authorise → command → propose → reply).
//!
//! `node` what all services share · `session` one client's stream · `burst` requests that came together · `queries` calls that are not logged · `wire` conversions ·
//! `together` replies that leave together · `warmth` whether memory is worth a try · `counted` messages of streams, counted · `waiters` who waits for a chunk · `registry` the open streams · `seam` Raft for the leader's loops · `admin` operators.

pub(crate) mod admin;
mod burst;
mod counted;
pub(crate) mod node;
mod queries;
mod registry;
mod seam;
mod session;
mod together;
mod waiters;
mod warmth;
mod wire;

use std::sync::Arc;

use caribou_proto::meta::v1::ClientMessage;
use caribou_proto::meta::v1::meta_service_server::MetaService;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status, Streaming};

use counted::Counted;
use node::Node;
use together::Together;

/// Messages that wait to be sent on one session stream; then its calls wait.
const OUTBOX: usize = 1024;

/// The service of clients.
#[derive(Clone)]
pub(crate) struct Meta {
    pub(crate) node: Arc<Node>,
}

#[tonic::async_trait]
impl MetaService for Meta {
    type SessionStream = Counted<Together>;

    async fn session(
        &self,
        request: Request<Streaming<ClientMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (outbox, replies) = mpsc::channel(OUTBOX);
        let calls = self.node.limits.calls_per_session;
        let room = Arc::new(Semaphore::new(calls));
        let messages = Counted::new(request.into_inner(), self.node.clone());
        tokio::spawn(session::serve(self.node.clone(), messages, outbox, room.clone()));
        Ok(Response::new(Counted::new(Together::new(replies, room, calls), self.node.clone())))
    }
}
