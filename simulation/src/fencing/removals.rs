//! Replicas that chunk servers take away, into the quarantine or for good, and who counts on them.
//!
//! Each begins with a record after which no row names the server for what it has (R4). Its leader has applied that before it says so, and a later
//! record names the server again only once it has confirmed the deletion, or for a version that the deletion does not reach. What a start puts
//! aside has no header that can be read, or it is older than what another disk has; here a server has one disk.

use caribou_proto::chunk::v1::{ToServer, to_server};
use caribou_proto::ids::{ChunkId, ServerId};

use super::header::Header;
use crate::findings::Findings;

/// A leader says something to a chunk server: it may be its number.
pub(super) fn told(findings: &Findings, server: &str, message: &ToServer) {
    if let Some(to_server::Body::Registered(registered)) = &message.body {
        findings.fencing.numbers.lock().insert(server.to_owned(), ServerId(registered.server_id));
    }
}

/// The file of a chunk is not in its place any more. `header`: its newest.
pub(super) fn removed(findings: &Findings, server: &str, chunk: ChunkId, header: &Header) {
    let Some(number) = findings.fencing.numbers.lock().get(server).copied() else { return };
    // Without a row its replicas are garbage.
    let Some(row) = findings.places.chunk(chunk) else { return };
    let is_meant = header.is_complete && header.version == row.version && row.intent.is_none();
    findings.check(!is_meant || row.replica(number).is_none(), || {
        format!("R3: {server} has removed its replica of chunk {chunk}, which is counted on: {header:?}; {row:?}")
    });
}
