//! Compares what the metadata say of replicas with what is on the chunk servers' disks.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use caribou_cli::cmd::file::info;
use caribou_client::meta::QueryOp;
use caribou_client::proto::meta::v1::{Caller, FileKind, ReadDir};
use caribou_client::{Client, ClientConfig};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

use super::blocking;
use crate::lab::Lab;

/// The root folder's inode.
const ROOT_INODE: u64 = 1;
/// Where data begin in a replica's file (docs/on-disk-format.md).
const DATA_OFFSET: u64 = 64 << 10;

/// What is wrong with the replicas of the root folder's files: each chunk has to be there as often as its goal, and all equal.
pub(super) async fn replicas_differ(lab: &Lab) -> Result<Vec<String>> {
    // Grants end and garbage goes in the background; both must come to rest first.
    let settled = lab.cluster.wait_for(Duration::from_secs(60), "cluster at rest", |s| {
        s.totals.as_ref().is_some_and(|t| t.garbage + t.grants + t.orphans == 0)
    });
    settled.await?;
    let config = ClientConfig {
        meta: lab.cluster.meta_addresses(),
        name: "replica check".to_owned(),
        ..ClientConfig::default()
    };
    let client = Client::connect(config).await?;
    let mut wrong = Vec::new();
    for name in files_of_root(&client).await? {
        for chunk in info(&client, &PathBuf::from("/").join(&name)).await?.chunks {
            let nodes = &lab.cluster.layout().chunk;
            let addresses: Vec<String> = chunk.replicas.iter().map(|r| r.address.clone()).collect();
            let folders =
                nodes.iter().filter(|n| addresses.contains(&n.address)).flat_map(|n| n.data.clone()).collect();
            let id = chunk.chunk.clone();
            let copies = blocking(move || read_copies(folders, &id)).await?;
            if copies.len() != chunk.goal as usize {
                wrong.push(format!(
                    "{name}: chunk {} has {} replicas, its goal is {}",
                    chunk.chunk,
                    copies.len(),
                    chunk.goal
                ));
            }
            if copies.iter().any(|c| *c != copies[0]) {
                wrong.push(format!("{name}: the {} replicas of chunk {} differ", copies.len(), chunk.chunk));
            }
        }
    }
    client.shutdown().await;
    Ok(wrong)
}

async fn files_of_root(client: &Client) -> Result<Vec<String>> {
    let caller = Caller { uid: 0, gid: 0, groups: vec![] };
    let (mut names, mut cookie) = (Vec::new(), 0);
    loop {
        let read = ReadDir { inode: ROOT_INODE, cookie, limit: 1000, plus: false };
        let page = client.meta().query(&caller, QueryOp::ReadDir(read)).await?;
        for entry in &page.entries {
            cookie = entry.cookie;
            if entry.kind() == FileKind::Regular {
                names.push(String::from_utf8_lossy(&entry.name).into_owned());
            }
        }
        if page.end_of_directory {
            return Ok(names);
        }
    }
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
