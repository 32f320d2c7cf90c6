//! What must be true once the faults and the clients are gone and everything has come to rest.

use std::time::Duration;

use caribou_meta_raft::fsm::error::Fatal;
use caribou_meta_raft::fsm::tables::chunks::{self, Chunk};
use caribou_meta_raft::fsm::tables::meta::{self, Counter};
use caribou_meta_raft::fsm::tables::{garbage, orphans, server_chunks};
use caribou_meta_raft::raft::StateView;
use caribou_proto::ids::{CHUNK_BYTES, InodeId};

use crate::chunk_host::ChunkHost;
use crate::meta_host::MetaHost;
use crate::world::{PATIENCE, World};

/// Sessions of killed clients end only now, recoveries and copies follow.
const REST_PATIENCE: Duration = Duration::from_secs(150);
/// A replica that nobody counts on is asked about after half a minute, and a new leader's servers have to settle for as long.
const STRAY_PATIENCE: Duration = Duration::from_secs(150);
const STRAY_LOOK: Duration = Duration::from_secs(1);
/// Reads for comparison have this length; clients write in the first and the last so many bytes of a chunk only.
pub const EDGE_BYTES: u32 = 640 << 10;

/// See the module. In this order, because each needs the one before.
pub async fn check(world: &World) {
    // The rows change with what is applied, and with nothing else.
    let mut looked_at = None;
    let at_rest = || {
        let Some(index) = world.leader() else { return false };
        let now = world.meta[index].raft().map(|raft| (index, *raft.applied().borrow()));
        std::mem::replace(&mut looked_at, now) != now && is_at_rest(&world.meta[index], world.goal).unwrap_or(false)
    };
    if !world.wait_for(REST_PATIENCE, "chunks are not ready, without a writer and at their goal", at_rest).await {
        return world.findings.violation(format!("at work: {}", at_work(world)));
    }
    nothing_to_delete(world).await;
    no_strays(world).await;
    if equal_states(world).await
        && let Err(error) = equal_rows(world)
    {
        world.findings.violation(format!("a state cannot be read: {error}"));
    }
    if let Some(view) = world.leader().and_then(|index| world.meta[index].view()) {
        equal_replicas(world, &view).await;
    }
}

fn is_at_rest(leader: &MetaHost, goal: usize) -> Result<bool, Fatal> {
    let Some(view) = leader.view() else { return Ok(false) };
    Ok(chunks::page(&view, None, usize::MAX)?.iter().all(|(_, chunk)| rests(chunk, goal)))
}

fn rests(chunk: &Chunk, goal: usize) -> bool {
    chunk.grant.is_none() && chunk.intent.is_none() && chunk.hold.is_none() && chunk.replicas.len() == goal
}

/// The rows of all chunks that do not rest, as the leader has them.
pub fn at_work(world: &World) -> String {
    let Some(view) = world.leader().and_then(|index| world.meta[index].view()) else {
        return "nobody leads".to_owned();
    };
    match chunks::page(&view, None, usize::MAX) {
        Ok(all) => {
            let busy = all.iter().filter(|(_, chunk)| !rests(chunk, world.goal));
            busy.map(|(id, chunk)| format!("{id}: {chunk:?}")).collect::<Vec<_>>().join("; ")
        }
        Err(error) => format!("the chunks cannot be listed: {error}"),
    }
}

/// S7, R4: files without a name have gone with the sessions of those who had them open, and servers have been told of their chunks. That all other
/// inodes have names, and all chunks inodes, is an invariant of the state.
async fn nothing_to_delete(world: &World) {
    let is_done = || to_delete(world).is_ok_and(|left| left.is_none());
    if !world.wait_for(REST_PATIENCE, "files without a name, or deletions, stay", is_done).await {
        world.findings.violation(format!("to be deleted: {:?}", to_delete(world)));
    }
}

/// Files without a name, and the number of deletions that servers have not confirmed, as the leader has them; `None` if there are none.
fn to_delete(world: &World) -> Result<Option<(Vec<InodeId>, u64)>, Fatal> {
    let Some(view) = world.leader().and_then(|index| world.meta[index].view()) else {
        return Ok(Some((Vec::new(), 0)));
    };
    let inodes = orphans::page(&view, InodeId(0), usize::MAX)?;
    let deletions = meta::counter(&view, Counter::Garbage)?;
    Ok((!inodes.is_empty() || deletions > 0).then_some((inodes, deletions)))
}

/// R4: everything that is on a disk is counted on; what was not has been deleted by a committed decision, within a minute or two.
async fn no_strays(world: &World) {
    let end = tokio::time::Instant::now() + STRAY_PATIENCE;
    loop {
        let left = match strays(world) {
            Ok(left) if left.is_empty() => return,
            Ok(left) => left.join("; "),
            Err(error) => format!("the state cannot be read: {error}"),
        };
        if tokio::time::Instant::now() >= end {
            return world.findings.violation(format!("replicas that nobody counts on stay: {left}"));
        }
        tokio::time::sleep(STRAY_LOOK).await;
    }
}

/// Replicas on servers that the leader's rows do not name there.
fn strays(world: &World) -> Result<Vec<String>, Fatal> {
    let Some(view) = world.leader().and_then(|index| world.meta[index].view()) else {
        return Ok(vec!["nobody leads".to_owned()]);
    };
    let mut left = Vec::new();
    for host in &world.chunk {
        let (Some(server), Some(store)) = (host.server_id(), host.store()) else { continue };
        for chunk in store.all_chunks() {
            if server_chunks::contains(&view, server, chunk)? {
                continue;
            }
            let replica = store.replica(chunk).map(|replica| (replica.version, replica.complete));
            let (row, deletion) = (chunks::get(&view, chunk)?, garbage::get(&view, server, chunk)?);
            left.push(format!("{chunk} on server {server}: {replica:?}, its deletion: {deletion:?}, its row: {row:?}"));
        }
    }
    Ok(left)
}

/// All nodes come to the same state.
async fn equal_states(world: &World) -> bool {
    let states = || -> Vec<_> { world.meta.iter().filter_map(MetaHost::state).collect() };
    let are_equal = || {
        let found = states();
        found.len() == world.meta.len() && found.windows(2).all(|pair| pair[0] == pair[1])
    };
    let are = world.wait_for(PATIENCE, "the nodes do not come to the same state", are_equal).await;
    world.findings.check(are, || format!("the nodes' states: {:x?}", states()));
    are
}

fn equal_rows(world: &World) -> Result<(), Fatal> {
    let mut contents = Vec::new();
    for host in &world.meta {
        let Some(view) = host.view() else { continue };
        contents.push(view.content_hash()?);
        if let Err(error) = view.check_invariants() {
            world.findings.violation(format!("the state of node {} is inconsistent: {error}", host.id));
        }
    }
    world.findings.check(contents.windows(2).all(|pair| pair[0] == pair[1]), || {
        format!("the nodes' rows are not equal at the end, though their histories are: {contents:x?}")
    });
    Ok(())
}

/// All holders of a chunk have the same bytes at its version.
async fn equal_replicas(world: &World, view: &StateView) {
    let all = match chunks::page(view, None, usize::MAX) {
        Ok(all) => all,
        Err(error) => return world.findings.violation(format!("the chunks cannot be listed: {error}")),
    };
    for (id, chunk) in all {
        for offset in [0, CHUNK_BYTES as u32 - EDGE_BYTES] {
            let mut copies = Vec::new();
            for replica in &chunk.replicas {
                let host = world.chunk.iter().find(|host| host.server_id() == Some(replica.server));
                let Some(store) = host.and_then(ChunkHost::store) else {
                    world.findings.violation(format!("chunk {id} is said to be on {}, which is off", replica.server));
                    continue;
                };
                match store.read(id, chunk.version, offset, EDGE_BYTES).await {
                    Ok(read) => copies.push(read),
                    Err(error) => {
                        let of = format!("chunk {id} version {} on {}", chunk.version, replica.server);
                        world.findings.violation(format!("a replica that is said to be good is not: {of}: {error}"));
                    }
                }
            }
            let are_equal = copies.windows(2).all(|pair| pair[0].data == pair[1].data);
            world.findings.check(are_equal, || {
                format!("the replicas of chunk {id} differ in the {} KiB at {offset}", EDGE_BYTES >> 10)
            });
        }
    }
}
