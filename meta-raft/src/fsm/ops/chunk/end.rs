//! Ends of grants by force, and Intents (V1, ADR 3).

use caribou_planted::{self as planted, Bug};
use caribou_proto::ids::{CHUNK_BYTES, ChunkVersion};

use super::Edit;
use crate::fsm::command::IntentKind;
use crate::fsm::tables::chunks::{Chunk, Ended, Hold, Intent};

/// Ends the live grant of a chunk that is not new, and writes the Intent in the same record (ADR 3).
///
/// A writer that lives keeps other writers off until it has resent (W5, ADR 5): its older un-synced bytes must not come after newer ones of
/// another. Whether readers wait too is decided by Ready. `length` is the file's committed length.
pub(crate) fn end_by_force(edit: &mut Edit, kind: IntentKind, writer_lives: bool, length: u64) {
    let row = &mut edit.row;
    assert!(!row.new, "W2: a chunk before its first write-end goes to garbage");
    let grant = row.grant.take().expect("only a live grant is ended");
    let ended = Some(Ended { holders: row.replicas.clone() });
    if writer_lives && !planted::is(Bug::HoldForgotten) {
        let reads = row.hold.is_some_and(|h| h.reads);
        // M12: the lowest cut since its bytes were written.
        let clip = row.hold.filter(|h| h.session == grant.session).map_or(CHUNK_BYTES as u32, |h| h.clip);
        row.hold = Some(Hold { session: grant.session, reads, clip });
    } else {
        row.forsake();
    }
    intend(row, kind, ended, length);
}

/// `Intent(v+1)`; one that is under way is replaced by the next, and what it knew is kept.
///
/// Whatever its kind, it cuts at the committed length: bytes beyond it do not exist (W9), and its writer still has them (W5).
pub(crate) fn intend(row: &mut Chunk, kind: IntentKind, ended: Option<Ended>, length: u64) {
    assert!(row.grant.is_none() && !row.new, "an Intent and a grant exclude each other");
    let cut = row.cut_at(length);
    let version = ChunkVersion(row.highest_version().0 + 1); // V1: versions never go back
    let before = row.intent.take();
    row.intent = Some(match before {
        Some(before) => Intent { kind, version, cut: before.cut.min(cut), ended: ended.or(before.ended) },
        None => Intent { kind, version, cut, ended },
    });
}
