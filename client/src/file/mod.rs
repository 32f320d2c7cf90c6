//! Open files: write-back with grants, sync and resend (W1–W9), reads with the buffer laid over (R1), read-ahead.
//!
//! | file | what it owns |
//! |---|---|
//! | `files.rs`, `handle.rs`, `setattr.rs` | the public side: [`Files`], [`OpenFile`], changes of size and times |
//! | `buffer.rs` | the latest un-synced bytes of one chunk, an interval map; pure |
//! | `write_chunk.rs`, `write_chunk/epoch.rs`, `write_state.rs`, `write_state/commit.rs` | what one chunk, one file that is written wants next; pure |
//! | `write_chunk/inline.rs` | small files in the metadata (I1–I5); pure |
//! | `action.rs` | what they say to the driver |
//! | `driver.rs` | the one task of a file that carries it out |
//! | `ender.rs` | the ends of grants, in batches |
//! | `inode.rs`, `context.rs` | one file behind its lock; what all files share |
//! | `reader.rs`, `places.rs`, `read_ahead.rs` | reads, where chunks are, read-ahead |
//! | `budget.rs`, `sticky.rs` | the bound of the buffer; errors that every handle is told once |
//! | `ports.rs` | the metadata session and the clock as traits |

mod action;
mod budget;
mod buffer;
mod context;
mod driver;
mod ender;
mod files;
mod handle;
mod inode;
mod places;
mod ports;
mod read_ahead;
mod reader;
mod setattr;
mod sticky;
#[cfg(test)]
mod tests;
mod write_chunk;
mod write_state;

pub use files::{Created, Files};
pub use handle::OpenFile;
pub use ports::{Metadata, Ports, SystemClock, WallClock};
