//! A chunk server, and separately a writing client, are killed during writes with two copies: no error at other clients, no fsynced
//! byte lost, replicas equal afterwards, the goal restored.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::cmd::file::info;
use caribou_cli::local::{Options, Part};
use caribou_client::meta::QueryOp;
use caribou_client::proto::meta::v1::{Caller, FileKind, ReadDir};
use caribou_client::{Client, ClientConfig};
use rustix::process::Signal;

use super::writers::{Worker, Written, drop_caches, writer};
use super::{blocking, healed};
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

const WRITERS: u64 = 3;
/// The root folder's inode.
const ROOT_INODE: u64 = 1;
/// Where data begin in a replica's file (docs/on-disk-format.md).
const DATA_OFFSET: usize = 64 << 10;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often a chunk server is killed, in turn
    #[arg(long, default_value_t = 3)]
    pub kills: usize,
    /// How long a killed chunk server stays away
    #[arg(long, default_value = "8s", value_parser = humantime::parse_duration)]
    pub away: Duration,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("chunk-kill");
    let options = Options::default();
    let mut lab = Lab::up(setting, &options).await?;
    let (mount, doomed) = (lab.mount(&[]).await?, lab.mount(&[]).await?);
    let writers = (0..WRITERS).map(|n| writer(&mount, n)).collect::<Result<Vec<_>>>()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for kill in 0..args.kills {
        let number = kill % options.chunk + 1;
        let before: u64 = writers.iter().map(Worker::progress).sum();
        lab.cluster.signal(Part::Chunk, number, Signal::KILL)?;
        tokio::time::sleep(args.away).await;
        let after: u64 = writers.iter().map(Worker::progress).sum();
        verdict.check(after > before, || format!("no fsync succeeded while chunk server {number} was away"));
        lab.cluster.start(Part::Chunk, number).await?;
        lab.cluster.wait_ready(Duration::from_secs(30)).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    // A client dies in the middle of its writes; another one then writes the same file.
    let mut dying = writer(&doomed, 77)?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let killed_after = dying.progress();
    dying.tell_to_stop();
    lab.cluster.kill_mount(&doomed)?;
    let dead: Written = dying.finish()?;
    drop_caches()?;
    let path = mount.join("written77");
    let (ledger, read) = (dead.ledger.clone(), path.clone());
    verdict.violations.extend(blocking(move || Ok(ledger.verify(77, &read))).await?);
    let taken_over = path.clone();
    let write = blocking(move || {
        use std::os::unix::fs::FileExt;
        let file = std::fs::OpenOptions::new().write(true).open(&taken_over)?;
        file.write_all_at(&crate::block::make(77, 0, u64::MAX), 0)?;
        Ok(file.sync_all()?)
    });
    let result = tokio::time::timeout(Duration::from_secs(60), write)
        .await
        .context("a dead writer's file could not be written within 60 s (W8)");
    verdict.check(matches!(result, Ok(Ok(()))), || format!("after the writer's death: {result:?}"));

    let mut synced = 0;
    let mut written: Vec<Written> = Vec::new();
    for writer in writers {
        written.push(blocking(move || writer.finish()).await?);
    }
    healed(&lab).await?;
    drop_caches()?;
    for file in written {
        synced += file.ledger.synced_blocks();
        verdict.violations.extend(file.errors);
        let path = file.path;
        verdict.violations.extend(blocking(move || Ok(file.ledger.verify(file.id, &path))).await?);
    }
    verdict.figure("chunk servers killed", args.kills);
    verdict.figure("blocks fsynced", synced);
    verdict.figure("fsyncs of the killed client", killed_after);
    verdict.check(killed_after > 0, || "the killed client had written nothing".to_owned());
    verdict.violations.extend(replicas_differ(&lab).await?);
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// Compares the replicas that the metadata name, on the chunk servers' disks: each chunk as often as its goal, and all equal.
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
            let copies = blocking(move || read_copies(folders, &format!("{id}.chunk"))).await?;
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

/// The data of one chunk's copies, without zeros at the end: a hole there may be stored or not.
fn read_copies(folders: Vec<PathBuf>, name: &str) -> Result<Vec<Vec<u8>>> {
    let mut copies = Vec::new();
    for folder in folders {
        for entry in walkdir::WalkDir::new(folder.join("chunks")) {
            let entry = entry?;
            if entry.file_name().to_string_lossy() == name {
                let mut data = std::fs::read(entry.path())?.split_off(DATA_OFFSET);
                data.truncate(data.iter().rposition(|b| *b != 0).map_or(0, |p| p + 1));
                copies.push(data);
            }
        }
    }
    Ok(copies)
}
