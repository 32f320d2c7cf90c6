//! Calls that are not logged: reads on a linearizable view, claims, waits for a chunk.

use std::sync::Arc;
use std::time::Duration;

use caribou_proto::ids::{CHUNK_BYTES, Cookie, InodeId, SessionId};
use caribou_proto::meta::v1 as wire;
use caribou_proto::meta::v1::{Answer, Query, ReplyBody};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::node::Node;
use super::wire::reply as to_wire;
use super::wire::request::{self, Malformed};
use crate::fsm::command::{Caller, Kind};
use crate::fsm::error::{self, Errno, Fatal};
use crate::fsm::read::{self, chunks};
use crate::fsm::tables::Tables;
use crate::leader::LeaderHandle;
use crate::raft::NotLeader;

/// Access of an open: reads.
const READ: u32 = 4;
/// Longest wait of one `wait_chunk`; the client asks again.
const WAIT_CHUNK: Duration = Duration::from_secs(1);

/// Why a query has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    NotLeader,
    Malformed(Malformed),
    Fatal(Fatal),
}

impl From<NotLeader> for Failure {
    fn from(_: NotLeader) -> Self {
        Self::NotLeader
    }
}

impl From<Malformed> for Failure {
    fn from(error: Malformed) -> Self {
        Self::Malformed(error)
    }
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

/// Answers a question that may wait for a chunk.
pub(super) async fn answer_alone(
    node: &Arc<Node>,
    leading: &LeaderHandle,
    session: SessionId,
    query: Query,
) -> Result<Vec<Answer>, Failure> {
    match &query.wait_chunk {
        Some(wait) => Ok(vec![told(query.id, wait_chunk(node, session, wait).await?)]),
        None => answer(node, leading, session, &[query]).await,
    }
}

/// Answers questions that came together, one after the other on one view.
pub(super) async fn answer(
    node: &Arc<Node>,
    leading: &LeaderHandle,
    session: SessionId,
    queries: &[Query],
) -> Result<Vec<Answer>, Failure> {
    // Begun before the view is taken: no purge that the view does not show can come in between.
    let openings: Vec<_> = queries.iter().map(|query| Opening::of(leading, query)).collect();
    let view = node.raft().read().await?;
    let mut answers = Vec::with_capacity(queries.len());
    for (query, opening) in queries.iter().zip(openings) {
        let caller = request::caller(query.caller.clone())?;
        let result = match read(&view, node, opening, session, &caller, query) {
            Ok(body) => Ok(body?),
            Err(error::Failure::Errno(errno)) => Err(errno),
            Err(error::Failure::Fatal(fatal)) => return Err(fatal.into()),
        };
        answers.push(told(query.id, result));
    }
    Ok(answers)
}

fn told(id: u64, result: Result<ReplyBody, Errno>) -> Answer {
    match result {
        Ok(body) => Answer { id, errno: 0, body: Some(body) },
        Err(errno) => Answer { id, errno: errno.number(), body: None },
    }
}

/// Whether it is about one inode or name.
pub(super) fn is_brief(query: &Query) -> bool {
    query.lookup.is_some() || query.getattr.is_some() || query.access.is_some() || query.open.is_some()
}

/// As [`answer`] for a brief question, without a wait: while the lease holds and all that it needs is in memory. So it costs no task of its own.
/// `None`: [`answer`] must be asked.
pub(super) fn answer_at_once(node: &Node, leading: &LeaderHandle, session: SessionId, query: &Query) -> Option<Answer> {
    let caller = request::caller(query.caller.clone()).ok()?;
    // Before the view, as in `answer`.
    let opening = Opening::of(leading, query);
    let view = node.raft().read_at_once()?;
    let view = view.in_memory();
    let result = read(&view, node, opening, session, &caller, query);
    if view.missed() {
        return None;
    }
    match result {
        Ok(Ok(body)) => Some(told(query.id, Ok(body))),
        Err(error::Failure::Errno(errno)) => Some(told(query.id, Err(errno))),
        // `answer` comes to the same, and says it.
        Ok(Err(_)) | Err(error::Failure::Fatal(_)) => None,
    }
}

/// S7: whether this is a message to the leader's memory of claims.
pub(super) fn is_of_claims(query: &Query) -> bool {
    query.release.is_some() || query.claims_complete.is_some()
}

/// S7: such a message, answered at once; of a stream that has ended it changes nothing: the claims may have been asserted on a newer one by now.
pub(super) fn claims(leading: &LeaderHandle, session: SessionId, ended: &CancellationToken, query: &Query) -> Answer {
    leading.claims(|claims| {
        // Here, where the newer stream's claims have to wait: it begins only after this one has ended.
        if ended.is_cancelled() {
            return;
        }
        for inode in query.release.iter().flat_map(|release| &release.inodes) {
            claims.release(session, InodeId(*inode));
        }
        if query.claims_complete.is_some() {
            claims.claims_complete(session);
        }
    });
    Answer { id: query.id, errno: 0, body: Some(ReplyBody::default()) }
}

type ReadResult = Result<Result<ReplyBody, Malformed>, error::Failure>;

/// Reads one view. The inner result is for what no well-behaved client asks.
fn read(
    view: &dyn Tables,
    node: &Node,
    opening: Option<Opening<'_>>,
    session: SessionId,
    caller: &Caller,
    query: &Query,
) -> ReadResult {
    let with_attr = |attr| ReplyBody { attr: Some(to_wire::attr(&attr)), ..ReplyBody::default() };
    Ok(Ok(if let Some(q) = &query.lookup {
        with_attr(read::lookup(view, caller, InodeId(q.parent), &q.name)?)
    } else if let Some(q) = &query.getattr {
        with_attr(read::getattr(view, InodeId(q.inode))?)
    } else if let Some(q) = &query.readlink {
        ReplyBody { bytes: read::readlink(view, InodeId(q.inode))?.into(), ..ReplyBody::default() }
    } else if let Some(q) = &query.readdir {
        read_dir(view, q)?
    } else if let Some(q) = &query.getxattr {
        ReplyBody { bytes: read::getxattr(view, caller, InodeId(q.inode), &q.name)?.into(), ..ReplyBody::default() }
    } else if let Some(q) = &query.listxattr {
        let names = read::listxattr(view, caller, InodeId(q.inode))?;
        ReplyBody { names: names.into_iter().map(Into::into).collect(), ..ReplyBody::default() }
    } else if query.statfs.is_some() {
        let space = chunks::space(view)?;
        let statfs = wire::StatFsReply {
            total_bytes: space.total_bytes,
            free_bytes: space.free_bytes,
            inodes: space.inodes,
            chunk_bytes: caribou_proto::ids::CHUNK_BYTES,
        };
        ReplyBody { statfs: Some(statfs), ..ReplyBody::default() }
    } else if let Some(q) = &query.access {
        with_attr(read::access(view, caller, InodeId(q.inode), q.mask)?)
    } else if let (Some(q), Some(opening)) = (&query.open, opening) {
        open(view, node, opening, session, caller, q)?
    } else if let Some(q) = &query.locate {
        located(view, node, session, InodeId(q.inode), q.first_index, q.count)?
    } else {
        return Ok(Err(Malformed::Missing("question")));
    }))
}

/// S7: ESTALE for an inode without links, unless a session that had it open asserts its claim again.
///
/// Who opens a file to read it is going to ask where its first bytes are: the answer says so.
fn open(
    view: &dyn Tables,
    node: &Node,
    opening: Opening<'_>,
    session: SessionId,
    caller: &Caller,
    open: &wire::Open,
) -> error::OpResult<ReplyBody> {
    let inode = InodeId(open.inode);
    if !open.reassert {
        read::access(view, caller, inode, open.access)?;
        if read::is_orphan(view, inode)? {
            return Err(Errno::Stale.into());
        }
    }
    let attr = read::getattr(view, inode)?;
    let body = match open.access & READ != 0 && attr.kind == Kind::Regular && attr.size > 0 {
        true => located(view, node, session, inode, 0, 1)?,
        false => ReplyBody::default(),
    };
    opening.opened(session);
    Ok(ReplyBody { attr: Some(to_wire::attr(&attr)), ..body })
}

/// An open between its look at the inode and its claim; ends however the call ends.
struct Opening<'a> {
    leading: &'a LeaderHandle,
    inode: InodeId,
    opened: Option<SessionId>,
}

impl<'a> Opening<'a> {
    /// The open that the question asks for, if it does.
    fn of(leading: &'a LeaderHandle, query: &Query) -> Option<Self> {
        let inode = InodeId(query.open.as_ref()?.inode);
        leading.claims(|claims| claims.begin_open(inode));
        Some(Self { leading, inode, opened: None })
    }

    fn opened(mut self, session: SessionId) {
        self.opened = Some(session);
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.leading.claims(|claims| claims.end_open(self.inode, self.opened));
    }
}

fn read_dir(view: &dyn Tables, query: &wire::ReadDir) -> error::OpResult<ReplyBody> {
    let page = read::readdir(view, InodeId(query.inode), Cookie(query.cookie), query.limit, query.plus)?;
    let entries = page.entries.into_iter().map(|e| wire::DirEntry {
        name: e.name.into(),
        cookie: e.cookie.0,
        inode: e.inode.0,
        kind: to_wire::kind(e.kind).into(),
        attr: e.attr.as_ref().map(to_wire::attr),
    });
    Ok(ReplyBody { entries: entries.collect(), end_of_directory: page.end, ..ReplyBody::default() })
}

fn located(
    view: &dyn Tables,
    node: &Node,
    session: SessionId,
    inode: InodeId,
    first: u32,
    count: u32,
) -> error::OpResult<ReplyBody> {
    let attr = read::getattr(view, inode)?;
    let (length, data_generation) = (attr.size, attr.data_generation);
    let inline = if first == 0 { chunks::inline_data(view, inode)? } else { None };
    // I1: the file has no more than one place then, and most that are asked for are not long.
    let count = if inline.is_some() && length <= CHUNK_BYTES { 0 } else { count };
    let places = chunks::locate(view, session, inode, first, count)?;
    let location = |l: chunks::Location| wire::ChunkLocation {
        index: l.index,
        chunk: l.chunk.0,
        version: l.version.0,
        state: l.state as i32,
        holders: l
            .holders
            .into_iter()
            .map(|(server, incarnation)| to_wire::holder(server, incarnation, &|s| node.address_of(s)))
            .collect(),
        goal: l.goal.into(),
        granted: l.granted,
        clip: l.clip,
    };
    let chunks = places.into_iter().map(location).collect();
    Ok(ReplyBody { chunks, length, data_generation, inline: inline.map(Into::into), ..ReplyBody::default() })
}

/// Waits until the place can be read or granted, or for a second; answers with its state then. A file that is gone is an error, never a hole.
async fn wait_chunk(
    node: &Arc<Node>,
    session: SessionId,
    wait: &wire::WaitChunk,
) -> Result<Result<ReplyBody, Errno>, Failure> {
    let (inode, index) = (InodeId(wait.inode), wait.index);
    let end = Instant::now() + WAIT_CHUNK;
    loop {
        let view = node.raft().read().await?;
        let chunk = chunks::chunk_at(&view, inode, index)?;
        // Registered before the state is looked at (again), so that no change is missed.
        let waiting = chunk.map(|id| node.waiters.on(id));
        let mut change = std::pin::pin!(async {
            match &waiting {
                Some(waiting) => waiting.notify.notified().await,
                None => std::future::pending().await,
            }
        });
        // Polled once: `notify_waiters` then reaches it.
        let _ = futures::poll!(change.as_mut());
        let view = if chunk.is_some() { node.raft().read().await? } else { view };
        let is_there = match wait.for_write {
            true => chunks::is_grantable(&view, session, inode, index)?,
            false => chunks::is_readable(&view, session, inode, index)?,
        };
        if is_there || Instant::now() >= end {
            return match located(&view, node, session, inode, index, 1) {
                Ok(body) => Ok(Ok(body)),
                Err(error::Failure::Errno(errno)) => Ok(Err(errno)),
                Err(error::Failure::Fatal(fatal)) => Err(fatal.into()),
            };
        }
        drop(view);
        // Woken, or at the end: look again. A place without a chunk row is always readable and grantable.
        let _ = tokio::time::timeout_at(end, change).await;
    }
}
