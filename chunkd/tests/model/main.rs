//! The chunk protocol as a small machine, and a checker that walks through all of it.
//!
//! One chunk of one or two blocks, up to two writers, three chunk servers, a leader and adversarial readers. Every *scenario* bounds the faults
//! differently and is explored to the end; every *mutation* drops one rule and must be caught. Rules are named as in docs/chunk-protocol.md and
//! docs/adr/0001-chunk-protocol-on-the-wire.md. The model shares no code with Caribou: it says what the code has to do, not how.
//!
//! Map: `state` what there is · `rules` the rules that can be dropped · `scenario` bounds · `action` one step · `writer` clients · `server` chunk
//! servers · `record` the committed row · `leader` recovery, repair, deletion · `plan` the pure function of ADR 4 · `fault` crashes, cuts, deaths ·
//! `oracle` readers and P1–P3 · `progress` P5 · `scenarios`, `mutations` the tests.
//!
//! Not covered: consensus itself (the row is one atomic cell), sessions' replies (P4), clocks (a lease ends before its granter's wait does),
//! parts of blocks and CRC arithmetic, several chunks, restored generations (F1), old disk images (V5).
//!
//! `MODEL_TRACE=1 cargo test --test model -- --nocapture` prints state counts and the trace of every counterexample.

mod action;
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
