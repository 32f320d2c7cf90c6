//! One read stream: several reads at once, answers in any order.
//!
//! A reader's request needs the lease (F2) and no command of the leader waiting for its chunk; the store checks the exact
//! version and that the chain has the bytes (R1). A recovery read comes from another chunk server that carries out a Fix: no lease,
//! whole blocks, incomplete replicas too, but only if this server is the source that the leader's plan names (F3).

use crate::chain::Failure;
use crate::limits;
use crate::server::ChunkServer;
use crate::service::status::{Foreign, check_cluster, failure, failure_of};
use caribou_proto::chunk::v1::{ReadReply, ReadRequest, Status};
use caribou_proto::ids::{BLOCK_BYTES, CHUNK_BYTES, ChunkId, ChunkVersion, MAX_FRAGMENT_BYTES};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use std::sync::Arc;
use tracing::{debug, warn};

/// Serves one read stream until it ends or the server closes.
pub(crate) fn serve<S>(server: &Arc<ChunkServer>, requests: S) -> BoxStream<'static, ReadReply>
where
    S: Stream<Item = ReadRequest> + Send + 'static,
{
    let closing = server.closing.clone();
    let server = server.clone();
    requests
        .map(move |request| {
            let server = server.clone();
            async move { answer(&server, request).await }
        })
        .buffer_unordered(limits::STREAM_READS)
        .take_until(closing.cancelled_owned())
        .boxed()
}

async fn answer(server: &ChunkServer, request: ReadRequest) -> ReadReply {
    let outcome = match check(server, &request) {
        Ok(()) if request.recovery => recovery(server, &request).await,
        Ok(()) => blocks(server, &request).await,
        Err(failure) => Err(failure),
    };
    match outcome {
        Ok(mut reply) => {
            server.stats.read(reply.data.len());
            reply.id = request.id;
            reply.status = Status::Ok as i32;
            reply
        }
        Err(failure) => {
            if failure.status == Status::Corrupt {
                // Once here, where it is handled: the reader goes to another replica.
                warn!(
                    chunk = request.chunk,
                    version = request.version,
                    failure.detail,
                    "a damaged block was not served"
                );
            } else {
                debug!(chunk = request.chunk, status = ?failure.status, failure.detail, "a read was refused");
            }
            ReadReply { id: request.id, status: failure.status as i32, detail: failure.detail, ..ReadReply::default() }
        }
    }
}

fn check(server: &ChunkServer, request: &ReadRequest) -> Result<(), Failure> {
    let store = &server.store;
    // F1
    check_cluster(store.cluster(), request.cluster.as_ref()).map_err(|foreign| {
        let why = match foreign {
            Foreign::Cluster(why) => why.to_owned(),
            Foreign::Generation(why) => why,
        };
        failure(store, Status::ForeignCluster, why)
    })?;
    if request.length == 0 || request.length > MAX_FRAGMENT_BYTES {
        return Err(failure(store, Status::Invalid, "a read asks for 1 byte to 1 MiB"));
    }
    if u64::from(request.offset) + u64::from(request.length) > CHUNK_BYTES {
        return Err(failure(store, Status::Invalid, "the read goes beyond the end of the chunk"));
    }
    Ok(())
}

async fn blocks(server: &ChunkServer, request: &ReadRequest) -> Result<ReadReply, Failure> {
    let (store, chunk) = (&server.store, ChunkId(request.chunk));
    // F2. Looked at before the data: at this moment the version was the current one, and the read is linearized here.
    if !server.lease.is_valid() {
        return Err(failure(store, Status::NoLease, "this server has not heard from the leader for too long"));
    }
    if server.commands.pending(chunk) {
        return Err(failure(
            store,
            Status::WrongVersion,
            "the leader has asked for a recovery or deletion of the chunk",
        ));
    }
    // R1
    let read = store.read(chunk, ChunkVersion(request.version), request.offset, request.length).await;
    let read = read.map_err(|error| failure_of(store, &error))?;
    Ok(ReadReply { data: read.data, crc: read.crc, ..ReadReply::default() })
}

async fn recovery(server: &ChunkServer, request: &ReadRequest) -> Result<ReadReply, Failure> {
    let (store, chunk) = (&server.store, ChunkId(request.chunk));
    let ours = (store.server_id().map_or(0, |id| id.0), store.incarnation().0);
    // F3, M6: the plan counts on what this incarnation reported.
    if (request.server_id, request.incarnation) != ours {
        let why = format!("this is server {} in incarnation {}, another source is meant", ours.0, ours.1);
        return Err(failure(store, Status::WrongIncarnation, why));
    }
    if !request.offset.is_multiple_of(BLOCK_BYTES) || !request.length.is_multiple_of(BLOCK_BYTES) {
        return Err(failure(store, Status::Invalid, "a recovery read asks for whole blocks"));
    }
    let (first, count) = (request.offset / BLOCK_BYTES, request.length / BLOCK_BYTES);
    let read = store.read_recovery(chunk, ChunkVersion(request.version), first, count).await;
    let read = read.map_err(|error| failure_of(store, &error))?;
    Ok(ReadReply { data: read.data, crc: read.crc, written: read.written, ..ReadReply::default() })
}
