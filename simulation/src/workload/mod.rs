//! What clients do, each with a model of what must come of it.

pub mod blocks;
pub mod book;
pub mod fights;
pub mod lengths;
pub mod names;
pub mod orphans;
pub mod registers;

use caribou_proto::meta::v1::Caller;

/// Calls are root's.
pub fn caller() -> Caller {
    Caller::default()
}
