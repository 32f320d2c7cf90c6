//! The task that owns all the loops of one term: takes an event, lets the loops it concerns handle it, sends what they want out.

use std::sync::Arc;

use caribou_proto::chunk::v1::CommandResult;
use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, ServerId};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::context::{Cx, Proposal, Why};
use super::damaged::Damages;
use super::deps::{Deps, NotLeader};
use super::garbage::Collector;
use super::inventory::Inventories;
use super::limits;
use super::links::{Link, Links, Purpose, Room};
use super::liveness::Liveness;
use super::lost::Losses;
use super::recall::Recalls;
use super::recovery::Recovery;
use super::repair::Repair;
use super::sessions::Sessions;
use super::shared::Shared;
use super::strays::Strays;
use crate::fsm::error::Fatal;
use crate::fsm::reply::{Effect, Reply};

/// What happens to the leader.
pub(crate) enum Event {
    Attached {
        server: ServerId,
        link: Link,
        dirty: Vec<ChunkId>,
    },
    Heartbeat {
        server: ServerId,
        stream: u64,
        told: Told,
    },
    Result {
        server: ServerId,
        stream: u64,
        result: CommandResult,
    },
    Proposed {
        why: Why,
        outcome: Result<Vec<Reply>, NotLeader>,
    },
    /// Somebody wants to see what the task knows.
    Look(Box<dyn FnOnce(&Leading) + Send>),
}

/// What a heartbeat says of its server.
pub(crate) struct Told {
    pub(crate) room: Room,
    /// R3.
    pub(crate) lost: Vec<ChunkId>,
    /// R3: with the number of damaged blocks.
    pub(crate) damaged: Vec<(ChunkId, u32)>,
    /// R4: with the versions of the replicas.
    pub(crate) strays: Vec<(ChunkId, ChunkVersion)>,
}

/// All loops of one term.
pub(crate) struct Leading {
    deps: Deps,
    since: Instant,
    pub(crate) shared: Arc<Shared>,
    pub(crate) links: Links,
    pub(crate) liveness: Liveness,
    pub(crate) recovery: Recovery,
    recalls: Recalls,
    sessions: Sessions,
    pub(crate) repair: Repair,
    losses: Losses,
    damages: Damages,
    garbage: Collector,
    inventories: Inventories,
    strays: Strays,
}

/// Where events come from.
pub(crate) struct Inputs {
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) event_sender: mpsc::Sender<Event>,
    pub(crate) effects: mpsc::Receiver<Vec<Effect>>,
    /// Set when effects had to be dropped: everything is looked for again.
    pub(crate) overflow: Arc<std::sync::atomic::AtomicBool>,
    pub(crate) ended: CancellationToken,
}

impl Leading {
    pub(crate) fn new(deps: Deps, shared: Arc<Shared>, links: Links, now: Instant) -> Self {
        Self {
            deps,
            since: now,
            shared,
            links,
            liveness: Liveness::default(),
            recovery: Recovery::new(),
            recalls: Recalls::default(),
            sessions: Sessions::new(now),
            repair: Repair::new(now),
            losses: Losses::default(),
            damages: Damages::default(),
            garbage: Collector::default(),
            inventories: Inventories::default(),
            strays: Strays::default(),
        }
    }

    /// Runs until the term is over; `Err`: the node has to stop.
    pub(crate) async fn run(mut self, mut inputs: Inputs) -> Result<(), Fatal> {
        let mut tick = tokio::time::interval(limits::TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let proposals = tokio::select! {
                biased;
                () = inputs.ended.cancelled() => return Ok(()),
                Some(effects) = inputs.effects.recv() => self.effects(effects)?,
                Some(event) = inputs.events.recv() => match event {
                    Event::Proposed { outcome: Err(NotLeader), .. } => {
                        inputs.ended.cancel();
                        return Ok(());
                    }
                    event => self.handle(event)?,
                },
                _ = tick.tick() => {
                    if inputs.overflow.swap(false, std::sync::atomic::Ordering::AcqRel) {
                        self.rescan();
                    }
                    self.tick()?
                }
            };
            for proposal in proposals {
                self.propose(&inputs, proposal);
            }
        }
    }

    /// Queues the records now, so that their order is that of the decisions, and waits for the replies elsewhere.
    fn propose(&self, inputs: &Inputs, Proposal { why, commands }: Proposal) {
        let replies = self.deps.proposer.propose(commands);
        let (events, ended) = (inputs.event_sender.clone(), inputs.ended.clone());
        tokio::spawn(async move {
            tokio::select! {
                outcome = replies => { let _ = events.send(Event::Proposed { why, outcome }).await; }
                () = ended.cancelled() => {}
            }
        });
    }

    /// Runs one handler on a fresh view; returns what it wants to propose.
    fn with(
        &mut self,
        handle: impl FnOnce(&mut Loops<'_>, &mut Cx<'_>) -> Result<(), Fatal>,
    ) -> Result<Vec<Proposal>, Fatal> {
        let mut proposals = Vec::new();
        let view = self.deps.view.clone();
        // The index first: the view is at least as new.
        let applied = view.applied_index();
        let tables = view.tables();
        let mut cx = Cx {
            now: Instant::now(),
            since: self.since,
            tables: &*tables,
            applied,
            links: &mut self.links,
            shared: &self.shared,
            proposals: &mut proposals,
        };
        let mut loops = Loops {
            liveness: &mut self.liveness,
            recovery: &mut self.recovery,
            recalls: &mut self.recalls,
            sessions: &mut self.sessions,
            repair: &mut self.repair,
            losses: &mut self.losses,
            damages: &mut self.damages,
            garbage: &mut self.garbage,
            inventories: &mut self.inventories,
            strays: &mut self.strays,
        };
        handle(&mut loops, &mut cx)?;
        loops.detach_ended(&mut cx)?;
        Ok(proposals)
    }

    pub(crate) fn tick(&mut self) -> Result<Vec<Proposal>, Fatal> {
        self.with(|loops, cx| {
            loops.liveness.tick(cx, loops.garbage, loops.recovery)?;
            loops.recovery.tick(cx)?;
            loops.recalls.tick(cx)?;
            loops.sessions.tick(cx)?;
            loops.repair.tick(cx, loops.garbage, loops.recovery)?;
            loops.garbage.tick(cx)?;
            loops.inventories.tick(cx)?;
            loops.strays.tick(cx)
        })
    }

    fn rescan(&mut self) {
        tracing::info!("effects were dropped; the state is scanned");
        self.recovery.rescan();
        self.repair.rescan();
        self.garbage.rescan();
        self.sessions.rescan(Instant::now());
    }

    pub(crate) fn effects(&mut self, effects: Vec<Effect>) -> Result<Vec<Proposal>, Fatal> {
        self.with(|loops, cx| effects.into_iter().try_for_each(|effect| loops.effect(cx, effect)))
    }

    pub(crate) fn handle(&mut self, event: Event) -> Result<Vec<Proposal>, Fatal> {
        match event {
            Event::Look(look) => {
                look(self);
                Ok(Vec::new())
            }
            Event::Attached { server, link, dirty } => self.with(|loops, cx| loops.attached(cx, server, link, dirty)),
            Event::Heartbeat { server, stream, told } => self.with(|loops, cx| {
                if cx.links.get(server).is_none_or(|l| l.stream != stream) {
                    return Ok(());
                }
                loops.liveness.room(cx, server, told.room)?;
                let about = (&*loops.inventories, &*loops.damages, loops.recovery.under_way());
                loops.losses.heartbeat(cx, about, server, &told.lost)?;
                let about = (&*loops.inventories, &*loops.losses);
                loops.damages.heartbeat(cx, about, loops.recovery, server, &told.damaged)?;
                let about = (&*loops.inventories, &*loops.losses, &*loops.damages, &*loops.repair);
                loops.strays.heartbeat(cx, about, server, &told.strays)
            }),
            Event::Result { server, stream, result } => self.with(|loops, cx| {
                let Some(purpose) = cx.links.answered(server, stream, &result) else { return Ok(()) };
                loops.result(cx, server, purpose, result)
            }),
            Event::Proposed { why, outcome } => match outcome {
                Ok(replies) => self.with(|loops, cx| loops.proposed(cx, why, replies)),
                Err(NotLeader) => Ok(Vec::new()),
            },
        }
    }
}

/// The loops, while the links are borrowed by the context.
struct Loops<'a> {
    liveness: &'a mut Liveness,
    recovery: &'a mut Recovery,
    recalls: &'a mut Recalls,
    sessions: &'a mut Sessions,
    repair: &'a mut Repair,
    losses: &'a mut Losses,
    damages: &'a mut Damages,
    garbage: &'a mut Collector,
    inventories: &'a mut Inventories,
    strays: &'a mut Strays,
}

impl Loops<'_> {
    fn effect(&mut self, cx: &mut Cx<'_>, effect: Effect) -> Result<(), Fatal> {
        match effect {
            Effect::IntentStarted(chunk) => self.recovery.intent_started(cx, chunk)?,
            Effect::RecallGrant { chunk, grant, .. } => self.recalls.recalled(cx.now, chunk, grant),
            Effect::Garbage(server) => self.garbage.added(server),
            Effect::BelowGoal(chunk) => self.repair.below_goal(chunk),
            Effect::SessionEnded(session) => {
                cx.shared.claims.lock().session_ended(session);
                cx.shared.seen.forget(session);
            }
            Effect::ServerChanged(_) => self.liveness.changed(),
            // Somebody had the claims (`LeaderHandle::effects`).
            Effect::Orphaned(inode) => cx.shared.claims.lock().orphaned(inode),
            Effect::ChunkChanged(_) => {}
        }
        Ok(())
    }

    fn attached(&mut self, cx: &mut Cx<'_>, server: ServerId, link: Link, dirty: Vec<ChunkId>) -> Result<(), Fatal> {
        if cx.links.get(server).is_some_and(|older| older.stream > link.stream) {
            link.ended.cancel();
            return Ok(());
        }
        let stream = link.stream;
        let given_up = cx.links.attach(server, link);
        self.gave_up(cx, server, given_up)?;
        self.liveness.attached(cx, server, stream, dirty);
        self.garbage.server_attached(cx.now, server);
        self.inventories.server_attached(cx.now, server);
        // Deletions go ahead of what recoveries want of the server.
        self.liveness.open_gate(cx, self.garbage, self.recovery, server)?;
        self.recovery.server_attached(cx, server)
    }

    fn detach_ended(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        for (server, given_up) in cx.links.take_ended() {
            self.liveness.detached(cx, server);
            self.garbage.server_detached(server);
            self.losses.server_detached(server);
            self.damages.server_detached(server);
            self.inventories.server_detached(server);
            self.strays.server_detached(server);
            self.gave_up(cx, server, given_up)?;
        }
        Ok(())
    }

    fn gave_up(&mut self, cx: &mut Cx<'_>, server: ServerId, given_up: Vec<Purpose>) -> Result<(), Fatal> {
        for purpose in given_up {
            match purpose {
                Purpose::Recovery { chunk, round } => self.recovery.lost(cx, (chunk, round), server)?,
                Purpose::Repair { chunk, round } => self.repair.lost(cx, (chunk, round)),
                Purpose::Delete { .. } => {}
            }
        }
        Ok(())
    }

    fn result(
        &mut self,
        cx: &mut Cx<'_>,
        server: ServerId,
        purpose: Purpose,
        result: CommandResult,
    ) -> Result<(), Fatal> {
        match purpose {
            Purpose::Recovery { chunk, round } => self.recovery.result(cx, (chunk, round), server, result),
            Purpose::Repair { chunk, round } => self.repair.result(cx, self.recovery, (chunk, round), result),
            Purpose::Delete { chunk, version } => {
                self.garbage.deleted(server, (chunk, version), &result);
                Ok(())
            }
        }
    }

    fn proposed(&mut self, cx: &mut Cx<'_>, why: Why, replies: Vec<Reply>) -> Result<(), Fatal> {
        let reply = replies.first().cloned().unwrap_or(Reply::Refused("no reply"));
        match why {
            Why::Hint | Why::Raise(_) => {}
            Why::StartIntents(count) => self.recovery.started(count),
            Why::ServerDown(server, incarnation) => self.liveness.downed(server, Incarnation(incarnation.0)),
            Why::Ready { chunk, round } => self.recovery.committed(cx, chunk, round, &reply)?,
            Why::AddIdle(sessions) => cx.shared.seen.finish(&sessions),
            Why::Expire(session) => self.sessions.expired(cx, session, &reply),
            Why::Forget => self.sessions.forgot(cx.now, &reply),
            Why::Purge(inodes) => {
                let finished = reply == Reply::Progress { finished: true };
                cx.shared.claims.lock().purged(&inodes, finished);
            }
            Why::RepairDone(chunk) => self.repair.committed(cx, chunk, &reply),
            Why::Garbage { server, chunks } => self.garbage.committed(server, &chunks),
        }
        Ok(())
    }
}
