//! What the operations on chunks share: how a grant begins and ends, and how a chunk does.
//!
//! `edit` a row at work · `grant` beginnings (W1) · `end` ends by force and Intents (ADR 3, V1) · `discard` into garbage (W2, R4).

mod discard;
mod edit;
mod end;
mod grant;

pub(crate) use discard::discard;
pub(crate) use edit::Edit;
pub(crate) use end::{end_by_force, intend};
pub(crate) use grant::{give, granted, new_chunk, not_granted};

/// Most chunks that one write-end or end of grants may name.
pub(crate) const MAX_CHUNKS_PER_COMMAND: usize = 1024;

#[cfg(test)]
mod inline_tests;
#[cfg(test)]
mod random;
#[cfg(test)]
mod stray_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) mod world;
