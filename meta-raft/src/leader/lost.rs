//! Replicas that a server itself reports as lost (R3).
//!
//! A report counts when two heartbeats of one stream in a row say it about the same version of a chunk at rest; anything under way (a grant,
//! an Intent) finds out by itself. `apply` never removes the last replica.

use std::collections::{BTreeMap, BTreeSet};

use caribou_proto::ids::{ChunkId, ChunkVersion, ServerId};

use super::context::{Cx, Why};
use crate::fsm::command::Command;
use crate::fsm::error::Fatal;
use crate::fsm::tables::chunks;

#[derive(Default)]
pub(crate) struct Losses {
    /// What the last heartbeat of each server said.
    said: BTreeMap<ServerId, BTreeMap<ChunkId, ChunkVersion>>,
}

impl Losses {
    pub(crate) fn heartbeat(&mut self, cx: &mut Cx<'_>, server: ServerId, lost: &[ChunkId]) -> Result<(), Fatal> {
        let before = self.said.remove(&server).unwrap_or_default();
        let mut said = BTreeMap::new();
        for chunk in lost.iter().copied().collect::<BTreeSet<_>>() {
            let Some(row) = chunks::get(cx.tables, chunk)? else { continue };
            let at_rest = row.grant.is_none() && row.intent.is_none() && row.replica(server).is_some();
            if !at_rest {
                continue;
            }
            if before.get(&chunk) == Some(&row.version) && row.replicas.len() > 1 {
                tracing::warn!(%chunk, %server, version = %row.version, "a server has lost its replica");
                cx.propose(Why::Hint, vec![Command::ReplicaLost { chunk, version: row.version, server }]);
            } else {
                said.insert(chunk, row.version);
            }
        }
        if !said.is_empty() {
            self.said.insert(server, said);
        }
        Ok(())
    }

    pub(crate) fn server_detached(&mut self, server: ServerId) {
        self.said.remove(&server);
    }
}
