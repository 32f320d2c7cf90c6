//! Requests that arrived together: one proposal, one task, and their replies in a row (S1).
//!
//! Owns what a request needs around its proposal: where new chunks go, and the ticket of a create (S7). Requests that have to wait for
//! something before they are proposed come alone (`session`), so that nobody else waits with them.

use caribou_proto::ids::{InodeId, Seq, SessionId};
use caribou_proto::meta::v1::{Answer, Request, mutation, refused, server_message};

use super::session::{Call, Goodbye, stop};
use super::wire;
use super::wire::reply::Extras;
use crate::fsm::command::{ClientCommand, Command};
use crate::fsm::read;
use crate::fsm::reply::{Body, ClientReply, GrantReply, GrantState, Outcome, Reply};
use crate::fsm::tables::classes::DEFAULT_CLASS;
use crate::leader::{CreateTicket, LeaderHandle};
use crate::raft::ProposeError;

/// Requests of one stream that are proposed together.
pub(super) const BURST: usize = 64;
/// Their bytes: the request that passes it is the last one.
pub(super) const BURST_BYTES: usize = 256 << 10;

/// Whether a request can be proposed at once; else its call looks first whether it must wait.
pub(super) fn is_ready(request: &Request) -> bool {
    match operation(request) {
        Some(mutation::Op::TakeGrant(_)) => false,
        // Bytes that go into the metadata grow a file over no chunk: where there is one, they are refused.
        Some(mutation::Op::WriteEnd(write)) => write.chunks.is_empty(),
        Some(mutation::Op::WriteAndSet(both)) => both.write.as_ref().is_none_or(|write| write.chunks.is_empty()),
        Some(mutation::Op::Setattr(set)) => set.size.is_none(),
        _ => true,
    }
}

/// A request in the proposer's queue.
struct Asked {
    seq: u64,
    /// The directories that it names.
    directories: Vec<InodeId>,
    create: Option<Creating>,
    /// The chunk that it asks for.
    chunk: Option<(InodeId, u32)>,
}

/// What `apply` said to one of them, and the inodes of which the answer is to bring more.
struct Answered {
    seq: u64,
    reply: ClientReply,
    directories: Vec<InodeId>,
    /// The file of a chunk that was granted.
    file: Option<InodeId>,
    /// I3.
    inline: Option<InodeId>,
}

/// Requests that are in the proposer's queue.
pub(super) struct Burst<F> {
    asked: Vec<Asked>,
    replies: F,
    /// What the stream is told at the end: one of the requests made no sense.
    goodbye: Option<Goodbye>,
}

/// Queues the requests in their order, so that a session's `seq` rise in the log as they do on its stream (as a rule: S2 needs no order). A
/// request that makes no sense ends the stream, after the others have been answered.
pub(super) async fn enqueue(
    call: &Call,
    requests: Vec<Request>,
) -> Result<Burst<impl Future<Output = Result<Vec<Reply>, ProposeError>> + Send + 'static>, Goodbye> {
    let mut commands = Vec::with_capacity(requests.len());
    let mut asked = Vec::with_capacity(requests.len());
    let mut goodbye = None;
    for request in requests {
        let seq = request.seq;
        // S7: no orphan that this create may have opened is purged before its claim is registered.
        let is_create = matches!(operation(&request), Some(mutation::Op::Create(_)));
        let create = is_create.then(|| Creating::begin(call.leading.clone()));
        let told = operation(&request).filter(|_| call.want_directories);
        let directories = told.map(directories).unwrap_or_default();
        let chunk = match operation(&request) {
            Some(mutation::Op::TakeGrant(take)) => Some((InodeId(take.inode), take.index)),
            _ => None,
        };
        match command(call, request) {
            Ok(command) => {
                asked.push(Asked { seq, directories, create, chunk });
                commands.push(command);
            }
            Err(error) => goodbye = Some(error),
        }
    }
    let replies = call.node.raft().enqueue(commands, None).await?;
    Ok(Burst { asked, replies, goodbye })
}

fn operation(request: &Request) -> Option<&mutation::Op> {
    request.mutation.as_ref().and_then(|m| m.op.as_ref())
}

/// The directories in which an operation changes names.
fn directories(op: &mutation::Op) -> Vec<InodeId> {
    let named = match op {
        mutation::Op::Create(op) => vec![op.parent],
        mutation::Op::Mkdir(op) => vec![op.parent],
        mutation::Op::Mknod(op) => vec![op.parent],
        mutation::Op::Symlink(op) => vec![op.parent],
        mutation::Op::Link(op) => vec![op.parent],
        mutation::Op::Unlink(op) => vec![op.parent],
        mutation::Op::Rmdir(op) => vec![op.parent],
        mutation::Op::Rename(op) if op.parent == op.new_parent => vec![op.parent],
        mutation::Op::Rename(op) => vec![op.parent, op.new_parent],
        _ => Vec::new(),
    };
    named.into_iter().map(InodeId).collect()
}

fn command(call: &Call, request: Request) -> Result<Command, Goodbye> {
    let placement = match operation(&request) {
        Some(op) if wire::request::wants_placement(op) => {
            call.leading.place(DEFAULT_CLASS).map_err(|fatal| stop(&call.node, &fatal))?
        }
        _ => Vec::new(),
    };
    Ok(Command::Client(ClientCommand {
        session: call.session,
        seq: Seq(request.seq),
        acked_below: Seq(request.acked_below),
        caller: wire::request::caller(request.caller)?,
        op: wire::request::mutation(request.mutation, placement)?,
    }))
}

impl<F: Future<Output = Result<Vec<Reply>, ProposeError>>> Burst<F> {
    /// Answers each request from what `apply` said, and then sends `along`: what came with them and is not urgent.
    pub(super) async fn answer(self, call: &Call, along: Vec<Answer>) -> Result<(), Goodbye> {
        let replies = self.replies.await?;
        let mut answers = Vec::with_capacity(replies.len());
        // S7: all claims before the first reply leaves; a client that does not read must not hold them back.
        for (Asked { seq, directories, create, chunk }, reply) in self.asked.into_iter().zip(replies) {
            let reply = client_reply(reply)?;
            if let ClientReply { outcome: Outcome::Executed, result: Ok(Body { attr: Some(attr), .. }), .. } = &reply
                && let Some(create) = create
            {
                create.opened(call.session, attr.inode);
            }
            let directories = if reply.result.is_ok() { directories } else { Vec::new() };
            let granted = granted(&reply).zip(chunk);
            let file = granted.map(|(_, (inode, _))| inode);
            let inline = granted.filter(|(grant, (_, index))| grant.create && *index == 0).map(|(_, (inode, _))| inode);
            answers.push(Answered { seq, directories, file, inline, reply });
        }
        // One view for all: what each of them changed is in it. Told once, with the last reply of those that changed it.
        let mut told = Vec::new();
        for Answered { directories, .. } in answers.iter_mut().rev() {
            directories.retain(|inode| !told.contains(inode));
            told.extend_from_slice(directories);
        }
        let looks = !told.is_empty() || answers.iter().any(|answer| answer.file.is_some());
        let view = looks.then(|| call.node.raft().view());
        let attr = |inode: InodeId| read::getattr(view.as_ref()?, inode).ok().map(|attr| wire::reply::attr(&attr));
        // I3: as they are after the grant. They change no more while it lives.
        let inline_data = |inode: InodeId| match &view {
            Some(view) => read::chunks::inline_data(view, inode).map_err(|fatal| stop(&call.node, &fatal)),
            None => Ok(None),
        };
        for Answered { seq, reply, directories, file, inline } in answers {
            let directories = directories.into_iter().filter_map(attr).collect();
            let inline = inline.map_or(Ok(None), inline_data)?;
            call.answer(seq, reply, Extras { directories, inline, file: file.and_then(attr) }).await;
        }
        for answer in along {
            call.send(server_message::Body::Answer(answer)).await;
        }
        self.goodbye.map_or(Ok(()), Err)
    }
}

/// The grant that it gives, if it gives one.
fn granted(reply: &ClientReply) -> Option<&GrantReply> {
    let grant = reply.result.as_ref().ok().and_then(|body| body.grant.as_ref());
    grant.filter(|grant| grant.state == GrantState::Granted)
}

/// What `apply` says to a client's command.
pub(super) fn client_reply(reply: Reply) -> Result<ClientReply, Goodbye> {
    match reply {
        Reply::Client(reply) => Ok(reply),
        other => Err(Goodbye::Refused(refused::Kind::Protocol, format!("a request was answered {other:?}"))),
    }
}

/// A create between its proposal and its reply; ends however the call ends.
struct Creating {
    leading: LeaderHandle,
    ticket: CreateTicket,
    opened: Option<(SessionId, InodeId)>,
}

impl Creating {
    fn begin(leading: LeaderHandle) -> Self {
        Self { ticket: leading.begin_create(), leading, opened: None }
    }

    fn opened(mut self, session: SessionId, inode: InodeId) {
        self.opened = Some((session, inode));
    }
}

impl Drop for Creating {
    fn drop(&mut self) {
        self.leading.end_create(self.ticket, self.opened);
    }
}
