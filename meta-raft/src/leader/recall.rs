//! Recalled grants that are not given back in time (W8).
//!
//! A new leader need not search for them: whoever waits asks again, and every asking is told as an effect.

use std::collections::BTreeMap;

use caribou_proto::ids::{ChunkId, GrantId};
use tokio::time::Instant;

use super::context::{Cx, Why};
use super::limits;
use crate::fsm::command::{Command, IntentKind, StartIntent};
use crate::fsm::error::Fatal;
use crate::fsm::tables::chunks;

#[derive(Default)]
pub(crate) struct Recalls {
    due: BTreeMap<ChunkId, (GrantId, Instant)>,
}

impl Recalls {
    /// A grant has been recalled, or is recalled again.
    pub(crate) fn recalled(&mut self, now: Instant, chunk: ChunkId, grant: GrantId) {
        let until = (grant, now + limits::RECALL);
        let entry = self.due.entry(chunk).or_insert(until);
        if entry.0 != grant {
            *entry = until;
        }
    }

    pub(crate) fn tick(&mut self, cx: &mut Cx<'_>) -> Result<(), Fatal> {
        let due: Vec<(ChunkId, GrantId)> =
            self.due.iter().filter(|(_, (_, at))| *at <= cx.now).map(|(c, (g, _))| (*c, *g)).collect();
        for (chunk, grant) in due {
            self.due.remove(&chunk);
            let Some(row) = chunks::get(cx.tables, chunk)? else { continue };
            if row.grant.is_none_or(|g| g.id != grant || !g.recalled) {
                continue;
            }
            tracing::info!(%chunk, %grant, "a recall was not answered in time; the grant ends");
            // S6: decided from this version and this grant.
            let start = StartIntent { chunk, version: row.version, grant: Some(grant), kind: IntentKind::Recover };
            cx.propose(Why::Hint, vec![Command::StartIntent(start)]);
        }
        Ok(())
    }
}
