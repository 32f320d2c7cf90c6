//! The leader's commands: Prepare, Fix and Delete (F2, V1, R4). Each runs in a task of its own and is answered once.
//!
//! Invariants: (generation, term) is durable before a command is obeyed, lower ones are refused; a completed one is confirmed,
//! not repeated; when its stream ends, a command that waits is dropped and a Fix is given up – the next leader begins again at
//! Prepare. A Prepare or Delete ends the Fixes that were taken before it (`fixing`). One that was dropped or failed on this side
//! leaves its chunk out of service until one is carried out (M3): the leader counts on it from the moment it is taken, and the
//! read lease may outlive the stream. What a recovery consists of is the leader's plan; nothing is decided here.

use crate::control::Session;
use crate::fetch;
use crate::fixing::{Ending, Fixing, Running};
use crate::limits;
use crate::server::ChunkServer;
use crate::service::status::{detail_of, status_of};
use crate::store;
use caribou_planted::{self as planted, Bug};
use caribou_proto::chunk::v1::command::Body;
use caribou_proto::chunk::v1::{
    Command, CommandResult, Delete, Fix, FromServer, Prepare, Prepared, Status, from_server,
};
use caribou_proto::ids::{ChunkId, ChunkVersion, GrantId};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tracing::{debug, info, warn};

/// Limits of the commands, and which chunks they are about to take out of service.
pub(crate) struct Commands {
    pending: Mutex<HashMap<ChunkId, usize>>,
    /// M3: chunks that a Prepare or Delete was to take out of service, and has not. Each has an Intent or garbage row that the next
    /// leader carries out, so the set is as small as their backlog.
    withdrawn: Mutex<HashSet<ChunkId>>,
    all: Arc<Semaphore>,
    short: Semaphore,
    fixes: Semaphore,
    fixing: Arc<Fixing>,
}

impl Commands {
    pub(crate) fn new(parallel_fixes: usize) -> Self {
        Self {
            pending: Mutex::default(),
            withdrawn: Mutex::default(),
            all: Arc::new(Semaphore::new(limits::COMMANDS)),
            short: Semaphore::new(limits::SHORT_COMMANDS),
            fixes: Semaphore::new(parallel_fixes),
            fixing: Arc::default(),
        }
    }

    /// A Prepare or Delete of the chunk has been received and not been carried out yet.
    pub(crate) fn pending(&self, chunk: ChunkId) -> bool {
        self.pending.lock().contains_key(&chunk) || self.withdrawn.lock().contains(&chunk)
    }

    /// Keeps Prepare and Delete commands waiting until the guard is dropped.
    #[cfg(test)]
    pub(crate) async fn hold_short(&self) -> tokio::sync::SemaphorePermit<'_> {
        let all = u32::try_from(limits::SHORT_COMMANDS).expect("a small number");
        self.short.acquire_many(all).await.expect("never closed")
    }

    /// Keeps Fix commands waiting until the guard is dropped. None may be at work.
    #[cfg(test)]
    pub(crate) async fn hold_fixes(&self) -> tokio::sync::SemaphorePermit<'_> {
        let all = u32::try_from(self.fixes.available_permits()).expect("a small number");
        self.fixes.acquire_many(all).await.expect("never closed")
    }
}

/// Keeps a chunk marked as about to leave service.
struct Mark {
    server: Arc<ChunkServer>,
    chunk: ChunkId,
    /// The command has had its effect, or was not to have any.
    settled: bool,
}

impl Mark {
    fn new(server: &Arc<ChunkServer>, chunk: ChunkId) -> Self {
        *server.commands.pending.lock().entry(chunk).or_insert(0) += 1;
        Self { server: server.clone(), chunk, settled: false }
    }

    /// M3: what was carried out, or refused for good (an older term, a newer replica), needs no mark any more.
    fn settle(mut self, outcome: &Result<Option<Prepared>, Failed>) {
        self.settled = match outcome {
            Ok(_) => {
                self.server.commands.withdrawn.lock().remove(&self.chunk);
                true
            }
            Err(failed) => {
                !matches!(failed.status, Status::IoError | Status::DiskFailed | Status::NoSpace | Status::NotYet)
            }
        };
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        if !self.settled {
            // Before the mark goes, so that no reader finds neither.
            self.server.commands.withdrawn.lock().insert(self.chunk);
        }
        let mut pending = self.server.commands.pending.lock();
        if let Some(count) = pending.get_mut(&self.chunk) {
            *count -= 1;
            if *count == 0 {
                pending.remove(&self.chunk);
            }
        }
    }
}

/// Why a command was not carried out.
pub(crate) struct Failed {
    pub(crate) status: Status,
    pub(crate) detail: String,
}

impl From<store::Error> for Failed {
    fn from(error: store::Error) -> Self {
        Self { status: status_of(&error), detail: detail_of(&error) }
    }
}

/// What a command is to the Fixes of its chunk. Settled in the order of the stream.
fn place(fixing: &Arc<Fixing>, command: &Command) -> (Option<Running>, Ending) {
    let chunk = ChunkId(command.chunk);
    match &command.body {
        Some(Body::Fix(fix)) => (Some(fixing.begin(chunk, ChunkVersion(fix.version))), Ending::default()),
        Some(Body::Prepare(prepare)) => (None, fixing.end(chunk, ChunkVersion(prepare.version))),
        Some(Body::Delete(delete)) => (None, fixing.end(chunk, ChunkVersion(delete.up_to_version))),
        None => (None, Ending::default()),
    }
}

/// Resolves when a later command has ended this one.
async fn given_up(running: Option<&Running>) {
    match running {
        Some(running) => running.given_up().await,
        None => std::future::pending().await,
    }
}

/// Takes a command off the stream. The mark is set, and earlier Fixes are told to end, before this returns (F2).
pub(crate) fn take(server: &Arc<ChunkServer>, session: &Session, command: Command) {
    let (server, session) = (server.clone(), session.clone());
    let takes_out = !matches!(command.body, Some(Body::Fix(_)));
    let mark = takes_out.then(|| Mark::new(&server, ChunkId(command.chunk)));
    let (running, earlier) = place(&server.commands.fixing, &command);
    let slot = server.commands.all.clone().try_acquire_owned();
    let work = server.work.clone();
    work.spawn(async move {
        let id = command.id;
        let outcome = match slot {
            Ok(_slot) => tokio::select! {
                biased;
                () = session.ended.cancelled() => return,
                () = given_up(running.as_ref()) => {
                    Err(Failed { status: Status::NotYet, detail: "a later command has ended this Fix".to_owned() })
                }
                outcome = carry_out(&server, &session, command, &earlier) => outcome,
            },
            Err(_) => Err(Failed { status: Status::NotYet, detail: "too many commands at once".to_owned() }),
        };
        // What waits for the end of a Fix does not wait for the leader to read its answer.
        drop(running);
        if let Some(mark) = mark {
            mark.settle(&outcome);
        }
        let result = match outcome {
            Ok(prepared) => CommandResult { id, status: Status::Ok as i32, detail: String::new(), prepared },
            Err(failed) => CommandResult { id, status: failed.status as i32, detail: failed.detail, prepared: None },
        };
        let message = FromServer { body: Some(from_server::Body::Result(result)) };
        tokio::select! {
            _ = session.outbound.send(message) => {}
            () = session.ended.cancelled() => {}
        }
    });
}

async fn carry_out(
    server: &Arc<ChunkServer>,
    session: &Session,
    command: Command,
    earlier: &Ending,
) -> Result<Option<Prepared>, Failed> {
    let chunk = ChunkId(command.chunk);
    let Some(body) = command.body else {
        warn!(%chunk, "the leader sent a command that this version does not know; upgrade this server");
        return Err(Failed {
            status: Status::Invalid,
            detail: "unknown command: upgrade this chunk server".to_owned(),
        });
    };
    let slots = if matches!(body, Body::Fix(_)) { &server.commands.fixes } else { &server.commands.short };
    let _slot = slots.acquire().await.expect("never closed");
    // F1, F2: as late as possible, a newer leader may have come while this waited.
    if command.generation != u32::from(session.generation) {
        let detail =
            format!("the command is of generation {}, the stream of {}", command.generation, session.generation);
        return Err(Failed { status: Status::Invalid, detail });
    }
    server.store.fence(session.generation, command.term).await?;
    server.stats.commanded();
    earlier.gone().await;
    match body {
        Body::Prepare(prepare) => self::prepare(server, chunk, prepare).await.map(Some),
        Body::Fix(fix) => self::fix(server, chunk, fix).await.map(|()| None),
        Body::Delete(delete) => self::delete(server, chunk, delete).await.map(|()| None),
    }
}

/// V1: the version is durable, and incomplete, before the answer.
async fn prepare(server: &ChunkServer, chunk: ChunkId, prepare: Prepare) -> Result<Prepared, Failed> {
    let Prepare { version, join, old_grant } = prepare;
    let version = ChunkVersion(version);
    let prepared = server.store.prepare(store::Prepare { chunk, version, join, old_grant: GrantId(old_grant) }).await?;
    server.streams.fence(chunk, version);
    debug!(%chunk, %version, found = prepared.found, had = %prepared.had_version, clean = prepared.clean, same_boot = prepared.same_boot, "prepared");
    Ok(Prepared {
        found: prepared.found,
        had_version: prepared.had_version.0,
        last_grant: prepared.last_grant.0,
        clean: prepared.clean,
        same_boot: prepared.same_boot,
        blocks: prepared.blocks,
        incarnation: prepared.incarnation.0,
    })
}

/// V1: fetched, cut, summed, durable, then complete.
async fn fix(server: &ChunkServer, chunk: ChunkId, fix: Fix) -> Result<(), Failed> {
    let version = ChunkVersion(fix.version);
    if is_complete(server, chunk, version) {
        return Ok(());
    }
    match carry_out_fix(server, chunk, version, &fix).await {
        // F2: the same command, sent twice, met itself: Fixes of earlier rounds ended at this round's Prepare.
        Err(failed) if failed.status == Status::WrongVersion && is_complete(server, chunk, version) => Ok(()),
        outcome => outcome,
    }
}

async fn carry_out_fix(server: &ChunkServer, chunk: ChunkId, version: ChunkVersion, fix: &Fix) -> Result<(), Failed> {
    let mut fetched = 0;
    for source in &fix.fetches {
        fetched += fetch::fetch(server, chunk, version, source).await?;
    }
    if let Some(length) = fix.cut_length {
        server.store.cut(chunk, version, length).await?;
    }
    if fix.resum_damaged {
        let blocks = server.store.resum_damaged(chunk, version).await?;
        if blocks > 0 {
            warn!(%chunk, %version, blocks, "no copy of damaged blocks holds; they were summed as they are");
        }
    }
    server.store.complete(chunk, version).await?;
    debug!(%chunk, %version, fetched, cut = fix.cut_length, "fixed");
    Ok(())
}

fn is_complete(server: &ChunkServer, chunk: ChunkId, version: ChunkVersion) -> bool {
    server.store.replica(chunk).is_some_and(|replica| replica.complete && replica.version == version)
}

/// R4: into the quarantine.
async fn delete(server: &Arc<ChunkServer>, chunk: ChunkId, delete: Delete) -> Result<(), Failed> {
    let up_to = ChunkVersion(delete.up_to_version);
    server.store.delete(chunk, up_to, server.clock.unix_ms()).await?;
    server.streams.fence(chunk, ChunkVersion(delete.up_to_version.saturating_add(1)));
    info!(%chunk, %up_to, "a replica was deleted into the quarantine");
    if planted::is(Bug::DeletionRepeated) {
        server.work.spawn(delete_again(server.clone(), chunk));
    }
    Ok(())
}

/// What a planted bug does.
async fn delete_again(server: Arc<ChunkServer>, chunk: ChunkId) {
    for _ in 0..60 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        // Where nothing is there, and where the power is off, nothing happens.
        let _ = server.store.delete(chunk, ChunkVersion(u64::MAX), server.clock.unix_ms()).await;
    }
}
