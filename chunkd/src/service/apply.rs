//! One fragment: write, then forward, then sync in parallel, then ack (W3, W6, ADR 0001.1).
//!
//! The worker of a chunk writes and forwards one fragment after the other and never waits for acks or syncs; those run beside.
//! Invariants: nothing is forwarded before it is in this server's page cache, so whatever the tail has, every predecessor has
//! (R1); an ack upstream means that every member from here to the tail has it, and with `sync` has it on disk.

use crate::chain::{Failure, Forwarded, NotQueued};
use crate::server::ChunkServer;
use crate::service::status::{failure, failure_of};
use crate::service::streams::{Key, fenced};
use crate::service::write::{Job, Reply};
use crate::store::{self, ForwardTicket, Write};
use caribou_proto::chunk::v1::{Status, WriteFragment};
use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio_util::sync::CancellationToken;

/// Works a chunk's queue off.
pub(crate) async fn work(server: Arc<ChunkServer>, chunk: ChunkId) {
    while let Some(job) = server.streams.pop(chunk) {
        apply(&server, job).await;
    }
}

/// A fragment that is written here and whose ack is still to come.
struct Finishing {
    key: Key,
    sync: bool,
    /// What the rest of the chain owes us; `None` at the tail.
    answered: Option<oneshot::Receiver<Forwarded>>,
    /// How many incarnations the rest of the chain has to name.
    behind: usize,
    ticket: Option<ForwardTicket>,
    ended: CancellationToken,
    reply: Reply,
    _memory: OwnedSemaphorePermit,
}

async fn apply(server: &Arc<ChunkServer>, job: Job) {
    let Job { fragment, refused, reply, memory } = job;
    let key =
        Key { chunk: ChunkId(fragment.chunk), version: ChunkVersion(fragment.version), grant: GrantId(fragment.grant) };
    if let Err(failure) = server.streams.check(&key) {
        return reply.send(Err(signed(server, failure)));
    }
    if let Some(failure) = refused {
        server.streams.break_off(&key, &failure);
        return reply.send(Err(failure));
    }
    let ticket = match write_here(server, &key, &fragment).await {
        Ok(ticket) => ticket,
        Err(error) => {
            let failure = failure_of(&server.store, &error);
            if !over_for_good(&key, &error) {
                server.streams.break_off(&key, &failure);
            }
            return reply.send(Err(failure));
        }
    };
    server.stats.wrote(fragment.data.len());
    let sync = fragment.sync;
    let next = fragment.chain.get(fragment.position as usize + 1).cloned();
    let behind = fragment.chain.len() - fragment.position as usize - 1;
    let ended = match server.streams.enter(&key, next.as_ref()) {
        Ok(ended) => ended,
        Err(failure) => {
            let failure = signed(server, failure);
            server.streams.break_off(&key, &failure);
            return reply.send(Err(failure));
        }
    };
    let answered = match next {
        None => None,
        Some(_) => match forward(server, &key, fragment, behind - 1).await {
            Ok(answered) => Some(answered),
            Err(failure) => {
                let failed = server.streams.settle(&key, Err(signed(server, failure)));
                return reply.send(failed.map(|()| Vec::new()));
            }
        },
    };
    let finishing = Finishing { key, sync, answered, behind, ticket, ended, reply, _memory: memory };
    if finishing.answered.is_none() && !sync {
        finish(server, finishing).await;
    } else {
        let server_too = server.clone();
        server.work.spawn(async move { finish(&server_too, finishing).await });
    }
}

/// Into the page cache. A fragment that only syncs is checked against the replica all the same.
async fn write_here(
    server: &ChunkServer,
    key: &Key,
    fragment: &WriteFragment,
) -> Result<Option<ForwardTicket>, store::Error> {
    let Key { chunk, version, grant } = *key;
    if fragment.data.is_empty() {
        let replica = server.store.replica(chunk).ok_or(store::Error::NoReplica { chunk })?;
        if replica.version != version || !replica.complete {
            let (have, complete) = (replica.version, replica.complete);
            return Err(store::Error::WrongVersion { chunk, asked: version, have, complete });
        }
        if replica.last_grant > grant {
            return Err(store::Error::OldGrant { chunk, asked: grant, lowest: replica.last_grant });
        }
        return if replica.dirty { Err(store::Error::Dirty { chunk }) } else { Ok(None) };
    }
    let write = Write {
        chunk,
        version,
        grant,
        create: fragment.create,
        offset: fragment.offset,
        data: fragment.data.clone(),
        crc: fragment.crc,
        tail: fragment.position as usize + 1 == fragment.chain.len(),
    };
    Ok(server.store.write(write).await?.ticket)
}

/// The store refuses everything of this version and grant from now on by itself, so there is nothing to remember.
fn over_for_good(key: &Key, error: &store::Error) -> bool {
    match error {
        store::Error::WrongVersion { have, .. } => *have > key.version,
        store::Error::OldGrant { .. } | store::Error::Deleted { .. } => true,
        _ => false,
    }
}

/// Hands a fragment to the next member, which has `behind` members behind it.
async fn forward(
    server: &ChunkServer,
    key: &Key,
    mut fragment: WriteFragment,
    behind: usize,
) -> Result<oneshot::Receiver<Forwarded>, Failure> {
    fragment.position += 1;
    // Twice, because an idle link may close between being chosen and being used.
    for _ in 0..2 {
        let link = server.streams.link(key, behind, &server.chain)?;
        match link.forward(fragment).await {
            Ok(answered) => return Ok(answered),
            Err(NotQueued(back)) => fragment = *back,
        }
    }
    let next = &fragment.chain[fragment.position as usize];
    Err(Failure {
        status: Status::Downstream,
        detail: format!("the write stream to {} is broken", next.address),
        server: next.server_id,
    })
}

async fn finish(server: &ChunkServer, finishing: Finishing) {
    let Finishing { key, sync, answered, behind, ticket, ended, reply, _memory } = finishing;
    // W6: the flag is on its way already; all members sync at the same time.
    let here = async {
        if sync {
            server.store.sync(key.chunk, key.version).await.map_err(|error| failure_of(&server.store, &error))?;
            server.stats.synced();
        }
        Ok(())
    };
    let there = async {
        let Some(answered) = answered else { return Ok(Vec::new()) };
        let broken = |_| failure(&server.store, Status::Downstream, "the forwarding task ended");
        let ack = answered.await.map_err(broken)??;
        if ack.incarnations.len() == behind {
            Ok(ack.incarnations)
        } else {
            Err(failure(&server.store, Status::Downstream, "the ack does not name every member behind"))
        }
    };
    let outcome = tokio::select! {
        both = futures::future::try_join(here, there) => both.map(|((), incarnations)| incarnations),
        () = ended.cancelled() => Err(fenced()),
    };
    let outcome = match outcome {
        Ok(incarnations) => server.streams.settle(&key, Ok(())).map(|()| incarnations),
        Err(failure) => server.streams.settle(&key, Err(signed(server, failure))).map(|()| Vec::new()),
    };
    reply.send(outcome.map_err(|failure| signed(server, failure)).map(|mut incarnations| {
        if let Some(ticket) = ticket {
            server.store.acknowledged(ticket); // R1
        }
        incarnations.insert(0, server.store.incarnation().0);
        incarnations
    }));
}

/// A failure that names no server is ours.
fn signed(server: &ChunkServer, mut failure: Failure) -> Failure {
    if failure.server == 0 {
        failure.server = server.store.server_id().map_or(0, |id| id.0);
    }
    failure
}
