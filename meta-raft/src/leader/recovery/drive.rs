//! One round of one chunk's recovery: Preparing, then Fixing, then Committing (V1, ADR 4).

use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{self as wire, BlockRange, CommandResult, Fetch, Prepare, Prepared, Status};
use caribou_proto::ids::{CHUNK_BYTES, ChunkId, ChunkVersion, Incarnation, ServerId};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{debug, error, warn};

use crate::fsm::command::{Command, Ready, ReadyHolder, StartIntent};
use crate::fsm::error::Fatal;
use crate::fsm::tables::chunks::{self, Chunk, Intent, Replica};
use crate::fsm::tables::{classes, garbage};
use crate::leader::context::{Cx, Why};
use crate::leader::limits;
use crate::leader::links::Purpose;
use crate::leader::plan::{self, Plan};

/// One round.
pub(super) struct Drive {
    chunk: ChunkId,
    pub(super) round: u64,
    pub(super) version: ChunkVersion,
    /// When this leader took the Intent up.
    begun: Instant,
    started: Instant,
    members: Vec<Member>,
    stage: Stage,
}

/// How the round goes on.
#[derive(Debug)]
pub(super) enum Step {
    Stay,
    /// Look again at once.
    Advance,
    /// There is nothing left to do here.
    Drop,
    /// Begin anew later.
    Park(Duration),
    /// What it needs is not there, maybe for days: begin anew later, and hold nobody back until then.
    Stuck,
}

enum Stage {
    Preparing { replacing: bool },
    Fixing { plan: Plan },
    Committing,
}

struct Member {
    server: ServerId,
    /// Of the row; else a replacement that is being joined (V6).
    named: bool,
    state: State,
    answer: Option<Answer>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// No Prepare has been sent, or its answer will not come.
    Unasked,
    Asked,
    Answered,
    /// It gets an empty replica before its Fix.
    Joining,
    Fixing,
    Done,
    /// Not part of the Ready.
    LeftOut,
}

impl Member {
    /// A holder of the row that has not answered.
    fn is_missing(&self) -> bool {
        self.named && self.state != State::Answered
    }
}

struct Answer {
    incarnation: Incarnation,
    found: bool,
    had_version: ChunkVersion,
    member: plan::Member,
}

impl Drive {
    /// `None` if the chunk has no Intent any more.
    pub(super) fn start(cx: &Cx<'_>, chunk: ChunkId, round: u64, begun: Instant) -> Result<Option<Self>, Fatal> {
        let Some(row) = chunks::get(cx.tables, chunk)? else { return Ok(None) };
        let Some(intent) = &row.intent else { return Ok(None) };
        let member = |r: &Replica| Member { server: r.server, named: true, state: State::Unasked, answer: None };
        let members = row.replicas.iter().map(member).collect();
        let stage = Stage::Preparing { replacing: false };
        Ok(Some(Self { chunk, round, version: intent.version, begun, started: cx.now, members, stage }))
    }

    /// Whether the plan was made without this holder.
    pub(super) fn leaves_out(&self, server: ServerId) -> bool {
        let out = |m: &Member| m.server == server && m.named && m.state == State::LeftOut;
        !matches!(self.stage, Stage::Preparing { .. }) && self.members.iter().any(out)
    }

    /// A holder has a new stream: what it refused on the last one says nothing of what it would serve now, so it is asked again.
    pub(super) fn attached(&mut self, server: ServerId) {
        if matches!(self.stage, Stage::Preparing { .. })
            && let Some(member) = self.member_mut(server)
            && member.named
            && member.state == State::LeftOut
        {
            member.state = State::Unasked;
        }
    }

    pub(super) fn advance(&mut self, cx: &mut Cx<'_>) -> Result<Step, Fatal> {
        let Some(row) = chunks::get(cx.tables, self.chunk)? else { return Ok(Step::Drop) };
        let Some(intent) = row.intent.clone() else { return Ok(Step::Drop) };
        if intent.version != self.version {
            return Ok(Step::Park(Duration::ZERO));
        }
        match &self.stage {
            Stage::Preparing { .. } => self.prepare(cx, &row, &intent),
            Stage::Fixing { .. } => self.fix(cx, &row, &intent),
            Stage::Committing => Ok(Step::Stay),
        }
    }

    fn prepare(&mut self, cx: &mut Cx<'_>, row: &Chunk, intent: &Intent) -> Result<Step, Fatal> {
        let purpose = Purpose::Recovery { chunk: self.chunk, round: self.round };
        for member in self.members.iter_mut().filter(|m| m.state == State::Unasked) {
            let prepare = Prepare { version: self.version.0, join: !member.named, old_grant: row.last_grant.0 };
            if cx.send(member.server, self.chunk, Body::Prepare(prepare), purpose.clone()) {
                member.state = State::Asked;
            }
        }
        if self.waits_for_holders(cx) {
            let pause = cx.now >= self.started + limits::PARK_AFTER;
            return Ok(if pause { Step::Park(limits::PARKED) } else { Step::Stay });
        }
        // Before anybody is joined: nobody clears away what a round that waits has joined.
        if matches!(self.stage, Stage::Preparing { replacing: false })
            && let Err(step) = self.decide(cx, row, intent)?
        {
            return Ok(step);
        }
        if self.waits_for_replacements(cx, row)? {
            return Ok(Step::Stay);
        }
        self.plan(cx, row, intent)
    }

    /// Whether a holder of the row has still to answer: it is neither silent for long enough nor without a usable disk.
    fn waits_for_holders(&self, cx: &Cx<'_>) -> bool {
        let owes = |m: &Member| m.named && matches!(m.state, State::Unasked | State::Asked);
        self.members.iter().any(|m| owes(m) && !cx.is_silent(m.server))
    }

    /// V6: for holders that are left out replacements are joined, for at most [`limits::JOIN_LIMIT`]; with no candidate it goes on at once.
    fn waits_for_replacements(&mut self, cx: &mut Cx<'_>, row: &Chunk) -> Result<bool, Fatal> {
        let Stage::Preparing { replacing } = &mut self.stage else { return Ok(false) };
        if !std::mem::replace(replacing, true) {
            let goal = classes::get(cx.tables, row.class)?.goal();
            let answered = self.members.iter().filter(|m| m.state == State::Answered).count();
            let except = row.replicas.iter().map(|r| r.server).collect();
            let counts = (goal.saturating_sub(answered), Self::least(cx, row)?.saturating_sub(answered));
            for server in self.candidates(cx, counts, except)? {
                let purpose = Purpose::Recovery { chunk: self.chunk, round: self.round };
                let prepare = Prepare { version: self.version.0, join: true, old_grant: row.last_grant.0 };
                if cx.send(server, self.chunk, Body::Prepare(prepare), purpose) {
                    self.members.push(Member { server, named: false, state: State::Asked, answer: None });
                }
            }
        }
        let late = cx.now >= self.started + limits::SILENCE + limits::JOIN_LIMIT;
        for member in self.members.iter_mut().filter(|m| !m.named && m.state == State::Asked && late) {
            member.state = State::LeftOut;
        }
        Ok(self.members.iter().any(|m| !m.named && m.state == State::Asked))
    }

    /// Servers for replacements. Not one that has still to delete its copy of this version, since it had lost it (R3): it would delete the new one.
    /// One whose deletion is of an older version would refuse that as soon as it has heard of this one, until a `StrayFound` names it: it is
    /// taken only where there would be no Ready without it, since a failed disk may keep it from deleting until it starts anew.
    fn candidates(
        &self,
        cx: &Cx<'_>,
        (wanted, needed): (usize, usize),
        mut except: Vec<ServerId>,
    ) -> Result<Vec<ServerId>, Fatal> {
        let mut hindered = Vec::new();
        loop {
            let mut found = cx.shared.placement.lock().next(wanted, &except);
            let before = except.len();
            for server in &found {
                let Some(version) = garbage::get(cx.tables, *server, self.chunk)? else { continue };
                except.push(*server);
                if version < self.version {
                    hindered.push(*server);
                }
            }
            if except.len() == before {
                found.extend(hindered.into_iter().take(needed.saturating_sub(found.len())));
                return Ok(found);
            }
        }
    }

    /// What is to be done, as far as it has been answered; else how the round goes on without a plan.
    fn decide(&self, cx: &mut Cx<'_>, row: &Chunk, intent: &Intent) -> Result<Result<Plan, Step>, Fatal> {
        if let Some(step) = self.raise(cx, intent) {
            return Ok(Err(step));
        }
        let answered = self.members.iter().filter(|m| m.state == State::Answered);
        let inputs: Vec<plan::Member> = answered.filter_map(|m| m.answer.as_ref()).map(|a| a.member.clone()).collect();
        let Some(plan) = plan::plan(&inputs, intent.cut) else {
            warn!(chunk = %self.chunk, "no holder has a replica of this chunk; waiting for the others");
            return Ok(Err(Step::Stuck));
        };
        // M15: without a source that has all it acknowledged, a holder that is missing may have the only bytes that were synced.
        if !plan.trusted && self.members.iter().any(Member::is_missing) {
            warn!(chunk = %self.chunk, "no clean replica of this chunk answers; waiting for all of its holders");
            return Ok(Err(Step::Stuck));
        }
        // P1: who restarts may have the last whole copy of a block; for one that stays away nobody waits without end.
        // A disk that hangs or is not mounted may come back as well.
        let has_bytes = |m: &Member| m.state == State::Answered && m.answer.as_ref().is_some_and(|answer| answer.found);
        let may_come = |m: &Member| m.named && !has_bytes(m);
        if plan.loses && cx.now < self.begun + limits::LOSS_PATIENCE && self.members.iter().any(may_come) {
            warn!(chunk = %self.chunk, "a block is damaged on all holders that answer; waiting for the others");
            return Ok(Err(Step::Stuck));
        }
        // V6: a replacement cannot be made equal to damage, so none would help.
        if plan.loses && plan.fixes.len() < Self::least(cx, row)? {
            warn!(chunk = %self.chunk, "a block is damaged on all holders that answer, and they are too few; waiting for the others");
            return Ok(Err(Step::Stuck));
        }
        Ok(Ok(plan))
    }

    /// V6: the holders without which there is no Ready.
    fn least(cx: &Cx<'_>, row: &Chunk) -> Result<usize, Fatal> {
        Ok(classes::get(cx.tables, row.class)?.minimum().min(row.replicas.len()))
    }

    /// All who can answer have answered.
    fn plan(&mut self, cx: &mut Cx<'_>, row: &Chunk, intent: &Intent) -> Result<Step, Fatal> {
        let plan = match self.decide(cx, row, intent)? {
            Ok(plan) => plan,
            Err(step) => return Ok(step),
        };
        if plan.fixes.len() < Self::least(cx, row)? {
            return Ok(Step::Park(limits::PARKED)); // V6
        }
        for server in &plan.left_out {
            error!(chunk = %self.chunk, %server, "a damaged block has no whole copy: this replica cannot be made equal");
        }
        for server in self.members.iter().filter(|m| m.is_missing()).map(|m| m.server).collect::<Vec<_>>() {
            let failed = self.member(server).is_some_and(|m| m.state == State::LeftOut);
            // ADR 7: from here on it gets no lease until it has attached anew and been told what it may not serve.
            if !failed && !cx.shut_out(server) {
                return Ok(Step::Stay);
            }
        }
        for member in &mut self.members {
            if member.state != State::Answered || plan.left_out.contains(&member.server) {
                member.state = State::LeftOut;
            }
        }
        self.stage = Stage::Fixing { plan };
        Ok(Step::Advance)
    }

    /// A completed replica changes only under a new version: unless all are equal already, a later round raises it.
    fn raise(&self, cx: &mut Cx<'_>, intent: &Intent) -> Option<Step> {
        let answers: Vec<&Answer> =
            self.members.iter().filter(|m| m.state == State::Answered).filter_map(|m| m.answer.as_ref()).collect();
        let complete = |a: &Answer| a.found && a.had_version >= self.version;
        let first = answers.iter().find(|a| complete(a))?;
        if answers.iter().all(|a| complete(a) && plan::equal(&a.member, &first.member, intent.cut)) {
            return None;
        }
        let highest = answers.iter().map(|a| a.had_version).max()?;
        if highest > self.version {
            error!(chunk = %self.chunk, %highest, version = %self.version, "a replica has a higher version than the metadata");
            return Some(Step::Stuck);
        }
        debug!(chunk = %self.chunk, version = %self.version, "raised: a replica of an earlier round is complete");
        let start = StartIntent { chunk: self.chunk, version: self.version, grant: None, kind: intent.kind };
        cx.propose(Why::Raise(self.chunk), vec![Command::StartIntent(start)]);
        Some(Step::Park(limits::PARKED))
    }

    fn fix(&mut self, cx: &mut Cx<'_>, row: &Chunk, intent: &Intent) -> Result<Step, Fatal> {
        let Stage::Fixing { plan } = &self.stage else { return Ok(Step::Stay) };
        let (plan, purpose) = (plan.clone(), Purpose::Recovery { chunk: self.chunk, round: self.round });
        let first_done = plan.first.is_none_or(|f| self.member(f).is_some_and(|m| m.state == State::Done));
        for (server, fix) in &plan.fixes {
            let held = !first_done && plan.first != Some(*server);
            let Some(member) = self.member(*server).filter(|m| m.state == State::Answered && !held) else { continue };
            // M6: what it answered before it started anew says nothing of what it has now.
            let answered = member.answer.as_ref().expect("it has answered").incarnation;
            if !cx.links.is_attached(*server, answered) {
                return Ok(Step::Park(limits::RETRY));
            }
            let joins = !member.answer.as_ref().is_some_and(|a| a.found) && member.named;
            let (body, state) = if joins {
                let prepare = Prepare { version: self.version.0, join: true, old_grant: row.last_grant.0 };
                (Body::Prepare(prepare), State::Joining)
            } else {
                let cut_length = (u64::from(intent.cut) < CHUNK_BYTES).then_some(intent.cut);
                let fetches = self.fetches(cx, fix)?;
                (
                    Body::Fix(wire::Fix { version: self.version.0, fetches, cut_length, resum_damaged: fix.resum }),
                    State::Fixing,
                )
            };
            if !cx.send(*server, self.chunk, body, purpose.clone()) {
                return Ok(Step::Park(limits::RETRY));
            }
            self.member_mut(*server).expect("looked up above").state = state;
        }
        self.commit(cx, row)
    }

    fn fetches(&self, cx: &Cx<'_>, fix: &plan::Fix) -> Result<Vec<Fetch>, Fatal> {
        let mut fetches = Vec::with_capacity(fix.fetches.len());
        for (source, ranges) in &fix.fetches {
            let answer = self.member(*source).and_then(|m| m.answer.as_ref()).expect("a source has answered");
            let blocks = ranges.iter().map(|r| BlockRange { first: r.first, count: r.count }).collect();
            // F3: the source is meant in the incarnation that answered.
            let source = cx.holder(*source, answer.incarnation)?;
            fetches.push(Fetch { source, version: self.version.0, blocks });
        }
        Ok(fetches)
    }

    /// Proposes the Ready once all are done; a replacement may hold it up only for so long (V6).
    fn commit(&mut self, cx: &mut Cx<'_>, row: &Chunk) -> Result<Step, Fatal> {
        let late = cx.now >= self.started + limits::SILENCE + limits::JOIN_LIMIT;
        for member in self.members.iter_mut().filter(|m| !m.named && m.state != State::Done && late) {
            member.state = State::LeftOut;
        }
        if self.members.iter().any(|m| !matches!(m.state, State::Done | State::LeftOut)) {
            return Ok(Step::Stay);
        }
        let Stage::Fixing { plan } = &self.stage else { return Ok(Step::Stay) };
        let done = self.members.iter().filter(|m| m.state == State::Done);
        let holders: Vec<ReadyHolder> = done
            .filter_map(|m| m.answer.as_ref().map(|a| (m, a)))
            .map(|(m, a)| ReadyHolder {
                server: m.server,
                incarnation: a.incarnation,
                clean_source: plan.clean_source == Some(m.server),
            })
            .collect();
        if holders.len() < Self::least(cx, row)? {
            return Ok(Step::Park(limits::RETRY));
        }
        let ready = Ready { chunk: self.chunk, version: self.version, holders };
        cx.propose(Why::Ready { chunk: self.chunk, round: self.round }, vec![Command::Ready(ready)]);
        self.stage = Stage::Committing;
        Ok(Step::Stay)
    }

    pub(super) fn result(&mut self, cx: &mut Cx<'_>, server: ServerId, result: CommandResult) -> Result<Step, Fatal> {
        let ok = result.status() == Status::Ok;
        let Some(state) = self.member(server).map(|m| m.state) else { return Ok(Step::Stay) };
        if !ok {
            return Ok(self.failed(server, state, &result));
        }
        let state = match state {
            State::Asked => return self.answered(cx, server, result.prepared.unwrap_or_default()),
            State::Joining => {
                let answer = self.member_mut(server).and_then(|m| m.answer.as_mut()).expect("it answered before");
                answer.found = true;
                State::Answered
            }
            State::Fixing => State::Done,
            _ => return Ok(Step::Stay),
        };
        self.member_mut(server).expect("looked up above").state = state;
        Ok(Step::Advance)
    }

    fn answered(&mut self, cx: &Cx<'_>, server: ServerId, prepared: Prepared) -> Result<Step, Fatal> {
        let Some(row) = chunks::get(cx.tables, self.chunk)? else { return Ok(Step::Drop) };
        let Some(blocks) = plan::blocks(&prepared) else {
            error!(chunk = %self.chunk, %server, "a block table of the wrong length; upgrade this chunk server");
            return Ok(Step::Stuck);
        };
        let incarnation = Incarnation(prepared.incarnation);
        let (chunk, version) = (self.chunk, self.version);
        let named_at = row.version;
        let stayed = stayed(&row, Replica { server, incarnation });
        let Some(member) = self.member_mut(server) else { return Ok(Step::Stay) };
        // A replacement's bytes are not named by anybody.
        let standing = match member.named {
            true => plan::standing(&prepared, named_at),
            false => plan::Standing::Missing,
        };
        let input = plan::Member { server, standing, stayed, last_grant: prepared.last_grant, blocks };
        let had_version = ChunkVersion(prepared.had_version);
        debug!(%chunk, %server, %version, %had_version, ?standing, stayed, "prepared");
        member.answer =
            Some(Answer { incarnation, found: prepared.found || !member.named, had_version, member: input });
        member.state = State::Answered;
        Ok(Step::Advance)
    }

    fn failed(&mut self, server: ServerId, state: State, result: &CommandResult) -> Step {
        warn!(chunk = %self.chunk, %server, ?state, status = ?result.status(), detail = result.detail, "a step of a recovery failed");
        let is_source = match &self.stage {
            Stage::Fixing { plan } => {
                plan.clean_source == Some(server)
                    || plan.fixes.iter().any(|(_, f)| f.fetches.iter().any(|(source, _)| *source == server))
            }
            _ => false,
        };
        let own_fault = matches!(result.status(), Status::IoError | Status::DiskFailed | Status::NoSpace);
        let Some(member) = self.member_mut(server) else { return Step::Stay };
        // A failed disk serves nothing; and what could not complete the new version has persisted that it is incomplete.
        if !member.named || (own_fault && !is_source) {
            member.state = State::LeftOut;
            return Step::Advance;
        }
        Step::Park(limits::RETRY)
    }

    pub(super) fn lost(&mut self, server: ServerId) -> Step {
        let Some(member) = self.member_mut(server) else { return Step::Stay };
        match member.state {
            State::Asked if member.named => member.state = State::Unasked,
            State::Joining | State::Fixing if member.named => return Step::Park(limits::RETRY),
            State::Asked | State::Joining | State::Fixing => member.state = State::LeftOut,
            _ => {}
        }
        Step::Stay
    }

    fn member(&self, server: ServerId) -> Option<&Member> {
        self.members.iter().find(|m| m.server == server)
    }

    fn member_mut(&mut self, server: ServerId) -> Option<&mut Member> {
        self.members.iter_mut().find(|m| m.server == server)
    }
}

/// W5: up since the ended grant's writes; without one, since it was named.
fn stayed(row: &Chunk, replica: Replica) -> bool {
    match row.intent.as_ref().and_then(|i| i.ended.as_ref()) {
        Some(ended) => ended.holders.contains(&replica),
        None => row.replicas.contains(&replica),
    }
}
