//! The data service: fragments in, acks out; requests in, blocks out.
//!
//! ```text
//! data.rs     gRPC: nothing but handing streams over
//! write.rs    one write stream: checks, memory budgets, dispatch to the chunk's queue (F1, F3)
//! apply.rs    one fragment: write, then forward, then sync, then ack (W3, W6, ADR 0001.1)
//! streams.rs  one (chunk, version, grant) at a time: order, broken grants, which link (W4)
//! read.rs     one read stream: lease, exact version, recovery reads (F2, R1)
//! status.rs   errors to statuses; cluster checks
//! ```

pub(crate) mod apply;
pub(crate) mod data;
pub(crate) mod read;
pub(crate) mod status;
pub(crate) mod streams;
pub(crate) mod write;
