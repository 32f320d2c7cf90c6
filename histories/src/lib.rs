//! Clients that fight over a few names of one directory, or over a few blocks, and the question whether all that they were told has an order:
//! what `caribou-chaos` asks of real processes, and the simulation of its own.
//!
//! `player` makes operations on names and carries them out through the client library, `names` says whether a history of them is linearizable,
//! `explain` which of them contradict each other if it is not; `registers` says the same of blocks that are written and read; `finding` is how
//! that is told.

mod explain;
pub mod finding;
pub mod names;
pub mod player;
pub mod registers;
