//! The adapter between the Raft library and the state: committed entries in, replies and events out; snapshots made and installed.
//!
//! Long work and all that copies files runs on threads that may block; brief work is done where it comes in. An error ends the node
//! (STACK, openraft 8).

use std::io;
use std::sync::Arc;

use caribou_failpoints::{self as failpoints, Point};
use futures::{Stream, StreamExt as _};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use tokio::sync::watch;

use super::api::{EventSink, StateEvent};
use super::config::{MAX_APPLY_BYTES, MAX_APPLY_ENTRIES, MAX_INLINE_APPLY_BYTES};
use super::log_store::LogHandle;
use super::snapshot::{SnapshotData, SnapshotStore};
use super::state::{Outcome, StateError, StateStore, Work};
use super::surroundings::Blocking;
use super::types::{EntryPayload, LogId, Snapshot, SnapshotMeta, StoredMembership, TypeConfig};

type Responder = ApplyResponder<TypeConfig>;

/// The replicated state as the library drives it.
pub(crate) struct StateMachine {
    state: Arc<StateStore>,
    snapshots: Arc<SnapshotStore>,
    log: LogHandle,
    events: EventSink,
    applied: watch::Sender<u64>,
    blocking: Blocking,
}

impl StateMachine {
    pub(crate) fn new(
        state: Arc<StateStore>,
        snapshots: Arc<SnapshotStore>,
        log: LogHandle,
        events: EventSink,
        applied: watch::Sender<u64>,
        blocking: Blocking,
    ) -> Self {
        applied.send_replace(state.applied_index());
        Self { state, snapshots, log, events, applied, blocking }
    }

    async fn apply_group(&self, group: Group) -> io::Result<()> {
        if group.entries.is_empty() {
            return Ok(());
        }
        let Group { entries, responders, last, bytes } = group;
        let Outcome { replies, effects } = self.apply_entries(entries, bytes).await?;
        // Order: seen in views, then told to the leader's loops, then answered (S7: claims before replies).
        self.applied.send_replace(last);
        (self.events)(StateEvent::Applied { index: last, effects });
        for (responder, replies) in responders.into_iter().zip(replies) {
            if let Some(responder) = responder {
                responder.send(replies);
            }
        }
        Ok(())
    }

    /// Brief work costs less than a change of threads and back, as long as it finds all in memory: elections and heartbeats are on this thread
    /// too. First whoever the last group has woken gets it: Raft's core.
    async fn apply_entries(&self, entries: Vec<(LogId, EntryPayload)>, bytes: usize) -> io::Result<Outcome> {
        let state = Arc::clone(&self.state);
        if bytes > MAX_INLINE_APPLY_BYTES {
            return blocking(&self.blocking, move || state.apply(&decode(entries)?)).await;
        }
        tokio::task::yield_now().await;
        let work = decode(entries)?;
        if work.iter().all(|(_, work)| work.is_brief())
            && let Some(outcome) = state.apply_in_memory(&work)?
        {
            return Ok(outcome);
        }
        blocking(&self.blocking, move || state.apply(&work)).await
    }
}

fn decode(entries: Vec<(LogId, EntryPayload)>) -> Result<Vec<(LogId, Work)>, StateError> {
    entries.into_iter().map(|(id, payload)| Ok((id, Work::decode(id.index(), payload)?))).collect()
}

/// Entries that are applied together.
#[derive(Default)]
struct Group {
    entries: Vec<(LogId, EntryPayload)>,
    responders: Vec<Option<Responder>>,
    bytes: usize,
    last: u64,
}

impl Group {
    fn push(&mut self, item: EntryResponder<TypeConfig>) {
        let (entry, responder) = item;
        if let EntryPayload::Normal(payload) = &entry.payload {
            self.bytes += payload.0.len();
        }
        self.last = entry.log_id.index();
        self.entries.push((entry.log_id, entry.payload));
        self.responders.push(responder);
    }

    fn is_full(&self) -> bool {
        self.entries.len() >= MAX_APPLY_ENTRIES || self.bytes >= MAX_APPLY_BYTES
    }
}

async fn blocking<T, E>(place: &Blocking, work: impl FnOnce() -> Result<T, E> + Send + 'static) -> io::Result<T>
where
    T: Send + 'static,
    E: Into<io::Error> + Send + 'static,
{
    place.run(work).await?.map_err(Into::into)
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotData;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let applied = self.state.applied();
        Ok((applied.log_id, applied.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + Send,
    {
        let mut group = Group::default();
        while let Some(item) = entries.next().await {
            group.push(item?);
            if group.is_full() {
                self.apply_group(std::mem::take(&mut group)).await?;
            }
        }
        self.apply_group(group).await
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        let (state, snapshots) = (Arc::clone(&self.state), Arc::clone(&self.snapshots));
        Builder { state, snapshots, log: self.log.clone(), blocking: self.blocking.clone() }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotData) -> io::Result<()> {
        // A truncation that is still queued must not be overtaken by the new state (STACK, RocksDB).
        self.log.sync().await?;
        failpoints::pass(Point::InstallBegun);
        let (state, snapshots, meta) = (Arc::clone(&self.state), Arc::clone(&self.snapshots), meta.clone());
        blocking(&self.blocking, move || snapshots.install(&state, &meta, snapshot)).await?;
        failpoints::pass(Point::InstallDone);
        let index = self.state.applied_index();
        tracing::info!(index, "a snapshot has been installed");
        self.applied.send_replace(index);
        (self.events)(StateEvent::Installed { index });
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        Ok(self.snapshots.current().map(|c| Snapshot { meta: c.meta(), snapshot: SnapshotData::Checkpoint(c) }))
    }
}

/// Makes a checkpoint while entries go on being applied.
pub(crate) struct Builder {
    state: Arc<StateStore>,
    snapshots: Arc<SnapshotStore>,
    log: LogHandle,
    blocking: Blocking,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotData;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        // A checkpoint makes the state durable, which must not be ahead of the log.
        self.log.sync().await?;
        let (state, snapshots) = (Arc::clone(&self.state), Arc::clone(&self.snapshots));
        let checkpoint = blocking(&self.blocking, move || snapshots.build(&state)).await?;
        Ok(Snapshot { meta: checkpoint.meta(), snapshot: SnapshotData::Checkpoint(checkpoint) })
    }
}
