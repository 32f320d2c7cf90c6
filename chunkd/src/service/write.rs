//! One write stream: what is checked before a fragment counts at all (F1, F3), its memory, and the way to its chunk's queue.
//!
//! A stream carries many chunks. It stops taking fragments when its share of memory is used up, or that of all streams of the
//! same distance from their chain's end: distances have separate budgets, because a fragment only ever waits for shorter ones.
//! Acks leave in any order. It does not apply anything; `apply` does.

use crate::chain::Failure;
use crate::limits;
use crate::server::ChunkServer;
use crate::service::apply;
use crate::service::status::{Foreign, check_cluster, failure};
use caribou_proto::chunk::v1::{Status, WriteAck, WriteFragment};
use caribou_proto::ids::{CHUNK_BYTES, ChunkId, MAX_FRAGMENT_BYTES};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tracing::debug;

/// A fragment on its way.
pub(crate) struct Job {
    pub(crate) fragment: WriteFragment,
    /// It may not be applied, and it breaks its grant when its turn comes.
    pub(crate) refused: Option<Failure>,
    pub(crate) reply: Reply,
    /// The fragment's part of the distance's budget; freed when it is done.
    pub(crate) memory: OwnedSemaphorePermit,
}

/// Where the one ack of a fragment goes.
pub(crate) struct Reply {
    id: u64,
    acks: mpsc::Sender<Outgoing>,
    /// The fragment's part of the stream's budget; freed when the ack leaves.
    ticket: OwnedSemaphorePermit,
}

struct Outgoing {
    ack: WriteAck,
    _ticket: OwnedSemaphorePermit,
}

impl Reply {
    /// Answers: the incarnations of this server and all behind, or what failed.
    pub(crate) fn send(self, outcome: Result<Vec<u64>, Failure>) {
        let ack = match outcome {
            Ok(incarnations) => {
                WriteAck { id: self.id, status: Status::Ok as i32, incarnations, ..WriteAck::default() }
            }
            Err(failure) => {
                debug!(id = self.id, status = ?failure.status, failure.detail, failure.server, "a fragment failed");
                WriteAck {
                    id: self.id,
                    status: failure.status as i32,
                    detail: failure.detail,
                    failed_server: failure.server,
                    incarnations: Vec::new(),
                }
            }
        };
        // There is room for as many acks as fragments can be under way; an error means that the stream is gone.
        let _ = self.acks.try_send(Outgoing { ack, _ticket: self.ticket });
    }
}

/// Serves one write stream until it ends, breaks, or the server closes.
pub(crate) fn serve<S>(server: &Arc<ChunkServer>, fragments: S) -> BoxStream<'static, WriteAck>
where
    S: Stream<Item = WriteFragment> + Send + 'static,
{
    let (acks, outgoing) = mpsc::channel(limits::STREAM_ACKS);
    server.work.spawn(take_in(server.clone(), fragments.boxed(), acks));
    ReceiverStream::new(outgoing).map(|outgoing| outgoing.ack).boxed()
}

async fn take_in(
    server: Arc<ChunkServer>,
    mut fragments: BoxStream<'static, WriteFragment>,
    acks: mpsc::Sender<Outgoing>,
) {
    let budget = Arc::new(Semaphore::new(limits::STREAM_WRITE_BYTES as usize));
    loop {
        let fragment = tokio::select! {
            fragment = fragments.next() => fragment,
            () = acks.closed() => None,
            () = server.closing.cancelled() => None,
        };
        let Some(fragment) = fragment else { return };
        let bytes = u32::try_from(fragment.data.len()).unwrap_or(u32::MAX);
        let cost = bytes.clamp(limits::FRAGMENT_COST_BYTES, MAX_FRAGMENT_BYTES);
        let behind = fragment.chain.len().saturating_sub(fragment.position as usize + 1);
        let lane = server.lanes[behind.min(limits::CHAIN_MEMBERS - 1)].clone();
        let permits = async {
            let ticket = budget.clone().acquire_many_owned(cost).await.expect("never closed");
            (ticket, lane.acquire_many_owned(cost).await.expect("never closed"))
        };
        let (ticket, memory) = tokio::select! {
            permits = permits => permits,
            () = acks.closed() => return,
            () = server.closing.cancelled() => return,
        };
        let reply = Reply { id: fragment.id, acks: acks.clone(), ticket };
        let refused = match check(&server, &fragment) {
            Verdict::Good => None,
            Verdict::NotForUs(failure) => {
                reply.send(Err(failure));
                continue;
            }
            Verdict::Bad(failure) => Some(failure),
        };
        let chunk = ChunkId(fragment.chunk);
        if server.streams.push(chunk, Job { fragment, refused, reply, memory }) {
            server.work.spawn(apply::work(server.clone(), chunk));
        }
    }
}

enum Verdict {
    Good,
    /// Meant for somebody else: it says nothing about our chunks and leaves no trace.
    NotForUs(Failure),
    /// Meant for us and wrong: it breaks its grant.
    Bad(Failure),
}

fn check(server: &ChunkServer, fragment: &WriteFragment) -> Verdict {
    let store = &server.store;
    // F1
    match check_cluster(store.cluster(), fragment.cluster.as_ref()) {
        Ok(()) => {}
        Err(Foreign::Cluster(why)) => return Verdict::NotForUs(failure(store, Status::ForeignCluster, why)),
        // The two sides may be about to agree: what comes after this fragment must not be applied without it.
        Err(Foreign::Generation(why)) => return Verdict::Bad(failure(store, Status::ForeignCluster, why)),
    }
    let bad = |why: &str| Verdict::Bad(failure(store, Status::Invalid, why));
    let Some(holder) = fragment.chain.get(fragment.position as usize) else {
        return bad("the fragment's position is outside its chain");
    };
    // F3
    let (id, incarnation) = (store.server_id().map_or(0, |id| id.0), store.incarnation().0);
    if holder.server_id != id || holder.incarnation != incarnation {
        let why = format!(
            "this is server {id} in incarnation {incarnation}, the fragment is for server {} in incarnation {}",
            holder.server_id, holder.incarnation
        );
        return Verdict::NotForUs(failure(store, Status::WrongIncarnation, why));
    }
    if fragment.chain.len() > limits::CHAIN_MEMBERS {
        return bad("the fragment's chain is too long");
    }
    if fragment.data.len() > MAX_FRAGMENT_BYTES as usize {
        return bad("a fragment holds at most 1 MiB");
    }
    if u64::from(fragment.offset) + fragment.data.len() as u64 > CHUNK_BYTES {
        return bad("the fragment goes beyond the end of the chunk");
    }
    if fragment.data.is_empty() && !fragment.sync {
        return bad("the fragment has neither data nor the sync flag");
    }
    Verdict::Good
}
