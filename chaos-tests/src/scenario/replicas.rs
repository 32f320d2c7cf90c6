//! Compares what the metadata say of replicas with what is on the chunk servers' disks.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_chunkd::store::stored::{DATA_AT, StoredReplica, chunk_path};
use caribou_cli::cmd::file::{ChunkInfo, info};
use caribou_cli::cmd::status::ClusterStatus;
use caribou_client::proto::ids::{ChunkId, ChunkVersion};
use caribou_client::{Client, ClientConfig};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::blocking;
use crate::check::tree;
use crate::lab::Lab;

/// What is wrong with the replicas of all files: each chunk has to be there as often as its goal, all equal, and each replica sound by
/// itself. What is wrong with the tree is told too.
pub(crate) async fn replicas_differ(lab: &Lab) -> Result<Vec<String>> {
    at_rest(lab).await?;
    let found = tree::check(&lab.cluster).await?;
    let (_, differ) = differ(lab, &found.files).await?;
    Ok(found.violations.into_iter().chain(differ).collect())
}

/// Grants end, garbage goes and chunks are recovered in the background; all must come to rest first.
pub(crate) async fn at_rest(lab: &Lab) -> Result<()> {
    let is_at_rest = |s: &ClusterStatus| {
        s.totals.as_ref().is_some_and(|t| t.garbage + t.grants + t.orphans + t.chunks_in_recovery + t.chunks_held == 0)
    };
    lab.cluster.wait_for(Duration::from_secs(60), "cluster at rest", is_at_rest).await
}

/// How many chunks these files have, and what is wrong with their replicas.
pub(crate) async fn differ(lab: &Lab, files: &[PathBuf]) -> Result<(usize, Vec<String>)> {
    let client = connect(lab, "replica check").await?;
    let (mut wrong, mut chunks) = (Vec::new(), 0);
    for path in files {
        for chunk in info(&client, path).await?.chunks {
            chunks += 1;
            let folders = folders(lab, &chunk);
            let found = blocking(move || compare(&folders, &chunk)).await?;
            wrong.extend(found.into_iter().map(|what| format!("{}: {what}", path.display())));
        }
    }
    client.shutdown().await;
    Ok((chunks, wrong))
}

/// A client that asks for places of chunks.
pub(super) async fn connect(lab: &Lab, name: &str) -> Result<Client> {
    let meta = lab.cluster.meta_addresses();
    Ok(Client::connect(ClientConfig { meta, name: name.to_owned(), ..ClientConfig::default() }).await?)
}

/// The data folders of the servers that the metadata name for a chunk.
pub(super) fn folders(lab: &Lab, chunk: &ChunkInfo) -> Vec<PathBuf> {
    let is_named = |address: &String| chunk.replicas.iter().any(|replica| replica.address == *address);
    let nodes = lab.cluster.layout().chunk.iter().filter(|node| is_named(&node.address));
    nodes.flat_map(|node| node.data.clone()).collect()
}

/// The number of a chunk, which is told in hexadecimal.
pub(super) fn id(chunk: &ChunkInfo) -> Result<ChunkId> {
    let number = u64::from_str_radix(&chunk.chunk, 16).with_context(|| format!("chunk {:?}", chunk.chunk))?;
    Ok(ChunkId(number))
}

/// What is wrong with the replicas of a chunk in these folders.
fn compare(folders: &[PathBuf], chunk: &ChunkInfo) -> Result<Vec<String>> {
    let (number, name) = (id(chunk)?, &chunk.chunk);
    let (mut wrong, mut copies) = (Vec::new(), Vec::new());
    for folder in folders {
        let Some(stored) = StoredReplica::read(folder, number)? else { continue };
        let data = read_data(&folder.join(chunk_path(number)))?;
        let unsound = unsound(&stored, &data, ChunkVersion(chunk.version)).into_iter();
        wrong.extend(unsound.map(|how| format!("the replica of chunk {name} in {} {how}", folder.display())));
        copies.push(data);
    }
    let (has, goal) = (copies.len(), chunk.goal);
    if has != goal as usize {
        wrong.push(format!("chunk {name} has {has} replicas, its goal is {goal}"));
    }
    if copies.iter().any(|copy| *copy != copies[0]) {
        wrong.push(format!("the {has} replicas of chunk {name} differ"));
    }
    Ok(wrong)
}

/// What is wrong with a replica whatever the others are.
fn unsound(stored: &StoredReplica, data: &[u8], version: ChunkVersion) -> Vec<String> {
    let mut wrong = Vec::new();
    if !stored.complete {
        wrong.push(format!("is incomplete; it has completed version {}", stored.completed));
    }
    if stored.version != version {
        wrong.push(format!("has version {}, the metadata name {version}", stored.version));
    }
    let blocks = stored.wrong_blocks(data);
    if let Some(first) = blocks.first() {
        wrong.push(format!("has {} blocks that contradict its checksums, the first is {first}", blocks.len()));
    }
    wrong
}

/// The data of one replica, without zeros at the end: a hole there may be stored or not.
fn read_data(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let mut data = vec![0; usize::try_from(end_of_data(&file)?.saturating_sub(DATA_AT))?];
    file.read_exact_at(&mut data, DATA_AT)?;
    data.truncate(data.iter().rposition(|b| *b != 0).map_or(0, |p| p + 1));
    Ok(data)
}

/// Where the last stored byte may be: replicas are as long as a chunk can be, and mostly hole.
fn end_of_data(file: &File) -> Result<u64> {
    let mut end = 0;
    loop {
        match seek(file, SeekFrom::Data(end)) {
            Ok(start) => end = seek(file, SeekFrom::Hole(start))?,
            Err(Errno::NXIO) => return Ok(end),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use caribou_chunkd::store::file::FileDisk;
    use caribou_chunkd::store::{ChunkStore, ClusterIdentity, OpenOptions, Prepare, Write};
    use caribou_client::proto::ids::{GrantId, ServerId};

    use super::*;

    const CHUNK: ChunkId = ChunkId(0x0001_0000_0000_0001);
    const FIRST: ChunkVersion = ChunkVersion(1);
    const BLOCK: u64 = 64 << 10;

    /// A chunk server's store with one chunk, whose first block and a half are written and synced.
    async fn store(folder: &Path) -> Arc<ChunkStore> {
        let disk = Arc::new(FileDisk::open(folder).expect("a folder"));
        let mut uuids = 0_u8;
        let new_uuid = Box::new(move || {
            uuids += 1;
            [uuids; 16]
        });
        let options = OpenOptions { disks: vec![disk], new_uuid, now_unix_ms: 0, deadline: Duration::from_secs(20) };
        let store = ChunkStore::open(options).await.expect("an empty folder");
        let cluster = ClusterIdentity { uuid: [9; 16], generation: 1, nonce: 1 };
        store.adopt(cluster, ServerId(1)).await.expect("registered");
        let data = vec![7; BLOCK as usize * 3 / 2];
        let write = Write {
            chunk: CHUNK,
            version: FIRST,
            grant: GrantId::new(1, 1),
            create: true,
            offset: 0,
            crc: crc32c::crc32c(&data),
            data: data.into(),
            tail: true,
        };
        store.write(write).await.expect("written");
        store.sync(CHUNK, FIRST).await.expect("synced");
        store
    }

    /// Compares what a folder has with what the metadata say.
    fn told(folder: &Path, version: u64) -> Vec<String> {
        let chunk = ChunkInfo {
            index: 0,
            chunk: format!("{:016x}", CHUNK.0),
            version,
            state: "ready",
            goal: 1,
            granted: false,
            replicas: Vec::new(),
        };
        compare(&[folder.to_owned()], &chunk).expect("it can be read")
    }

    fn assert_told(told: &[String], what: &str) {
        assert!(told.len() == 1 && told[0].contains(what), "{what}: {told:?}");
    }

    #[tokio::test]
    async fn each_way_to_be_unsound_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let folder = dir.path();
        assert_told(&told(folder, 1), "has 0 replicas, its goal is 1");
        let store = store(folder).await;
        assert_eq!(told(folder, 1), Vec::<String>::new());
        assert_told(&told(folder, 2), "has version 1, the metadata name 2");

        let file = File::options().write(true).open(folder.join(chunk_path(CHUNK))).expect("a replica");
        let put = |place: u64, byte: u8| file.write_all_at(&[byte], DATA_AT + place).expect("written");
        put(BLOCK + 5, 6);
        assert_told(&told(folder, 1), "1 blocks that contradict its checksums, the first is 1");
        put(BLOCK + 5, 7);
        put(9 * BLOCK, 1);
        assert_told(&told(folder, 1), "1 blocks that contradict its checksums, the first is 9");
        put(9 * BLOCK, 0);
        assert_eq!(told(folder, 1), Vec::<String>::new());

        let prepare = Prepare { chunk: CHUNK, version: ChunkVersion(2), join: false, old_grant: GrantId::new(1, 1) };
        store.prepare(prepare).await.expect("prepared");
        assert_told(&told(folder, 2), "is incomplete; it has completed version 1");
    }
}
