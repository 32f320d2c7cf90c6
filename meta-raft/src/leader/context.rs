//! What a loop works with while it handles one event.

use caribou_planted::{self as planted, Bug};
use caribou_proto::chunk::v1::Prepare;
use caribou_proto::chunk::v1::command::Body;
use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::{ChunkId, ChunkVersion, Incarnation, ServerId, SessionId};
use tokio::time::Instant;

use super::limits;
use super::links::{Links, Purpose};
use super::shared::Shared;
use crate::fsm::command::Command;
use crate::fsm::error::Fatal;
use crate::fsm::tables::{Tables, chunks, servers};

/// The time, one view of the state, the links, and the records to propose.
pub(crate) struct Cx<'a> {
    pub(crate) now: Instant,
    /// When this node became leader: its predecessor's answers to chunk servers are not older (ADR 7).
    pub(crate) since: Instant,
    pub(crate) tables: &'a dyn Tables,
    pub(crate) applied: u64,
    pub(crate) links: &'a mut Links,
    pub(crate) shared: &'a Shared,
    pub(crate) proposals: &'a mut Vec<Proposal>,
}

/// Records to propose together, and whom their replies concern.
#[derive(Debug)]
pub(crate) struct Proposal {
    pub(crate) why: Why,
    pub(crate) commands: Vec<Command>,
}

/// Whom the replies of a proposal concern.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nobody: the effects tell what came of it.
    Hint,
    ServerDown(ServerId, Incarnation),
    /// So many Intents that nobody has asked for.
    StartIntents(usize),
    /// A version is raised before the next round of a recovery.
    Raise(ChunkId),
    Ready {
        chunk: ChunkId,
        round: u64,
    },
    AddIdle(Vec<SessionId>),
    Expire(SessionId),
    Forget,
    Purge(Vec<caribou_proto::ids::InodeId>),
    RepairDone(ChunkId),
    Garbage {
        server: ServerId,
        chunks: Vec<(ChunkId, ChunkVersion)>,
    },
}

impl Cx<'_> {
    pub(crate) fn propose(&mut self, why: Why, commands: Vec<Command>) {
        if planted::is(Bug::PreparedBeforeCommit) {
            commands.iter().for_each(|command| self.prepare_early(command));
        }
        self.proposals.push(Proposal { why, commands });
    }

    /// Sends a command on the server's control stream; false if there is none, or no room.
    pub(crate) fn send(&mut self, server: ServerId, chunk: ChunkId, body: Body, purpose: Purpose) -> bool {
        self.links.send(self.now, self.applied, server, chunk, body, purpose)
    }

    /// What a planted bug does. No round has the number 0, so nobody waits for the answers.
    fn prepare_early(&mut self, command: &Command) {
        let Command::StartIntent(start) = command else { return };
        let Ok(Some(row)) = chunks::get(self.tables, start.chunk) else { return };
        for holder in &row.replicas {
            let prepare = Prepare { version: start.version.0 + 1, join: false, old_grant: row.last_grant.0 };
            let purpose = Purpose::Recovery { chunk: start.chunk, round: 0 };
            self.send(holder.server, start.chunk, Body::Prepare(prepare), purpose);
        }
    }

    /// ADR 7: every read lease that anybody gave this server is over.
    pub(crate) fn is_silent(&self, server: ServerId) -> bool {
        let last = self.shared.leases.answered(server).map_or(self.since, |at| at.max(self.since));
        self.now >= last + limits::SILENCE
    }

    /// Makes sure that a silent server stays so until it has attached anew; false if it has just been answered.
    pub(crate) fn shut_out(&mut self, server: ServerId) -> bool {
        let Some(by) = self.now.checked_sub(limits::SILENCE).filter(|by| *by >= self.since) else { return false };
        let shut = self.shared.leases.shut_if_silent(server, by);
        if shut {
            self.links.end(server);
        }
        shut
    }

    /// Where a server's data service listens, in the incarnation that is meant.
    pub(crate) fn holder(&self, server: ServerId, incarnation: Incarnation) -> Result<Option<Holder>, Fatal> {
        let row = servers::get(self.tables, server)?;
        Ok(row.map(|s| Holder { server_id: server.0, incarnation: incarnation.0, address: s.address }))
    }
}
