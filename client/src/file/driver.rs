//! The one task of a file with something buffered or held: asks the state what to do, carries it out, brings back what came
//! of it. It decides nothing; it ends when nothing is left.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use caribou_planted::{self as planted, Bug};
use caribou_proto::chunk::v1::{Status, WriteAck, WriteFragment};
use caribou_proto::meta::v1::{ReplyBody, ReportBroken, TakeGrant, WaitChunk, WriteEnd, WrittenChunk, mutation::Op};
use futures::StreamExt;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::FuturesUnordered;

use super::action::{Action, Broken, Held};
use super::context::Context;
use super::inode::{Inode, State};
use super::ports::own_caller;
use super::write_state::{GiveUp, WriteState};
use crate::chunk::{LinkError, WriteStream, answer};
use crate::meta::QueryOp;
use crate::{Error, errno};

/// A call that came to nothing is tried anew after this time, doubled each time …
const FIRST_DELAY: Duration = Duration::from_millis(2);
/// … up to this.
const LAST_DELAY: Duration = Duration::from_millis(500);
/// Answers that are taken in before the state is asked again.
const MAX_EVENTS: usize = 256;

type Work = FuturesUnordered<BoxFuture<'static, Event>>;
/// The stream of each chunk's epoch. W4: it is kept until the epoch ends, so that a new stream never continues an old one.
type Streams = HashMap<u32, (u64, WriteStream)>;

enum Event {
    Granted { index: u32, result: Result<ReplyBody, Error> },
    Waited { index: u32, result: Result<ReplyBody, Error> },
    Acked { held: Held, epoch: u64, n: u64, result: Result<WriteAck, LinkError> },
    WriteEnded { id: u64, result: Result<ReplyBody, Error> },
    Ended { index: u32, grant: u64, result: Result<bool, Error> },
}

pub(crate) async fn run(inode: Arc<Inode>) {
    let mut work = Work::new();
    let mut streams = Streams::new();
    let mut actions = Vec::new();
    loop {
        let deadline = inode.plan(&mut actions);
        for action in actions.drain(..) {
            work.push(start(&inode, &mut streams, action));
        }
        if work.is_empty() && inode.may_stop() {
            inode.context.forget(inode.number);
            return;
        }
        let woken = async {
            match deadline {
                Some(deadline) => tokio::select! {
                    () = inode.wake.notified() => {}
                    () = tokio::time::sleep_until(deadline) => {}
                },
                None => inode.wake.notified().await,
            }
        };
        tokio::select! {
            Some(event) = work.next(), if !work.is_empty() => take(&inode, event, &mut work),
            () = woken => {}
        }
    }
}

/// Takes in an event and the others that are ready.
fn take(inode: &Arc<Inode>, first: Event, work: &mut Work) {
    let mut events = vec![first];
    while events.len() < MAX_EVENTS
        && let Some(Some(event)) = work.next().now_or_never()
    {
        events.push(event);
    }
    inode.change(0, |state| {
        for event in events {
            handle(inode.number, state, event);
        }
    });
}

fn handle(inode: u64, state: &mut State, event: Event) {
    match event {
        Event::Acked { held, epoch, n, result } => match check_ack(&held, n, result) {
            Ok(()) => state.write.acked(held.index, epoch, n),
            Err(broken) => {
                if let Some(lost) = state.write.broke(held.index, epoch, broken) {
                    let (Held { index, chunk, .. }, Range { start, end }) = (held, lost);
                    let what = "bytes of a file are lost: the block that they go to is damaged";
                    tracing::error!(inode, index, chunk, start, end, "{what}");
                    state.sticky.record(errno::EIO);
                }
            }
        },
        Event::Granted { index, result: Ok(body) } => {
            // W9: before anything is sent, so that it is told with a length which this client did not know to be missing.
            if let Some(attr) = &body.attr {
                state.learn_content(attr.data_generation, attr.size);
            }
            if let Some(Range { start, end }) = state.write.granted(index, body.grant.as_ref(), body.inline) {
                let what = "bytes of a file are lost with the session: others have written to the chunk since";
                tracing::error!(inode, index, start, end, "{what}");
                state.sticky.record(errno::EIO);
            }
        }
        Event::Waited { index, result } => {
            let place = result.as_ref().ok().and_then(|body| body.chunks.iter().find(|place| place.index == index));
            let clip = place.and_then(|place| place.clip);
            match result {
                Ok(body) => drop(state.learn_content(body.data_generation, body.length)),
                Err(error) if WriteState::verdict(&error) == Some(GiveUp::Inode) => give_up(inode, state, None, &error),
                // The call that follows will say more.
                _ => {}
            }
            state.write.waited(index, clip);
        }
        Event::WriteEnded { id, result: Ok(body) } => state.write_ended(id, &body),
        Event::WriteEnded { id, result: Err(error) } => write_end_failed(inode, state, id, &error),
        Event::Ended { index, grant, result: Ok(lost) } => state.write.ended(index, grant, lost),
        // The call was for the grants of many files: which one it is about shows when the grant is taken again.
        Event::Ended { index, grant, result: Err(Error::Errno(_)) } => state.write.ended(index, grant, true),
        Event::Granted { index, result: Err(error) } | Event::Ended { index, result: Err(error), .. } => {
            state.write.call_failed(index);
            give_up(inode, state, Some(index), &error);
        }
    }
}

/// A write-end came to nothing, or nobody can say any more whether it did (S4: its session's row is gone). Then bytes that it carried must
/// not be sent again: somebody may have written over them since.
fn write_end_failed(inode: u64, state: &mut State, id: u64, error: &Error) {
    if is_unknown(error) && state.write.forget_inline(id) {
        tracing::error!(inode, "whether buffered bytes of a file were written is not known");
        return state.sticky.record(errno::EIO);
    }
    state.write.write_end_failed(id);
    give_up(inode, state, None, error);
}

/// S4: the call may have been carried out.
fn is_unknown(error: &Error) -> bool {
    matches!(error, Error::Errno(libc::EIO))
}

/// A change of attributes that carried a write-end is answered (`setattr.rs`).
pub(super) fn carried(inode: u64, state: &mut State, id: u64, result: &Result<ReplyBody, Error>) {
    match result {
        Ok(body) => state.write_ended(id, body),
        Err(error) if is_unknown(error) => write_end_failed(inode, state, id, error),
        // The change was refused, and nothing was written either: what becomes of the bytes, the next write-end will show.
        Err(_) => state.write.write_end_failed(id),
    }
}

/// An error of a call on the file's behalf: tried anew, or the end of the bytes it was for (W5: then every handle is told).
fn give_up(inode: u64, state: &mut State, index: Option<u32>, error: &Error) {
    let (lost, errno) = match (WriteState::verdict(error), index) {
        (None, _) => {
            if matches!(error, Error::Unavailable(_) | Error::Refused(_)) {
                state.sticky.record(error.errno());
            }
            return;
        }
        (Some(GiveUp::Chunk(errno)), Some(index)) => (state.write.give_up_chunk(index), errno),
        (Some(GiveUp::Chunk(errno)), None) => (state.write.give_up(), errno),
        (Some(GiveUp::Inode), _) => (state.write.give_up(), errno::EIO),
    };
    if lost && state.handles > 0 {
        tracing::error!(inode, index, %error, "buffered bytes of a file cannot be written and are lost");
        state.sticky.record(errno);
    } else if lost {
        tracing::debug!(inode, index, %error, "buffered bytes of a file that is gone are dropped");
    }
}

/// W3, W6: an acknowledgement counts if it is one, and if every holder still is the incarnation that the grant names.
/// Else: why the epoch ends.
fn check_ack(held: &Held, n: u64, result: Result<WriteAck, LinkError>) -> Result<(), Broken> {
    let head = held.holders[0].server_id;
    let (chunk, version) = (held.chunk, held.version);
    match result {
        Ok(ack) if ack.status() == Status::Ok => {
            let same = ack.incarnations.iter().copied().eq(held.holders.iter().map(|holder| holder.incarnation));
            if same {
                return Ok(());
            }
            tracing::info!(chunk, version, "a chunk server has restarted since the grant");
            let others = held.holders.iter().zip(ack.incarnations.iter().map(Some).chain(std::iter::repeat(None)));
            let others = others.filter(|(holder, got)| *got != Some(&holder.incarnation));
            Err(Broken { suspects: others.map(|(holder, _)| holder.server_id).collect(), refused: None })
        }
        Ok(ack) => {
            tracing::info!(chunk, version, status = ?ack.status(), detail = ack.detail, "a write was refused");
            let suspects = if ack.failed_server == 0 { Vec::new() } else { vec![ack.failed_server] };
            Err(Broken { suspects, refused: matches!(ack.status(), Status::Corrupt | Status::IoError).then_some(n) })
        }
        Err(error) => {
            tracing::info!(chunk, version, head, %error, "a write stream broke");
            Err(Broken { suspects: vec![head], refused: None })
        }
    }
}

/// Waits before a call that has come to nothing `attempt` times.
async fn pause(attempt: u32) {
    if attempt > 0 {
        tokio::time::sleep((FIRST_DELAY * 2_u32.pow(attempt.min(16) - 1)).min(LAST_DELAY)).await;
    }
}

/// Starts an action. Fragments leave at once and in order; everything else may wait first.
fn start(inode: &Arc<Inode>, streams: &mut Streams, action: Action) -> BoxFuture<'static, Event> {
    let (number, context, inode) = (inode.number, inode.context.clone(), inode.clone());
    let meta = context.ports.meta.clone();
    match action {
        Action::Send { epoch, n, held, offset, data, sync } => {
            let stream = stream(&inode, streams, epoch, &held);
            let fragment = WriteFragment {
                cluster: Some(context.servers.cluster.clone()),
                id: 0,
                chunk: held.chunk,
                version: held.version,
                grant: held.grant,
                create: held.create,
                chain: held.holders.to_vec(),
                position: 0,
                offset,
                crc: crc32c::crc32c(&data),
                data,
                sync,
            };
            let again = planted::is(Bug::ResentAtSameVersion).then(|| fragment.clone());
            let received = stream.submit(fragment);
            if let Some(fragment) = again {
                return async move {
                    let result = insist(&context, fragment, answer(received.await)).await;
                    Event::Acked { held, epoch, n, result }
                }
                .boxed();
            }
            async move { Event::Acked { held, epoch, n, result: answer(received.await) } }.boxed()
        }
        Action::TakeGrant { index, attempt } => async move {
            pause(attempt).await;
            let op = Op::TakeGrant(TakeGrant { inode: number, index });
            Event::Granted { index, result: meta.mutate(own_caller(), op).await }
        }
        .boxed(),
        Action::Wait { index, attempt } => async move {
            pause(attempt).await;
            let op = QueryOp::WaitChunk(WaitChunk { inode: number, index, for_write: true });
            Event::Waited { index, result: meta.query(own_caller(), op).await }
        }
        .boxed(),
        Action::Report { held, suspects, attempt } => async move {
            pause(attempt.saturating_sub(1)).await;
            let Held { index, chunk, version, grant, .. } = held;
            let op = Op::ReportBroken(ReportBroken { inode: number, index, chunk, version, grant, suspects });
            Event::Granted { index, result: meta.mutate(own_caller(), op).await }
        }
        .boxed(),
        Action::WriteEnd { id, write, attempt } => async move {
            pause(attempt).await;
            let carries = !write.inline.is_empty();
            let op = Op::WriteEnd(WriteEnd { inode: number, ..write });
            // I2: never given up, or its bytes could come after newer ones. Who waits for it has a patience of his own.
            let result = match carries {
                true => meta.mutate_patiently(own_caller(), op).await,
                false => meta.mutate(own_caller(), op).await,
            };
            Event::WriteEnded { id, result }
        }
        .boxed(),
        Action::End { held, attempt } => async move {
            pause(attempt).await;
            let chunk = WrittenChunk { end: true, ..held.written() };
            Event::Ended { index: held.index, grant: held.grant, result: context.ender.end(chunk).await }
        }
        .boxed(),
    }
}

/// What a planted bug does: sends a fragment over one stream after the other, until it is answered.
async fn insist(
    context: &Context,
    fragment: WriteFragment,
    mut result: Result<WriteAck, LinkError>,
) -> Result<WriteAck, LinkError> {
    while result.is_err() {
        tokio::time::sleep(LAST_DELAY).await;
        let stream = context.servers.write_stream(&fragment.chain[0].address, fragment.chunk);
        result = answer(stream.submit(fragment.clone()).await);
    }
    result
}

fn stream(inode: &Inode, streams: &mut Streams, epoch: u64, held: &Held) -> WriteStream {
    match streams.get(&held.index) {
        Some((known, stream)) if *known == epoch => stream.clone(),
        _ => {
            let stream = inode.context.servers.write_stream(&held.holders[0].address, held.chunk);
            streams.insert(held.index, (epoch, stream.clone()));
            stream
        }
    }
}
