//! The chunk servers of the fake cluster: write, then forward (ADR 0001.1), sync, read; every check that the rules ask for.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use caribou_proto::chunk::v1::{ReadReply, ReadRequest, Status, WriteAck, WriteFragment};
use caribou_proto::ids::BLOCK_BYTES;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use tokio::sync::mpsc;

use super::world::{Inner, Replica, World};
use crate::chunk::{LINK_QUEUE, Link, LinkError, Transport};

const TRIP: Duration = Duration::from_micros(200);

pub(super) struct Network(pub(super) Arc<World>);

impl Transport for Network {
    fn write(&self, address: &str) -> BoxFuture<'static, Result<Link<WriteFragment, WriteAck>, LinkError>> {
        let stream = self.0.inner.lock().next_stream();
        open(self.0.clone(), address, move |world, fragment| {
            let mut inner = world.inner.lock();
            let ack = inner.write(stream, &fragment);
            (!inner.hold_acks).then_some(ack)
        })
    }

    fn read(&self, address: &str) -> BoxFuture<'static, Result<Link<ReadRequest, ReadReply>, LinkError>> {
        let server = server_of(address);
        open(self.0.clone(), address, move |world, request| world.inner.lock().read(server, &request))
    }
}

fn server_of(address: &str) -> u64 {
    address.trim_start_matches("server-").parse().expect("addresses of the test")
}

/// A stream that breaks when its server does.
fn open<Q: Send + 'static, A: Send + 'static>(
    world: Arc<World>,
    address: &str,
    serve: impl Fn(&World, Q) -> Option<A> + Send + 'static,
) -> BoxFuture<'static, Result<Link<Q, A>, LinkError>> {
    let server = server_of(address);
    Box::pin(async move {
        tokio::time::sleep(TRIP).await;
        let breaks = {
            let inner = world.inner.lock();
            let server = &inner.servers[&server];
            if server.down {
                return Err(LinkError("connection refused".to_owned()));
            }
            server.breaks
        };
        let (requests, mut queue) = mpsc::channel::<Q>(LINK_QUEUE);
        let (replier, replies) = mpsc::channel::<Result<A, LinkError>>(1024);
        tokio::spawn(async move {
            loop {
                let broken = world.broken.notified();
                tokio::pin!(broken);
                broken.as_mut().enable();
                if world.inner.lock().servers[&server].breaks != breaks {
                    let _ = replier.send(Err(LinkError("connection reset".to_owned()))).await;
                    return;
                }
                tokio::select! {
                    biased;
                    () = broken => {}
                    request = queue.recv() => {
                        let Some(request) = request else { return };
                        tokio::time::sleep(TRIP).await;
                        if world.inner.lock().servers[&server].breaks != breaks {
                            continue;
                        }
                        let Some(reply) = world.check(|| serve(&world, request)) else { return };
                        if let Some(reply) = reply
                            && replier.send(Ok(reply)).await.is_err()
                        {
                            return;
                        }
                    }
                }
            }
        });
        let replies = stream::unfold(replies, |mut replies| async move { Some((replies.recv().await?, replies)) });
        Ok(Link { requests, replies: replies.boxed() })
    })
}

impl World {
    /// What a server answers; `None` if one of its checks fails, which the test is told in the end.
    fn check<R>(&self, serve: impl FnOnce() -> R) -> Option<R> {
        let failed = |panic| {
            self.failed.lock().get_or_insert(panic);
        };
        catch_unwind(AssertUnwindSafe(serve)).map_err(failed).ok()
    }
}

impl Inner {
    fn next_stream(&mut self) -> u64 {
        self.streams += 1;
        self.streams
    }

    /// W4: what was on its way when the stream or the grant came to its end may still arrive, but nothing goes on elsewhere at the same version.
    fn check_stream(&mut self, stream: u64, fragment: &WriteFragment) {
        let (at, by) = ((fragment.chunk, fragment.version), (fragment.grant, stream));
        let known = *self.carried.entry(at).or_insert(by);
        assert_eq!(known, by, "W4: grant and stream at chunk and version {at:?}");
    }

    fn write(&mut self, stream: u64, fragment: &WriteFragment) -> WriteAck {
        self.fragments += u64::from(!fragment.data.is_empty());
        self.syncs += u64::from(fragment.sync);
        self.check_stream(stream, fragment);
        assert_eq!(crc32c::crc32c(&fragment.data), fragment.crc, "W3");
        assert!(fragment.data.len() <= 1 << 20, "fragments are at most 1 MiB");
        for holder in &fragment.chain {
            let status = self.write_one(holder.server_id, holder.incarnation, fragment);
            if status != Status::Ok {
                let failed_server = holder.server_id;
                return WriteAck { id: fragment.id, status: status.into(), failed_server, ..WriteAck::default() };
            }
        }
        if fragment.sync {
            for holder in &fragment.chain {
                let server = self.servers.get_mut(&holder.server_id).expect("it was just written");
                if let Some(replica) = server.replicas.get_mut(&fragment.chunk) {
                    replica.disk.clone_from(&replica.memory);
                    replica.syncs += 1;
                }
            }
        }
        let incarnations = fragment.chain.iter().map(|holder| self.servers[&holder.server_id].incarnation).collect();
        WriteAck { id: fragment.id, status: Status::Ok.into(), incarnations, ..WriteAck::default() }
    }

    fn write_one(&mut self, server: u64, incarnation: u64, fragment: &WriteFragment) -> Status {
        let server = self.servers.get_mut(&server).expect("a server of the test");
        if server.down {
            return Status::Downstream;
        }
        if let Some(status) = server.fail_writes.pop_front() {
            return status;
        }
        if server.incarnation != incarnation {
            return Status::WrongIncarnation;
        }
        if fragment.create {
            server.replicas.entry(fragment.chunk).or_insert_with(|| Replica { version: 1, ..Replica::default() });
        }
        let Some(replica) = server.replicas.get_mut(&fragment.chunk) else { return Status::NoReplica };
        if replica.version != fragment.version {
            return Status::WrongVersion;
        }
        if replica.grant > fragment.grant {
            return Status::OldGrant;
        }
        if let Some(block) = server.damaged {
            let (start, end) = (block * BLOCK_BYTES, (block + 1) * BLOCK_BYTES);
            let fragment = fragment.offset..fragment.offset + fragment.data.len() as u32;
            if fragment.start <= start && fragment.end >= end {
                server.damaged = None;
            } else if fragment.start < end && fragment.end > start {
                return Status::Corrupt;
            }
        }
        replica.grant = fragment.grant;
        replica.memory.write(fragment.offset as usize, &fragment.data);
        Status::Ok
    }

    fn read(&mut self, server: u64, request: &ReadRequest) -> Option<ReadReply> {
        let server = self.servers.get_mut(&server).expect("a server of the test");
        server.reads += 1;
        if server.silent {
            return None;
        }
        let reply = |status: Status| Some(ReadReply { id: request.id, status: status.into(), ..ReadReply::default() });
        if let Some(status) = server.fail_reads.pop_front() {
            return reply(status);
        }
        let Some(replica) = server.replicas.get(&request.chunk) else { return reply(Status::NoReplica) };
        if replica.version != request.version {
            return reply(Status::WrongVersion);
        }
        if replica.dirty {
            return reply(Status::Dirty);
        }
        if replica.corrupt {
            return reply(Status::Corrupt);
        }
        let data = replica.memory.read(request.offset as usize, request.length as usize);
        let crc = crc32c::crc32c(&data);
        Some(ReadReply {
            id: request.id,
            status: Status::Ok.into(),
            data: Bytes::from(data),
            crc,
            ..ReadReply::default()
        })
    }
}
