//! The chunk protocol as a small machine, and a checker that walks through all of it.
//!
//! One chunk of one or two blocks, up to two writers, three chunk servers, a leader and all possible readers. Every
//! *scenario* bounds the faults differently and is explored to the end; every *mutation* drops one rule and must be caught.
//! Rules are named as in docs/chunk-protocol.md and docs/adr/0001-chunk-protocol-on-the-wire.md. The model shares no code
//! with Caribou: it says what the code has to do, not how.
//!
//! Map: `state` what there is · `rules` the rules that can be dropped · `scenario` bounds · `action` one step · `writer`
//! clients · `server` chunk servers · `record` the committed row · `leader` recovery, repair, deletion · `plan` the pure
//! function of ADR 4 · `fault` crashes, cuts, deaths · `oracle` readers and P1–P3 · `progress` P5 · `explore` the harness ·
//! `scenarios`, `mutations` the tests.
//!
//! What is simpler than the real thing: a command and its answer are one step, except for the one that a dying leader may
//! leave in the network; an ack travels back up the chain in one step; a journal entry leaves as soon as it may; a server's
//! lease ends exactly when the leader has waited for it.
//!
//! Not covered: consensus itself (the row is one atomic cell), P4 and the sessions' replies, clocks and drift, parts of
//! blocks and CRC arithmetic (W3, V4), several chunks, restored generations (F1), old disk images (V5), recall that is
//! answered (it is a clean end), a client that cannot reach the servers for good, the two-refusals back-off of R2, the
//! confirmation window of R3, quarantine (R4). P5 is covered as `progress` says: a way out, not every schedule.
//!
//! `MODEL_TRACE=1 cargo test --test model -- --nocapture` prints state counts and the trace of every counterexample.

mod action;
mod explore;
mod fault;
mod leader;
mod mutations;
mod oracle;
mod plan;
mod progress;
mod record;
mod rules;
mod scenario;
mod scenarios;
mod server;
mod state;
mod writer;
