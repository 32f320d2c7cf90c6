//! Bits that flip at rest, one in a replica of each chunk while its other replica is sound: nobody reads that, and it is mended.
//!
//! Only once everything has come to rest: any other fault could take the sound replica away, and its bytes would be gone as they must be.

use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_meta_raft::fsm::tables::chunks;
use caribou_proto::ids::{BLOCK_BYTES, CHUNK_BYTES, ChunkId, ChunkVersion};
use parking_lot::Mutex;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;

use crate::chunk_host::ChunkHost;
use crate::crew::Crew;
use crate::rest::{self, EDGE_BYTES};
use crate::world::World;

/// How long the cluster may take: nobody vouches for the sound replicas before their servers have been attached for half a minute.
const MEND_PATIENCE: Duration = Duration::from_secs(90);
/// Clients that read everything: each has its own choice of a chunk's replicas, and stays with it unless that one refuses.
const READERS: usize = 2;

/// One bit.
pub(super) struct Damage {
    machine: usize,
    chunk: ChunkId,
    version: ChunkVersion,
    /// Within the chunk.
    offset: u32,
}

/// Blocks that were damaged here: what their servers log about them is no finding.
#[derive(Debug, Default)]
pub struct Rotten {
    marks: Mutex<Vec<[String; 3]>>,
}

impl Rotten {
    fn add(&self, chunk: ChunkId, block: u32, disk: &str) {
        self.marks.lock().push([format!("chunk={chunk}"), format!("block={block}"), format!("disk={disk:?}")]);
    }

    /// Whether a line of a log tells of one of them.
    pub fn explains(&self, line: &str) -> bool {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_told = |marks: &[String; 3]| marks.iter().all(|mark| words.contains(&mark.as_str()));
        line.contains("a block is damaged at rest") && self.marks.lock().iter().any(is_told)
    }
}

/// Flips one bit of each chunk.
pub(super) async fn flip(world: &World, rng: &mut StdRng) -> Result<Vec<Damage>> {
    let view = world.leader().and_then(|index| world.meta[index].view()).context("nobody leads")?;
    let all = chunks::page(&view, None, usize::MAX).context("the chunks cannot be listed")?;
    let mut damage = Vec::new();
    for (chunk, row) in all.into_iter().filter(|(_, row)| row.replicas.len() > 1) {
        let server = row.replicas.choose(rng).map(|replica| replica.server);
        let Some(machine) = world.chunk.iter().position(|host| host.server_id() == server) else { continue };
        let Some(offset) = written_byte(&world.chunk[machine], chunk, row.version, rng).await else { continue };
        let (block, bit) = (offset / BLOCK_BYTES, rng.random_range(0..8));
        let disk = world.chunk[machine].flip(chunk, offset, bit);
        world.findings.rotten.add(chunk, block, disk);
        world.findings.note(|| format!("bit {bit} of byte {offset} of chunk {chunk} flips on {disk}"));
        damage.push(Damage { machine, chunk, version: row.version, offset });
    }
    Ok(damage)
}

/// A byte that clients have written: not a zero, in one of the places where they write.
async fn written_byte(host: &ChunkHost, chunk: ChunkId, version: ChunkVersion, rng: &mut StdRng) -> Option<u32> {
    let mut written = Vec::new();
    for start in [0, CHUNK_BYTES as u32 - EDGE_BYTES] {
        let read = host.store()?.read(chunk, version, start, EDGE_BYTES).await.ok()?;
        written.extend((start..).zip(&read.data).filter(|(_, byte)| **byte != 0).map(|(offset, _)| offset));
    }
    written.choose(rng).copied()
}

/// Clients read right bytes, servers serve no others, and what they find so is mended from the other replicas.
pub(super) async fn mend(world: &World, crew: &mut Crew, rng: &mut StdRng, damage: &[Damage]) -> Result<()> {
    for _ in 0..READERS {
        crew.look(world, rng).await?;
    }
    for Damage { machine, chunk, version, offset } in damage {
        let Some(store) = world.chunk[*machine].store() else { continue };
        // Where a client has read it before, a recovery may have begun, or be over.
        let is_served = store.read(*chunk, *version, *offset, 1).await.is_ok();
        world.findings.check(!is_served, || {
            let (block, address) = (offset / BLOCK_BYTES, &world.chunk[*machine].address);
            format!("{address} serves block {block} of chunk {chunk}, which is damaged at rest")
        });
    }
    let is_sound = |damage: &Damage| {
        let store = world.chunk[damage.machine].store();
        store.is_some_and(|store| store.damaged_chunks().iter().all(|(chunk, _)| *chunk != damage.chunk))
    };
    world.wait_for(MEND_PATIENCE, "damaged replicas are not mended", || damage.iter().all(is_sound)).await;
    rest::check(world).await;
    world.findings.rotten.marks.lock().clear();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_damage_that_was_done_is_explained() {
        let rotten = Rotten::default();
        rotten.add(ChunkId(281474976710657), 0, "disk1");
        let line = |chunk: u64, disk: &str| {
            format!(
                "caribou_chunkd::store::volume: a block is damaged at rest and is not served chunk={chunk} block=0 disk={disk:?}"
            )
        };
        assert!(rotten.explains(&line(281474976710657, "disk1")));
        assert!(!rotten.explains(&line(281474976710657, "disk10")));
        assert!(!rotten.explains(&line(28147497671065, "disk1")));
        assert!(!rotten.explains("another error chunk=281474976710657 block=0 disk=\"disk1\""));
    }
}
