//! Copying blocks of a chunk from another server, for a Fix (V1) – the one primitive behind recovery, repair and rebalance.
//!
//! Requests are pipelined up to a window of bytes; each reply is checked (CRC, length, which blocks are written) before anything
//! of it is installed. The source is named with its incarnation (F3). A failure of the source is reported as such; the leader plans anew.

use crate::recover::Failed;
use crate::server::ChunkServer;
use crate::service::status::cluster_on_wire;
use bytes::Bytes;
use caribou_proto::chunk::v1::{BlockRange, Fetch, ReadReply, ReadRequest, Status};
use caribou_proto::cluster::v1::Holder;
use caribou_proto::ids::{BLOCK_BYTES, BLOCKS_PER_CHUNK, ChunkId, ChunkVersion, MAX_FRAGMENT_BYTES};
use futures::StreamExt;
use std::collections::HashMap;
use tokio::sync::mpsc;

/// Blocks of one request.
const REQUEST_BLOCKS: u32 = MAX_FRAGMENT_BYTES / BLOCK_BYTES;

/// Copies what a fetch names into the replica that is incomplete at `version`. Returns the number of blocks.
pub(crate) async fn fetch(
    server: &ChunkServer,
    chunk: ChunkId,
    version: ChunkVersion,
    fetch: &Fetch,
) -> Result<u64, Failed> {
    let invalid = |detail: &str| Failed { status: Status::Invalid, detail: detail.to_owned() };
    let source = fetch.source.as_ref().ok_or_else(|| invalid("a fetch names no source"))?;
    let parts = split(&fetch.blocks).ok_or_else(|| invalid("a fetch names blocks outside the chunk"))?;
    if parts.is_empty() {
        return Ok(0);
    }
    let window =
        usize::try_from(server.settings.fetch_window_bytes / u64::from(MAX_FRAGMENT_BYTES)).unwrap_or(1).max(1);
    let (requests, receiver) = mpsc::channel(window);
    let opening =
        tokio::time::timeout(server.settings.connect_timeout, server.peers.read(&source.address, receiver)).await;
    let mut replies = opening
        .map_err(|_| from_source(source, "does not answer"))?
        .map_err(|error| from_source(source, &error.to_string()))?;
    let mut next = parts.iter().copied().enumerate();
    let mut asked: HashMap<u64, (u32, u32)> = HashMap::new();
    let mut blocks = 0;
    loop {
        while asked.len() < window
            && let Some((id, part)) = next.next()
        {
            let id = id as u64 + 1;
            asked.insert(id, part);
            let request = request(server, chunk, fetch.version, source, id, part);
            requests.send(request).await.map_err(|_| from_source(source, "closed the stream"))?;
        }
        if asked.is_empty() {
            return Ok(blocks);
        }
        let reply = tokio::time::timeout(server.settings.fetch_timeout, replies.next())
            .await
            .map_err(|_| from_source(source, "does not answer"))?
            .ok_or_else(|| from_source(source, "closed the stream"))?
            .map_err(|error| from_source(source, &error.to_string()))?;
        let part = asked.remove(&reply.id).ok_or_else(|| from_source(source, "answered what was not asked"))?;
        check(&reply, part).map_err(|why| from_source(source, &why))?;
        server.stats.fetched(reply.data.len());
        install(server, chunk, version, part, &reply).await?;
        blocks += u64::from(part.1);
    }
}

fn request(
    server: &ChunkServer,
    chunk: ChunkId,
    version: u64,
    source: &Holder,
    id: u64,
    part: (u32, u32),
) -> ReadRequest {
    ReadRequest {
        cluster: server.store.cluster().map(cluster_on_wire),
        id,
        chunk: chunk.0,
        version,
        offset: part.0 * BLOCK_BYTES,
        length: part.1 * BLOCK_BYTES,
        recovery: true,
        server_id: source.server_id,
        incarnation: source.incarnation,
    }
}

fn check(reply: &ReadReply, (_, count): (u32, u32)) -> Result<(), String> {
    if reply.status() != Status::Ok {
        return Err(format!("{:?}: {}", reply.status(), reply.detail));
    }
    if reply.data.len() != (count * BLOCK_BYTES) as usize || reply.written.len() != count as usize {
        return Err("sent another number of blocks than asked for".to_owned());
    }
    if crc32c::crc32c(&reply.data) != reply.crc {
        return Err("sent blocks that do not match their checksum".to_owned());
    }
    Ok(())
}

async fn install(
    server: &ChunkServer,
    chunk: ChunkId,
    version: ChunkVersion,
    (first, count): (u32, u32),
    reply: &ReadReply,
) -> Result<(), Failed> {
    let installs = (0..count).map(|index| {
        let start = (index * BLOCK_BYTES) as usize;
        let written = reply.written[index as usize] != 0;
        let data: Option<Bytes> = written.then(|| reply.data.slice(start..start + BLOCK_BYTES as usize));
        server.store.install_block(chunk, version, first + index, data)
    });
    futures::future::try_join_all(installs).await?;
    Ok(())
}

/// Ranges cut into requests: (first block, count). `None` if one leaves the chunk.
fn split(ranges: &[BlockRange]) -> Option<Vec<(u32, u32)>> {
    let mut parts = Vec::new();
    for range in ranges {
        let end = range.first.checked_add(range.count).filter(|end| *end <= BLOCKS_PER_CHUNK)?;
        let mut first = range.first;
        while first < end {
            let count = (end - first).min(REQUEST_BLOCKS);
            parts.push((first, count));
            first += count;
        }
    }
    Some(parts)
}

fn from_source(source: &Holder, why: &str) -> Failed {
    Failed {
        status: Status::Downstream,
        detail: format!("copying from server {} ({}): {why}", source.server_id, source.address),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_into_requests_and_may_not_leave_the_chunk() {
        let range = |first, count| BlockRange { first, count };
        assert_eq!(split(&[range(3, 1), range(10, 33)]), Some(vec![(3, 1), (10, 16), (26, 16), (42, 1)]));
        assert_eq!(split(&[range(1000, 24)]), Some(vec![(1000, 16), (1016, 8)]));
        assert_eq!(split(&[range(1000, 25)]), None);
        assert_eq!(split(&[range(5, u32::MAX)]), None);
        assert_eq!(split(&[]), Some(Vec::new()));
    }
}
