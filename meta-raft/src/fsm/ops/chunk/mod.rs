//! What the operations on chunks share: how a grant begins and ends, and how a chunk does.
//!
//! `edit` a row at work · `grant` beginnings (W1) · `end` ends by force and Intents (ADR 3, V1) · `discard` into garbage (W2, R4) ·
//! `release` all chunks of a purged inode · `expire` all grants of an ended session (S4).

mod discard;
mod edit;
mod end;
mod expire;
mod grant;
mod release;

pub(crate) use discard::discard;
pub(crate) use edit::Edit;
pub(crate) use end::{end_by_force, intend};
pub(crate) use expire::end_session_grants;
pub(crate) use grant::{give, granted, new_chunk, not_granted};
pub(crate) use release::release_step;

/// Most chunks that one write-end or end of grants may name.
pub(crate) const MAX_CHUNKS_PER_COMMAND: usize = 1024;
/// Most chunks that one step of a purge puts into garbage.
pub(crate) const MAX_CHUNKS_PER_STEP: usize = 1024;
/// Most grants that one step of a session's expiry ends.
pub(crate) const MAX_GRANTS_PER_STEP: usize = 1024;
