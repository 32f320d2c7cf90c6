//! Drives every Intent to its Ready (V1): Prepare at all holders, one plan, Fix, then the record.
//!
//! Invariants: a holder is left out only when every read lease that it was given is over and it cannot get a new one before the Ready is
//! applied (ADR 7), or when it has persisted the new version without being able to complete it; without a clean source every holder has to
//! answer first; an answer of an earlier round changes nothing. A round that fails begins again at Prepare; both commands are idempotent.
//! What is to be done about one chunk is in `drive`; which chunks are at work, in which order, is here.

mod drive;
#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use caribou_proto::chunk::v1::CommandResult;
use caribou_proto::ids::{ChunkId, ServerId};
use tokio::time::Instant;

use super::context::{Cx, Why};
use super::limits;
use crate::fsm::command::{Command, StartIntent};
use crate::fsm::error::Fatal;
use crate::fsm::reply::Reply;
use crate::fsm::tables::chunks;
use drive::{Drive, Step};

/// All Intents that are known, at work or waiting.
#[derive(Default)]
pub(crate) struct Recovery {
    queue: VecDeque<ChunkId>,
    queued: HashSet<ChunkId>,
    active: BTreeMap<ChunkId, Drive>,
    /// They begin again at the time given, or when a server comes back.
    parked: BTreeMap<ChunkId, Instant>,
    /// Those of all these whose last round found that what they need is not there: they hold nobody back.
    stuck: HashSet<ChunkId>,
    /// When the first round of each that is not over began.
    begun: HashMap<ChunkId, Instant>,
    /// Intents that nobody has asked for, proposed and not applied yet.
    starting: usize,
    last_round: u64,
    /// Where the scan of all Intents is; `None`: it is done.
    scan: Option<Option<ChunkId>>,
}

impl Recovery {
    /// A new leader finds all Intents by scanning.
    pub(crate) fn new() -> Self {
        Self { scan: Some(None), ..Self::default() }
    }

    pub(crate) fn rescan(&mut self) {
        self.scan = Some(None);
    }

    /// An Intent was written. One that replaces an older one ends the round of that.
    pub(crate) fn intent_started(&mut self, cx: &mut Cx<'_>, chunk: ChunkId) -> Result<(), Fatal> {
        let Some(drive) = self.active.get(&chunk) else {
            self.unpark(vec![chunk]);
            return self.start_next(cx);
        };
        let row = chunks::get(cx.tables, chunk)?;
        if row.and_then(|r| r.intent).is_none_or(|i| i.version != drive.version) {
            self.active.remove(&chunk);
            self.want(chunk);
        }
        self.start_next(cx)
    }

    fn want(&mut self, chunk: ChunkId) {
        if !self.active.contains_key(&chunk) && !self.parked.contains_key(&chunk) && self.queued.insert(chunk) {
            self.queue.push_back(chunk);
        }
    }

    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        self.scan_step(cx)?;
        let due: Vec<ChunkId> = self.parked.iter().filter(|(_, at)| **at <= cx.now).map(|(c, _)| *c).collect();
        self.unpark(due);
        for chunk in self.active.keys().copied().collect::<Vec<_>>() {
            self.advance(cx, chunk)?;
        }
        self.start_next(cx)
    }

    fn scan_step(&mut self, cx: &Cx<'_>) -> Result<(), Fatal> {
        let Some(after) = self.scan else { return Ok(()) };
        let page = chunks::intents_page(cx.tables, after, limits::PAGE)?;
        self.scan = (page.len() == limits::PAGE).then(|| page.last().copied());
        for chunk in page {
            self.want(chunk);
        }
        Ok(())
    }

    fn unpark(&mut self, chunks: Vec<ChunkId>) {
        for chunk in chunks {
            self.parked.remove(&chunk);
            self.want(chunk);
        }
    }

    /// A server has attached: what waited for it may go on.
    pub(crate) fn server_attached(&mut self, cx: &mut Cx<'_>, server: ServerId) -> Result<(), Fatal> {
        self.stuck.clear();
        self.active.values_mut().for_each(|drive| drive.attached(server));
        self.unpark(self.parked.keys().copied().collect());
        for chunk in self.active.keys().copied().collect::<Vec<_>>() {
            self.advance(cx, chunk)?;
        }
        self.start_next(cx)
    }

    /// Whether a Ready without this server may be on its way: until it is applied the server gets no lease.
    pub(crate) fn leaves_out(&self, server: ServerId) -> bool {
        self.active.values().any(|d| d.leaves_out(server))
    }

    /// Intents that are at work or wait.
    pub(crate) fn len(&self) -> usize {
        self.queue.len() + self.active.len() + self.parked.len()
    }

    /// Chunks that are out of reach until their recovery has got on, those whose Intent is on its way included; not those that are stuck.
    pub(crate) fn under_way(&self) -> usize {
        self.starting + self.len().saturating_sub(self.stuck.len())
    }

    /// How many Intents may be started that nobody waits for.
    pub(crate) fn room(&self) -> usize {
        limits::RECOVERIES.saturating_sub(self.under_way())
    }

    /// Starts Intents that nobody has asked for.
    pub(crate) fn start(&mut self, cx: &mut Cx<'_>, intents: Vec<StartIntent>) {
        if intents.is_empty() {
            return;
        }
        self.starting += intents.len();
        let why = Why::StartIntents(intents.len());
        cx.propose(why, intents.into_iter().map(Command::StartIntent).collect());
    }

    /// Their records have been applied or refused; what has come of them was told before.
    pub(crate) fn started(&mut self, count: usize) {
        self.starting = self.starting.saturating_sub(count);
    }

    fn start_next(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        while self.active.len() < limits::RECOVERIES
            && let Some(chunk) = self.queue.pop_front()
        {
            self.queued.remove(&chunk);
            self.last_round += 1;
            let begun = *self.begun.entry(chunk).or_insert(cx.now);
            let Some(drive) = Drive::start(cx, chunk, self.last_round, begun)? else {
                self.over(chunk);
                continue;
            };
            self.active.insert(chunk, drive);
            self.advance(cx, chunk)?;
        }
        Ok(())
    }

    pub(crate) fn result(
        &mut self,
        cx: &mut Cx<'_>,
        (chunk, round): (ChunkId, u64),
        server: ServerId,
        result: CommandResult,
    ) -> Result<(), Fatal> {
        let Some(drive) = self.active.get_mut(&chunk).filter(|d| d.round == round) else { return Ok(()) };
        let step = drive.result(cx, server, result)?;
        self.take(cx, chunk, step)
    }

    /// The answer will not come: the server's stream has ended.
    pub(crate) fn lost(
        &mut self,
        cx: &mut Cx<'_>,
        (chunk, round): (ChunkId, u64),
        server: ServerId,
    ) -> Result<(), Fatal> {
        let Some(drive) = self.active.get_mut(&chunk).filter(|d| d.round == round) else { return Ok(()) };
        let step = drive.lost(server);
        self.take(cx, chunk, step)
    }

    /// The Ready has been applied, or refused because the state has moved on.
    pub(crate) fn committed(
        &mut self,
        cx: &mut Cx<'_>,
        chunk: ChunkId,
        round: u64,
        reply: &Reply,
    ) -> Result<(), Fatal> {
        if self.active.get(&chunk).is_some_and(|d| d.round == round) {
            self.active.remove(&chunk);
            self.over(chunk);
            if *reply != Reply::Done {
                tracing::info!(%chunk, ?reply, "a Ready was refused; looking again");
                self.parked.insert(chunk, cx.now + limits::RETRY);
            }
        }
        self.start_next(cx)
    }

    fn over(&mut self, chunk: ChunkId) {
        self.stuck.remove(&chunk);
        self.begun.remove(&chunk);
    }

    fn advance(&mut self, cx: &mut Cx<'_>, chunk: ChunkId) -> Result<(), Fatal> {
        let Some(drive) = self.active.get_mut(&chunk) else { return Ok(()) };
        let step = drive.advance(cx)?;
        self.take(cx, chunk, step)
    }

    fn take(&mut self, cx: &mut Cx<'_>, chunk: ChunkId, step: Step) -> Result<(), Fatal> {
        match step {
            Step::Stay => return Ok(()),
            Step::Drop => {
                self.active.remove(&chunk);
                self.over(chunk);
            }
            Step::Park(pause) => {
                self.active.remove(&chunk);
                self.parked.insert(chunk, cx.now + pause);
            }
            Step::Stuck => {
                self.active.remove(&chunk);
                self.parked.insert(chunk, cx.now + limits::PARKED);
                self.stuck.insert(chunk);
            }
            Step::Advance => return self.advance(cx, chunk),
        }
        self.start_next(cx)
    }
}
