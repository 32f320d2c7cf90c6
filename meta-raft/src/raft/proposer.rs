//! Puts commands into the log: everything that has queued while earlier entries were in flight becomes one entry (DESIGN 3.2). When the next one
//! leaves beside those is decided in `pace`.
//!
//! One task owns the clock stamps: each entry's time is `max(previous + 1, clock)`, and entries reach Raft in the order of their times.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use openraft::errors::{ClientWriteError, ForwardReason};
use openraft::impls::ProgressResponder;
use openraft::raft::ClientWriteResult;
use tokio::sync::mpsc::error::SendError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use super::api::{LeaderState, NotLeader, ProposeError};
use super::codec::command as codec;
use super::config::{MAX_ENTRIES_IN_FLIGHT, MAX_ENTRY_BYTES, MAX_ENTRY_COMMANDS, MAX_PROPOSAL_BYTES, PROPOSAL_QUEUE};
use super::node::{forwarded, hint};
use super::pace::Pace;
use super::reads::Reads;
use super::state::StateStore;
use super::types::{CommittedLeaderId, Payload, Raft, TypeConfig};
use crate::fsm::FEATURE_LEVEL;
use crate::fsm::command::{ClientOp, Command, Entry, WriteEnd};
use crate::fsm::error::Fatal;
use crate::fsm::reply::Reply;
use crate::fsm::tables::meta;

/// What a command counts besides its names and lists.
const COMMAND_BYTES: usize = 128;

/// Commands that belong together, and who waits for their replies.
struct Proposal {
    /// Empty while they are in the log's payload.
    commands: Vec<Command>,
    count: usize,
    bytes: usize,
    /// The only term in which they may be proposed.
    term: Option<u64>,
    reply: oneshot::Sender<Result<Vec<Reply>, ProposeError>>,
    /// Set once a leader without a valid lease has turned it down: it waits for the quorum only once.
    retried: bool,
}

/// The replies of a proposal, when they come.
pub(crate) type Replies = oneshot::Receiver<Result<Vec<Reply>, ProposeError>>;

/// What operators see.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) commands: AtomicU64,
    pub(crate) entries: AtomicU64,
}

/// The way in.
#[derive(Clone, Debug)]
pub(crate) struct Proposer {
    queue: mpsc::Sender<Proposal>,
    pace: Arc<Pace>,
    counters: Arc<Counters>,
}

/// What the task works with.
pub(crate) struct Parts {
    pub(crate) raft: Raft,
    pub(crate) state: Arc<StateStore>,
    pub(crate) reads: Arc<Reads>,
    pub(crate) leader: watch::Receiver<LeaderState>,
    pub(crate) now_ns: Arc<dyn Fn() -> i64 + Send + Sync>,
}

impl Proposer {
    /// Starts the task on the current runtime; it ends when every `Proposer` is gone.
    pub(crate) fn start(parts: Parts) -> Self {
        let (queue, proposals) = mpsc::channel(PROPOSAL_QUEUE);
        let counters = Arc::new(Counters::default());
        let pace = Arc::new(Pace::default());
        let task = Task {
            parts,
            requeue: queue.downgrade(),
            pace: Arc::clone(&pace),
            counters: Arc::clone(&counters),
            in_flight: Arc::new(Semaphore::new(MAX_ENTRIES_IN_FLIGHT)),
            stamp: Stamp::default(),
        };
        tokio::spawn(task.run(proposals));
        Self { queue, pace, counters }
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The replies, in the order of the commands, once the entry has been applied here.
    pub(crate) async fn propose(&self, commands: Vec<Command>, term: Option<u64>) -> Result<Vec<Reply>, ProposeError> {
        self.enqueue(commands, term).await?.await.unwrap_or(Err(ProposeError::Unavailable))
    }

    /// Queues the commands; whoever calls one after the other has them proposed in that order. The replies come later.
    /// With a term, they are refused in any other.
    pub(crate) async fn enqueue(&self, commands: Vec<Command>, term: Option<u64>) -> Result<Replies, ProposeError> {
        let bytes = commands.iter().map(estimate).sum();
        if bytes > MAX_PROPOSAL_BYTES {
            return Err(ProposeError::TooLarge { bytes, limit: MAX_PROPOSAL_BYTES });
        }
        let (reply, replies) = oneshot::channel();
        let proposal = Proposal { count: commands.len(), commands, bytes, term, reply, retried: false };
        if send(&self.queue, &self.pace, proposal).await.is_err() {
            return Err(NotLeader { hint: None }.into());
        }
        Ok(replies)
    }
}

/// Queues a proposal; an error if nobody takes it any more.
async fn send(queue: &mpsc::Sender<Proposal>, pace: &Pace, proposal: Proposal) -> Result<(), SendError<()>> {
    let place = queue.reserve().await?;
    pace.enqueue(proposal.count, || place.send(proposal));
    Ok(())
}

/// At least as many bytes as a command takes in the log: nothing else bounds an entry.
fn estimate(command: &Command) -> usize {
    COMMAND_BYTES
        + match command {
            Command::Client(c) => 4 * c.caller.groups.len() + estimate_client(&c.op),
            Command::OpenSession { name, .. } => name.len(),
            Command::AddIdle { sessions } => 16 * sessions.len(),
            Command::PurgeOrphans { inodes } => 10 * inodes.len(),
            Command::GarbageDone { chunks, .. } => 24 * chunks.len(),
            Command::RegisterServer(r) => r.address.len(),
            Command::Ready(r) => 32 * r.holders.len(),
            _ => 0,
        }
}

fn estimate_client(op: &ClientOp) -> usize {
    match op {
        ClientOp::Create(c) => c.name.len() + 10 * c.placement.len(),
        ClientOp::Mkdir { name, .. }
        | ClientOp::Mknod { name, .. }
        | ClientOp::Link { name, .. }
        | ClientOp::Unlink { name, .. }
        | ClientOp::Rmdir { name, .. }
        | ClientOp::RemoveXattr { name, .. } => name.len(),
        ClientOp::Symlink { name, target, .. } => name.len() + target.len(),
        ClientOp::Rename(r) => r.name.len() + r.new_name.len(),
        ClientOp::SetXattr { name, value, .. } => name.len() + value.len(),
        ClientOp::SetAttr(_) => 128,
        ClientOp::TakeGrant(t) => 10 * t.placement.len(),
        ClientOp::WriteEnd(w) => estimate_write(w),
        ClientOp::WriteAndSet(w) => estimate_write(&w.write) + 256,
        ClientOp::EndGrants { chunks } => 64 * chunks.len(),
        ClientOp::ReportBroken(r) => 10 * r.suspects.len(),
    }
}

fn estimate_write(write: &WriteEnd) -> usize {
    64 * write.chunks.len() + write.inline.iter().map(|inline| 16 + inline.data.len()).sum::<usize>()
}

/// The times of a term's entries.
#[derive(Debug, Default)]
struct Stamp {
    term: u64,
    last_ns: i64,
}

impl Stamp {
    /// `max(previous + 1, clock)`. A new term goes on from the applied state, which holds every earlier entry once the leader is ready.
    fn next(
        &mut self,
        term: u64,
        clock_ns: i64,
        applied_ns: impl FnOnce() -> Result<i64, Fatal>,
    ) -> Result<i64, Fatal> {
        if self.term != term {
            *self = Self { term, last_ns: applied_ns()? };
        }
        self.last_ns = clock_ns.max(self.last_ns + 1);
        Ok(self.last_ns)
    }
}

struct Task {
    parts: Parts,
    requeue: mpsc::WeakSender<Proposal>,
    pace: Arc<Pace>,
    counters: Arc<Counters>,
    in_flight: Arc<Semaphore>,
    stamp: Stamp,
}

impl Task {
    async fn run(mut self, mut proposals: mpsc::Receiver<Proposal>) {
        let mut held: Option<Proposal> = None;
        loop {
            // The place in flight first: what queues while there is none goes into the same entry.
            let permit = Arc::clone(&self.in_flight).acquire_owned().await.expect("the semaphore is never closed");
            let first = match held.take() {
                Some(proposal) => proposal,
                None => match proposals.recv().await {
                    Some(proposal) => {
                        self.pace.leave(proposal.count);
                        proposal
                    }
                    None => return,
                },
            };
            self.pace.worth_an_entry(first.count).await;
            let mut group = vec![first];
            let (mut bytes, mut count) = (group[0].bytes, group[0].count);
            while bytes < MAX_ENTRY_BYTES && count < MAX_ENTRY_COMMANDS {
                let Ok(proposal) = proposals.try_recv() else { break };
                self.pace.leave(proposal.count);
                if bytes + proposal.bytes > MAX_ENTRY_BYTES || count + proposal.count > MAX_ENTRY_COMMANDS {
                    held = Some(proposal);
                    break;
                }
                bytes += proposal.bytes;
                count += proposal.count;
                group.push(proposal);
            }
            self.submit(group, permit).await;
        }
    }

    async fn submit(&mut self, mut group: Vec<Proposal>, permit: OwnedSemaphorePermit) {
        let leader = self.parts.leader.borrow().clone();
        let not_leader = || ProposeError::NotLeader(NotLeader { hint: hint(&self.parts.raft) });
        if !leader.ready {
            return fail(group, &not_leader());
        }
        let is_of_another = |p: &mut Proposal| p.term.is_some_and(|term| term != leader.term);
        fail(group.extract_if(.., is_of_another).collect(), &not_leader());
        if group.is_empty() {
            return;
        }
        let state = &self.parts.state;
        let time_ns = match self.stamp.next(leader.term, (self.parts.now_ns)(), || meta::last_time_ns(&state.view())) {
            Ok(time) => time,
            Err(error) => {
                tracing::error!(%error, "the state's last time cannot be read");
                return fail(group, &ProposeError::NotLeader(NotLeader { hint: None }));
            }
        };
        let commands: Vec<Command> = group.iter_mut().flat_map(|p| std::mem::take(&mut p.commands)).collect();
        self.counters.commands.fetch_add(commands.len() as u64, Ordering::Relaxed);
        self.counters.entries.fetch_add(1, Ordering::Relaxed);
        let payload = Payload(codec::encode(Entry { feature_level: FEATURE_LEVEL, time_ns, commands }));
        let (responder, _, result) = ProgressResponder::<TypeConfig, ClientWriteResult<TypeConfig>>::new();
        // Only in the term in which this node was ready: its time goes on from what that term began with.
        let write = self.parts.raft.write(payload.clone()).responder(responder);
        if write.with_leader(CommittedLeaderId::new(leader.term)).await.is_err() {
            return fail(group, &ProposeError::Unavailable);
        }
        let under_way = self.pace.begin(group.iter().map(|p| p.count).sum());
        let (requeue, pace, reads) = (self.requeue.clone(), Arc::clone(&self.pace), Arc::clone(&self.parts.reads));
        let raft = self.parts.raft.clone();
        tokio::spawn(async move {
            let result = result.await.ok();
            drop((permit, under_way));
            finish(Submitted { group, payload }, result, &raft, (&requeue, &pace), &reads).await;
        });
    }
}

fn fail(group: Vec<Proposal>, error: &ProposeError) {
    for proposal in group {
        // Whoever has stopped waiting does not need the answer.
        let _ = proposal.reply.send(Err(error.clone()));
    }
}

/// An entry on its way and those who wait for it.
struct Submitted {
    group: Vec<Proposal>,
    payload: Payload,
}

impl Submitted {
    /// The proposals with their commands again.
    fn into_proposals(self) -> Vec<Proposal> {
        let entry = codec::decode(self.payload.0).expect("encoded by this task");
        let mut commands = entry.commands.into_iter();
        let refill = |mut p: Proposal| {
            p.commands = commands.by_ref().take(p.count).collect();
            p
        };
        self.group.into_iter().map(refill).collect()
    }
}

async fn finish(
    entry: Submitted,
    result: Option<ClientWriteResult<TypeConfig>>,
    raft: &Raft,
    (requeue, pace): (&mpsc::WeakSender<Proposal>, &Pace),
    reads: &Reads,
) {
    match result {
        Some(Ok(written)) => {
            let mut replies = written.data.into_iter();
            for proposal in entry.group {
                let part: Vec<Reply> = replies.by_ref().take(proposal.count).collect();
                assert_eq!(part.len(), proposal.count, "one reply per command");
                let _ = proposal.reply.send(Ok(part));
            }
        }
        // Turned down before anything was appended: the leader has not heard from a quorum for a moment.
        Some(Err(ClientWriteError::ForwardToLeader(f))) if f.reason == ForwardReason::LeaseExpired => {
            let confirmed = reads.confirm(raft).await.is_ok();
            for mut proposal in entry.into_proposals() {
                let queue = if confirmed && !proposal.retried { requeue.upgrade() } else { None };
                proposal.retried = true;
                match queue {
                    Some(queue) => drop(send(&queue, pace, proposal).await),
                    None => fail(vec![proposal], &ProposeError::NotLeader(NotLeader { hint: hint(raft) })),
                }
            }
        }
        Some(Err(ClientWriteError::ForwardToLeader(to))) => {
            fail(entry.group, &ProposeError::NotLeader(forwarded(raft, &to)));
        }
        Some(Err(_)) | None => fail(entry.group, &ProposeError::Unavailable),
    }
}

#[cfg(test)]
mod tests {
    use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId, InodeId, Seq, ServerId, SessionId};

    use super::*;
    use crate::fsm::command::{Caller, ClientCommand, ReportBroken, TakeGrant};
    use crate::raft::codec;

    #[test]
    fn no_command_is_longer_than_its_estimate() {
        let name = || vec![b'n'; 5000];
        let (parent, inode) = (InodeId(u64::MAX), InodeId(u64::MAX));
        let servers = || vec![ServerId(u64::MAX); 600];
        let named = [
            ClientOp::Mkdir { parent, name: name(), mode: u32::MAX },
            ClientOp::Link { inode, parent, name: name() },
            ClientOp::Unlink { parent, name: name() },
            ClientOp::Rmdir { parent, name: name() },
            ClientOp::RemoveXattr { inode, name: name() },
            ClientOp::Symlink { parent, name: name(), target: name() },
            ClientOp::SetXattr { inode, name: name(), value: name(), create: true, replace: true },
            ClientOp::TakeGrant(TakeGrant { inode, index: u32::MAX, placement: servers() }),
            ClientOp::ReportBroken(ReportBroken {
                inode,
                index: u32::MAX,
                chunk: ChunkId(u64::MAX),
                version: ChunkVersion(u64::MAX),
                grant: GrantId(u64::MAX),
                suspects: servers(),
            }),
        ];
        for op in named {
            let caller = Caller { uid: u32::MAX, gid: u32::MAX, groups: vec![] };
            let (session, seq) = (SessionId(u64::MAX), Seq(u64::MAX));
            let command = Command::Client(ClientCommand { session, seq, acked_below: seq, caller, op });
            let (estimated, commands) = (estimate(&command), vec![command]);
            let bytes = codec::command::encode(Entry { feature_level: 1, time_ns: i64::MAX, commands }).len();
            assert!(estimated >= bytes, "{estimated} instead of {bytes}");
        }
    }

    #[test]
    fn times_rise_whatever_the_clock_says() {
        let mut stamp = Stamp::default();
        let mut next = |term, clock_ns, applied_ns| stamp.next(term, clock_ns, || Ok(applied_ns)).unwrap();
        assert_eq!(next(1, 100, 0), 100);
        assert_eq!(next(1, 100, 0), 101);
        assert_eq!(next(1, 50, 0), 102, "the clock was put back");
        assert_eq!(next(2, 200, 1000), 1001, "a new term goes on from what was applied");
        assert_eq!(next(2, 200, 0), 1002);
    }
}
