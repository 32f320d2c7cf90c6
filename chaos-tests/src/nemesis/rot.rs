//! One bit of one replica flips at rest, while its server runs and the other replicas are sound. Nothing looks for such damage in the
//! background, so lifting it means reading the block until its server has been asked for it; the server must notice, nobody may see it, and
//! the block has to be made whole. A chunk at rest is mended by a recovery (R3); one that somebody writes to without a pause has to wait for a recovery,
//! which is brought about by tearing the server's connections.

use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use caribou_cli::cmd::file::info;
use caribou_cli::local::{Layout, Part};
use caribou_client::proto::ids::CHUNK_BYTES;
use caribou_client::proto::meta::v1::Caller;
use caribou_client::{Client, ClientConfig, Error};
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::{Broken, Harm, Kind, Remedy, Server, Site};
use crate::block::{self, BLOCK, Content};
use crate::lab::Lab;
use crate::network::Host;
use crate::network::proxy::{Line, Proxy};

/// Where data begin in a replica's file (docs/on-disk-format.md).
const DATA_OFFSET: u64 = 64 << 10;
/// Where its header has its copies, and what they say.
const HEADERS: [u64; 3] = [0, 4096, 8192];
const HEADER_BYTES: usize = 56;
const STATE: usize = 10;
const COMPLETE: u8 = 2;
const VERSION: Range<usize> = 48..56;
/// What a server says of a block that does not match its checksum.
const COMPLAINT: &str = "a block is damaged at rest and is not served";
/// How long it may take until it is found, and until the replica is sound again.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take without a recovery; between two of them.
const REST: Duration = Duration::from_secs(5);
/// How long the server's connections are torn.
const TORN: Duration = Duration::from_millis(300);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// How long one read may wait for servers that are away.
const SOFT: Duration = Duration::from_secs(3);
const READ: u32 = 4;

/// A bit that has been flipped.
#[derive(Debug)]
pub(super) struct Flip {
    /// The writer's file, and the place of the block in it.
    file: u64,
    inode: u64,
    place: u64,
    /// The replica's file, where in it, and what is there now.
    path: PathBuf,
    offset: u64,
    byte: u8,
    host: Host,
    /// Where its server complains, and how often it has.
    log: PathBuf,
    complaints: usize,
}

/// A chunk of which every replica is there, none of them at a server that another fault has.
struct Chunk {
    file: u64,
    inode: u64,
    index: u32,
    id: String,
    holders: Vec<Server>,
}

/// None: nobody leads, or no chunk has two replicas that are left alone.
pub(super) async fn inflict(site: &mut Site<'_>) -> Result<Option<Harm>> {
    let Some(client) = connect(site.lab).await else { return Ok(None) };
    let found = chunks(site, &client).await;
    client.shutdown().await;
    let Some(chunk) = found.choose(site.rng) else { return Ok(None) };
    let victim = *chunk.holders.choose(site.rng).expect("it has two");
    let Some(flip) = flip(site, chunk, victim)? else { return Ok(None) };
    // The others are to stay sound until it is mended.
    site.taken.extend(chunk.holders.iter().copied());
    let mut harm = Harm::new(Kind::BitFlip, chunk.holders.clone());
    harm.victims = format!("{}{}", victim.0.name(), victim.1);
    Ok(Some(harm.with([Remedy::Mend(flip)])))
}

async fn connect(lab: &Lab) -> Option<Client> {
    let config = ClientConfig {
        meta: lab.cluster.meta_addresses(),
        name: "bit flip".to_owned(),
        soft: Some(SOFT),
        ..ClientConfig::default()
    };
    Client::connect(config).await.ok()
}

/// Those of the files that writers of blocks write (`workload::blocks`): what is in them can be told right from wrong.
async fn chunks(site: &Site<'_>, client: &Client) -> Vec<Chunk> {
    let servers = &site.lab.cluster.layout().chunk;
    let number = |address: &str| servers.iter().find(|node| node.address == address).map(|node| node.number);
    let mut found = Vec::new();
    for file in 0.. {
        // There is none of that number, or nobody leads.
        let Ok(info) = info(client, Path::new(&format!("/written{file}"))).await else { break };
        for chunk in info.chunks.iter().filter(|chunk| chunk.state == "ready" && chunk.replicas.len() > 1) {
            let numbers = chunk.replicas.iter().filter_map(|replica| number(&replica.address));
            let holders: Vec<Server> = numbers.map(|number| (Part::Chunk, number)).collect();
            // A server may not have noticed yet what it has lost together with its disk.
            let is_there = |holder: &Server| {
                replica(site.lab.cluster.layout(), *holder, &chunk.chunk).is_some_and(|path| has(&path, chunk.version))
            };
            if holders.iter().all(|holder| !site.taken.contains(holder) && is_there(holder)) {
                found.push(Chunk { file, inode: info.inode, index: chunk.index, id: chunk.chunk.clone(), holders });
            }
        }
    }
    found
}

/// Where a server has its replica of a chunk.
fn replica(layout: &Layout, (part, number): Server, id: &str) -> Option<PathBuf> {
    let data = layout.nodes(part)[number - 1].data.first()?;
    Some(data.join("chunks").join(&id[id.len() - 2..]).join(format!("{id}.chunk")))
}

/// Whether a replica is there, complete in this version. Older copies of its header have no higher ones.
fn has(path: &Path, version: u64) -> bool {
    let Ok(file) = File::open(path) else { return false };
    HEADERS.into_iter().any(|at| {
        let mut header = [0; HEADER_BYTES];
        let is_read = file.read_exact_at(&mut header, at).is_ok();
        is_read && header[STATE] == COMPLETE && header[VERSION] == version.to_le_bytes()
    })
}

/// Flips a bit of what is stored. None: nothing is.
fn flip(site: &mut Site<'_>, chunk: &Chunk, (part, number): Server) -> Result<Option<Flip>> {
    let node = &site.lab.cluster.layout().nodes(part)[number - 1];
    let path = replica(site.lab.cluster.layout(), (part, number), &chunk.id);
    let path = path.context("a chunk server has a data folder")?;
    let file = match OpenOptions::new().read(true).write(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.with_context(|| path.display().to_string())?,
    };
    let Some(offset) = stored(&file, site.rng)? else { return Ok(None) };
    let (host, log) = (site.host((part, number))?, node.log.clone());
    let complaints = complaints(&log, &chunk.id)?;
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset)?;
    byte[0] ^= 1 << site.rng.random_range(0..8);
    file.write_all_at(&byte, offset)?;
    file.sync_data()?;
    let place = (u64::from(chunk.index) * CHUNK_BYTES + offset - DATA_OFFSET) / BLOCK as u64;
    let (file, inode, byte) = (chunk.file, chunk.inode, byte[0]);
    Ok(Some(Flip { file, inode, place, path, offset, byte, host, log, complaints }))
}

/// Some place among the data that a replica's file stores.
fn stored(file: &File, rng: &mut StdRng) -> Result<Option<u64>> {
    let mut extents = Vec::new();
    let mut end = DATA_OFFSET;
    loop {
        let start = match seek(file, SeekFrom::Data(end)) {
            Err(Errno::NXIO) => break,
            found => found?,
        };
        end = seek(file, SeekFrom::Hole(start))?;
        extents.push(start..end);
    }
    Ok(extents.choose(rng).map(|extent| rng.random_range(extent.clone())))
}

/// How often a server has complained of a chunk. Logs name chunks by their decimal number.
fn complaints(log: &Path, id: &str) -> Result<usize> {
    let text = std::fs::read(log).with_context(|| log.display().to_string())?;
    let chunk = format!("chunk={} ", u64::from_str_radix(id, 16)?);
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().filter(|line| line.contains(COMPLAINT) && line.contains(&chunk)).count())
}

impl Flip {
    /// Reads the block until the damage is found, and waits until the replica is sound again. Returns how many damaged blocks were found:
    /// none, if the block was written anew before.
    pub(super) async fn mended(self, lab: &Lab) -> Result<u64> {
        let end = Instant::now() + PATIENCE;
        while !self.is_complained_of()? {
            if !self.is_there()? {
                return Ok(0);
            }
            if Instant::now() > end {
                return Err(self.broken("is noticed by nobody"));
            }
            self.read(lab).await?;
            tokio::time::sleep(LOOK).await;
        }
        let (end, mut recovery) = (Instant::now() + PATIENCE, Instant::now() + REST);
        // If it is still there in the end, the comparison of replicas after the run says so.
        while Instant::now() < end && self.is_there()? {
            if Instant::now() > recovery {
                let torn = Proxy::begin(&self.host, Line::Torn(1..2), 0)?;
                tokio::time::sleep(TORN).await;
                torn.lift()?;
                recovery = Instant::now() + REST;
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(1)
    }

    fn broken(&self, how: &str) -> anyhow::Error {
        Broken::promise(format!("{}: a flipped bit at {} {how}", self.path.display(), self.offset))
    }

    fn is_complained_of(&self) -> Result<bool> {
        let id = self.path.file_stem().context("a replica has a name")?.to_string_lossy().into_owned();
        Ok(complaints(&self.log, &id)? > self.complaints)
    }

    /// Whether the replica still has the flipped bit.
    fn is_there(&self) -> Result<bool> {
        let file = match File::open(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            opened => opened.with_context(|| self.path.display().to_string())?,
        };
        let mut byte = [0];
        file.read_exact_at(&mut byte, self.offset)?;
        Ok(byte[0] == self.byte)
    }

    /// Reads the block as a new client, which takes one of the replicas by chance. That may fail while servers are away; what it reads has
    /// to be right.
    async fn read(&self, lab: &Lab) -> Result<()> {
        let Some(client) = connect(lab).await else { return Ok(()) };
        let caller = Caller { uid: 0, gid: 0, groups: vec![] };
        let read = async {
            let (_, file) = client.files().open(&caller, self.inode, READ, false).await?;
            let bytes = file.read(self.place * BLOCK as u64, BLOCK as u32).await;
            file.release().await;
            bytes
        };
        let read = read.await;
        client.shutdown().await;
        match read {
            Ok(bytes) if block::read(self.file, self.place, &bytes) == Content::Mixed => Err(self.broken("was served")),
            Err(Error::Errno(libc::EIO)) => Err(self.broken("is EIO, though another replica is sound")),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_counts_in_its_version_only_and_when_it_is_complete() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("0000000000000005.chunk");
        assert!(!has(&path, 3));
        let mut bytes = vec![0; 3 * 4096];
        for (at, version, state) in [(0, 3_u64, COMPLETE), (4096, 4, 1), (8192, 2, COMPLETE)] {
            bytes[at + STATE] = state;
            bytes[at + VERSION.start..at + VERSION.end].copy_from_slice(&version.to_le_bytes());
        }
        std::fs::write(&path, bytes).expect("written");
        assert!(has(&path, 3) && !has(&path, 4) && !has(&path, 5));
    }
}
