//! Caribou's schema, and nothing else: generated wire messages and log records, id newtypes. No logic, no I/O.
//!
//! Three languages are kept apart: *wire* (`meta`, `chunk`, `admin`, `raft`: between processes), *disk* (`log`: what is in the
//! Raft log) and *memory* (`caribou_meta_raft::fsm`, not here). `tests/compat.rs` pins field numbers.

pub mod ids;

/// Who a message belongs to (F1).
pub mod cluster {
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("caribou.cluster.v1");
    }
}
/// Clients and metadata nodes.
pub mod meta {
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("caribou.meta.v1");
    }
}
/// Chunk data and control of chunk servers.
pub mod chunk {
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("caribou.chunk.v1");
    }
}
/// What operators do.
pub mod admin {
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("caribou.admin.v1");
    }
}
/// Between metadata nodes.
pub mod raft {
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("caribou.raft.v1");
    }
}
/// What the Raft log holds on disk.
pub mod log {
    #[allow(missing_docs, clippy::all, clippy::too_many_lines)]
    pub mod v1 {
        tonic::include_proto!("caribou.log.v1");
    }
}
