//! Files that one client writes at odd places, cuts and makes longer, and others read: what was cut off stays away, holes are zeros, and
//! everybody knows the length (W9, M12–M14, close to open).
//!
//! | file | what it owns |
//! |---|---|
//! | `owner.rs` | the one who changes a file, and sees exactly what its calls have made of it |
//! | `others.rs` | who reads it, and may see one of several states |
//! | `ledger.rs` | what everybody knows of the file, and the excuse for what is lost |
//! | `history.rs` | the calls, how far they are synced and closed, and which bytes and lengths are right after that |
//! | `content.rs` | which write each range is of, and what a write brings |
//! | `draws.rs` | where and how much |

mod content;
mod draws;
mod history;
mod ledger;
mod others;
mod owner;

pub use ledger::Ledger;
pub use others::{read_all, read_foreign};
pub use owner::Owner;
