//! One metadata node as its services see it: Raft, the loops of the term that it leads, the streams of its clients.
//!
//! Applied events come in through [`Node::event`], called from the apply loop: it never blocks. [`Node::follow_leadership`] starts the
//! leader's loops when this node becomes ready and ends them, with all session streams, when it is not any more.

use std::collections::HashMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use caribou_proto::cluster::v1::{ClusterId, MetaNode};
use caribou_proto::ids::{MAX_INLINE_BYTES, ServerId, SessionId};
use caribou_proto::meta::v1::{RecallGrant, server_message};
use parking_lot::RwLock;
use tokio::sync::{mpsc, watch};

use super::registry::Registry;
use super::seam::{Seam, is_over};
use super::waiters::ChunkWaiters;
use crate::config::LimitsConfig;
use crate::fsm::error::Fatal;
use crate::fsm::reply::Effect;
use crate::fsm::tables::{chunks, servers, session_grants};
use crate::leader::{self, Deps, Leader, LeaderHandle};
use crate::raft::{FatalError, RaftNode, StateEvent};

/// Grants of one session that are looked through at once for recalls.
const GRANTS_PAGE: usize = 256;

/// What operators see of the service.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) replies_from_table: AtomicU64,
    pub(crate) queries: AtomicU64,
    /// Of sessions, in both directions.
    pub(crate) messages: AtomicU64,
}

/// Everything that the services of this node share.
pub(crate) struct Node {
    raft: OnceLock<RaftNode>,
    pub(crate) registry: Registry,
    pub(crate) waiters: ChunkWaiters,
    pub(crate) limits: LimitsConfig,
    pub(crate) counters: Counters,
    leading: watch::Sender<Option<LeaderHandle>>,
    addresses: RwLock<HashMap<ServerId, String>>,
    fatal: mpsc::UnboundedSender<FatalError>,
}

impl Node {
    /// A node whose Raft starts next; the receiver tells when it must stop.
    pub(crate) fn new(limits: LimitsConfig) -> (Arc<Self>, mpsc::UnboundedReceiver<FatalError>) {
        let (fatal, told) = mpsc::unbounded_channel();
        let node = Self {
            raft: OnceLock::new(),
            registry: Registry::new(limits.sessions),
            waiters: ChunkWaiters::default(),
            limits,
            counters: Counters::default(),
            leading: watch::Sender::new(None),
            addresses: RwLock::default(),
            fatal,
        };
        (Arc::new(node), told)
    }

    /// Gives the node its Raft, once.
    pub(crate) fn set_raft(&self, raft: RaftNode) {
        assert!(self.raft.set(raft).is_ok(), "a node's Raft is started once");
    }

    pub(crate) fn raft(&self) -> &RaftNode {
        self.raft.get().expect("services run only after Raft has started")
    }

    /// The loops of the term that this node leads, once they run.
    pub(crate) fn leading(&self) -> Option<LeaderHandle> {
        self.leading.borrow().clone()
    }

    /// As [`Node::leading`], but waits while an election may be under way: until this node leads, another one is known to, or `patience` is
    /// over. So clients that ask during an election are answered the moment it is decided, instead of asking again and again.
    pub(crate) async fn leading_soon(&self, patience: Duration) -> Option<LeaderHandle> {
        let mut here = self.leading.subscribe();
        let mut state = self.raft().leader();
        let before = state.borrow_and_update().leader_id;
        let elsewhere = async {
            loop {
                let leader = state.borrow_and_update().leader_id;
                if leader != before && leader.is_some_and(|id| id != self.raft().node_id()) {
                    return;
                }
                if state.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            found = here.wait_for(Option::is_some) => found.ok().and_then(|leading| leading.clone()),
            () = elsewhere => None,
            () = tokio::time::sleep(patience) => None,
        }
    }

    /// Where a chunk server's data service listens.
    pub(crate) fn address_of(&self, server: ServerId) -> String {
        if let Some(address) = self.addresses.read().get(&server) {
            return address.clone();
        }
        self.load_addresses();
        self.addresses.read().get(&server).cloned().unwrap_or_default()
    }

    fn load_addresses(&self) {
        match servers::all(&self.raft().view()) {
            Ok(all) => *self.addresses.write() = all.into_iter().map(|(id, s)| (id, s.address)).collect(),
            Err(fatal) => self.stop(&fatal),
        }
    }

    /// All metadata nodes, on the wire.
    pub(crate) fn meta_nodes(&self) -> Vec<MetaNode> {
        let node = |m: crate::raft::Member| MetaNode { node_id: m.node_id.0, address: m.address, voter: m.voter };
        self.raft().members().into_iter().map(node).collect()
    }

    /// Storage failed or an invariant is broken: the process ends, its supervisor starts it again.
    pub(crate) fn stop(&self, fatal: &Fatal) {
        tracing::error!(%fatal, "this metadata node must stop");
        // Fails when the process is ending already.
        let _ = self.fatal.send(FatalError(fatal.to_string()));
    }

    /// I1: bytes of a file that clients may write into the metadata.
    pub(crate) fn inline_limit(&self) -> u32 {
        u32::try_from(self.limits.inline_data.as_u64()).unwrap_or(MAX_INLINE_BYTES).min(MAX_INLINE_BYTES)
    }

    /// Takes what the apply loop tells; never blocks.
    pub(crate) fn event(&self, event: StateEvent) {
        match event {
            StateEvent::Applied { effects, .. } => {
                if effects.is_empty() {
                    return;
                }
                for effect in &effects {
                    self.take(effect);
                }
                if let Some(leading) = self.leading() {
                    leading.effects(effects);
                }
            }
            StateEvent::Installed { .. } => {
                self.addresses.write().clear();
                self.waiters.wake_all();
            }
        }
    }

    fn take(&self, effect: &Effect) {
        match effect {
            Effect::ChunkChanged(chunk) | Effect::IntentStarted(chunk) => self.waiters.wake(*chunk),
            Effect::RecallGrant { session, inode, index, chunk, grant } => {
                let recall = RecallGrant { inode: inode.0, index: *index, chunk: chunk.0, grant: grant.0 };
                self.registry.push(*session, server_message::Body::RecallGrant(recall));
            }
            Effect::SessionEnded(session) => {
                self.registry.push(*session, server_message::Body::SessionExpired(Default::default()));
            }
            Effect::ServerChanged(_) => self.addresses.write().clear(),
            Effect::Orphaned(_) | Effect::Garbage(_) | Effect::BelowGoal(_) => {}
        }
    }

    /// W8: recalls that were committed before the session's stream came here.
    pub(crate) fn push_recalls(&self, session: SessionId) -> Result<(), Fatal> {
        let view = self.raft().view();
        let mut after = None;
        loop {
            let page = session_grants::page(&view, session, after, GRANTS_PAGE)?;
            for id in &page {
                let Some(chunk) = chunks::get(&view, *id)? else { continue };
                if let Some(grant) = chunk.grant.filter(|g| g.recalled && g.session == session) {
                    let recall =
                        RecallGrant { inode: chunk.inode.0, index: chunk.index, chunk: id.0, grant: grant.id.0 };
                    self.registry.push(session, server_message::Body::RecallGrant(recall));
                }
            }
            if page.len() < GRANTS_PAGE {
                return Ok(());
            }
            after = page.last().copied();
        }
    }

    /// Runs the leader's loops exactly while this node is the ready leader of a term.
    pub(crate) async fn follow_leadership(self: Arc<Self>) {
        let mut leader = self.raft().leader();
        loop {
            let state = leader.borrow_and_update().clone();
            let running = self.leading().map(|l| l.term());
            let wanted = state.ready.then_some(state.term);
            if running != wanted {
                if running.is_some() {
                    self.end();
                }
                if let Some(term) = wanted {
                    self.lead(term);
                }
            }
            if leader.changed().await.is_err() {
                return;
            }
        }
    }

    /// Ends the loops and all session streams: nothing of this node is to go on.
    pub(crate) fn end(&self) {
        if let Some(over) = self.leading.send_replace(None) {
            over.stop();
        }
        self.registry.end_all();
        self.waiters.wake_all();
    }

    fn lead(self: &Arc<Self>, term: u64) {
        let Some(cluster) = self.raft().cluster() else { return };
        let seam = Arc::new(Seam::start(self.raft().clone(), term));
        let deps = Deps { proposer: seam.clone(), view: seam.clone(), lease: seam };
        let (handle, task) = Leader::start(term, cluster.generation, deps);
        self.leading.send_replace(Some(handle));
        let node = self.clone();
        tokio::spawn(async move {
            match task.await {
                Ok(Ok(())) if is_over(&node.raft().leader().borrow(), term) => {}
                // Nobody would start them again before the next term.
                Ok(Ok(())) => node.stop(&Fatal(format!("the leader's loops have ended within term {term}"))),
                Ok(Err(fatal)) => node.stop(&fatal),
                Err(error) => node.stop(&Fatal(format!("the leader's task failed: {error}"))),
            }
        });
    }
}

impl leader::control::Host for Node {
    fn leader(&self) -> Option<LeaderHandle> {
        self.leading()
    }

    fn cluster(&self) -> Option<ClusterId> {
        self.raft().cluster().map(Into::into)
    }

    fn leader_hint(&self) -> (u64, String) {
        self.raft().leader_hint().map_or((0, String::new()), |hint| (hint.node_id.0, hint.address))
    }

    fn nodes(&self) -> Vec<MetaNode> {
        self.meta_nodes()
    }
}
