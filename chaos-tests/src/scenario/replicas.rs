//! Compares what the metadata say of replicas with what is on the chunk servers' disks.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use caribou_cli::cmd::file::info;
use caribou_cli::cmd::status::ClusterStatus;
use caribou_client::{Client, ClientConfig};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::blocking;
use crate::check::tree;
use crate::lab::Lab;

/// Where data begin in a replica's file (docs/on-disk-format.md).
const DATA_OFFSET: u64 = 64 << 10;

/// What is wrong with the replicas of all files: each chunk has to be there as often as its goal, and all equal. What is wrong with the
/// tree is told too.
pub(crate) async fn replicas_differ(lab: &Lab) -> Result<Vec<String>> {
    at_rest(lab).await?;
    let found = tree::check(&lab.cluster).await?;
    let (_, differ) = differ(lab, &found.files).await?;
    Ok(found.violations.into_iter().chain(differ).collect())
}

/// Grants end and garbage goes in the background; both must come to rest first.
pub(crate) async fn at_rest(lab: &Lab) -> Result<()> {
    let is_at_rest = |s: &ClusterStatus| s.totals.as_ref().is_some_and(|t| t.garbage + t.grants + t.orphans == 0);
    lab.cluster.wait_for(Duration::from_secs(60), "cluster at rest", is_at_rest).await
}

/// How many chunks these files have, and what is wrong with their replicas.
pub(crate) async fn differ(lab: &Lab, files: &[PathBuf]) -> Result<(usize, Vec<String>)> {
    let config = ClientConfig {
        meta: lab.cluster.meta_addresses(),
        name: "replica check".to_owned(),
        ..ClientConfig::default()
    };
    let client = Client::connect(config).await?;
    let (mut wrong, mut chunks) = (Vec::new(), 0);
    for path in files {
        for chunk in info(&client, path).await?.chunks {
            chunks += 1;
            let nodes = &lab.cluster.layout().chunk;
            let addresses: Vec<String> = chunk.replicas.iter().map(|r| r.address.clone()).collect();
            let folders =
                nodes.iter().filter(|n| addresses.contains(&n.address)).flat_map(|n| n.data.clone()).collect();
            let (id, name) = (chunk.chunk.clone(), path.display());
            let copies = blocking(move || read_copies(folders, &id)).await?;
            if copies.len() != chunk.goal as usize {
                let (has, goal) = (copies.len(), chunk.goal);
                wrong.push(format!("{name}: chunk {} has {has} replicas, its goal is {goal}", chunk.chunk));
            }
            if copies.iter().any(|c| *c != copies[0]) {
                wrong.push(format!("{name}: the {} replicas of chunk {} differ", copies.len(), chunk.chunk));
            }
        }
    }
    client.shutdown().await;
    Ok((chunks, wrong))
}

/// The data of one chunk's copies, without zeros at the end: a hole there may be stored or not. `id`: 16 hexadecimal digits, whose last two
/// are the name of the folder.
fn read_copies(folders: Vec<PathBuf>, id: &str) -> Result<Vec<Vec<u8>>> {
    let mut copies = Vec::new();
    let place = PathBuf::from("chunks").join(&id[id.len().saturating_sub(2)..]).join(format!("{id}.chunk"));
    for folder in folders {
        let file = match File::open(folder.join(&place)) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        let mut data = vec![0; usize::try_from(end_of_data(&file)?.saturating_sub(DATA_OFFSET))?];
        file.read_exact_at(&mut data, DATA_OFFSET)?;
        data.truncate(data.iter().rposition(|b| *b != 0).map_or(0, |p| p + 1));
        copies.push(data);
    }
    Ok(copies)
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
