//! `caribou file info`: where a file's bytes are.

use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use bytesize::ByteSize;
use caribou_client::meta::QueryOp;
use caribou_client::{Client, ClientConfig, Error};
use caribou_proto::ids::{CHUNK_BYTES, ROOT_INODE};
use caribou_proto::meta::v1::{Attr, Caller, ChunkLocation, ChunkState, GetAttr, Locate, Lookup};
use serde::Serialize;

use crate::admin::MetaAddresses;
use crate::failure::usage;

/// Chunks asked for at once.
const PAGE: u32 = 256;
/// How long the metadata nodes may take.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    meta: MetaAddresses,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Chunks of a file, their versions, and where each replica is
    Info {
        /// A path on a mounted Caribou, or a path from the cluster's root together with --meta
        path: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// What is known of a file's data.
#[derive(Debug, Serialize)]
pub struct FileInfo {
    pub path: String,
    pub inode: u64,
    pub length_bytes: u64,
    /// Bytes of the first chunk that are on the metadata nodes.
    pub inline_bytes: u64,
    pub chunks: Vec<ChunkInfo>,
}

#[derive(Debug, Serialize)]
pub struct ChunkInfo {
    pub index: u32,
    /// Hexadecimal, as chunk servers name their files.
    pub chunk: String,
    pub version: u64,
    pub state: &'static str,
    pub goal: u32,
    pub granted: bool,
    pub replicas: Vec<ReplicaInfo>,
}

#[derive(Debug, Serialize)]
pub struct ReplicaInfo {
    pub server_id: u64,
    pub address: String,
}

impl Args {
    pub async fn run(self) -> Result<ExitCode> {
        let Action::Info { path, json } = self.action;
        let (meta, inside) = match mount_of(&path)? {
            Some((meta, inside)) => (meta, inside),
            None => (self.meta.meta.clone(), path.clone()),
        };
        let config = ClientConfig {
            meta,
            name: "caribou file info".to_owned(),
            soft: Some(PATIENCE),
            ..ClientConfig::default()
        };
        let client = Client::connect(config).await.map_err(|e| usage(e.to_string()))?;
        let result = info(&client, &inside).await;
        client.shutdown().await;
        let info = result?;
        if json {
            println!("{}", serde_json::to_string_pretty(&info)?);
        } else {
            print(&info);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Looks a path up from the root and locates all its chunks. Symbolic links are not followed.
pub async fn info(client: &Client, path: &Path) -> Result<FileInfo> {
    let caller = Caller { uid: 0, gid: 0, groups: vec![] };
    let attr = resolve(client, &caller, path).await?;
    let chunks = attr.size.div_ceil(CHUNK_BYTES).max(1) as u32;
    let (mut found, mut inline_bytes) = (Vec::new(), 0);
    for first_index in (0..chunks).step_by(PAGE as usize) {
        let locate = Locate { inode: attr.inode, first_index, count: PAGE.min(chunks - first_index) };
        let reply = client.meta().query(&caller, QueryOp::Locate(locate)).await?;
        inline_bytes += reply.inline.as_ref().map_or(0, |bytes| bytes.len() as u64);
        found.extend(reply.chunks.iter().filter(|c| c.chunk != 0).map(ChunkInfo::from));
    }
    let (path, inode) = (path.display().to_string(), attr.inode);
    Ok(FileInfo { path, inode, length_bytes: attr.size, inline_bytes, chunks: found })
}

async fn resolve(client: &Client, caller: &Caller, path: &Path) -> Result<Attr> {
    let root = QueryOp::GetAttr(GetAttr { inode: ROOT_INODE.0 });
    let mut attr = client.meta().query(caller, root).await?.attr.context("the root has no attributes")?;
    let mut walked = PathBuf::from("/");
    for component in path.components() {
        let name = match component {
            Component::RootDir | Component::CurDir => continue,
            Component::Normal(name) => name,
            Component::ParentDir | Component::Prefix(_) => {
                return Err(usage(format!("{}: write the path without \"..\"", path.display())));
            }
        };
        walked.push(name);
        let lookup = Lookup { parent: attr.inode, name: name.as_bytes().to_vec().into() };
        attr = match client.meta().query(caller, QueryOp::Lookup(lookup)).await {
            Ok(body) => body.attr.context("a lookup was answered without attributes")?,
            Err(Error::Errno(libc::ENOENT)) => {
                return Err(usage(format!("{} does not exist in the cluster", walked.display())));
            }
            Err(error) => return Err(error).with_context(|| walked.display().to_string()),
        };
    }
    Ok(attr)
}

impl From<&ChunkLocation> for ChunkInfo {
    fn from(c: &ChunkLocation) -> Self {
        let state = match c.state() {
            ChunkState::Unknown => "unknown",
            ChunkState::Hole => "new",
            ChunkState::Ready => "ready",
            ChunkState::InRecovery => "in recovery",
            ChunkState::Held => "held",
        };
        Self {
            index: c.index,
            chunk: format!("{:016x}", c.chunk),
            version: c.version,
            state,
            goal: c.goal,
            granted: c.granted,
            replicas: c
                .holders
                .iter()
                .map(|h| ReplicaInfo { server_id: h.server_id, address: h.address.clone() })
                .collect(),
        }
    }
}

/// The metadata addresses and the path inside the file system, if `path` lies on a Caribou mount.
fn mount_of(path: &Path) -> Result<Option<(Vec<String>, PathBuf)>> {
    let Ok(full) = std::path::absolute(path) else { return Ok(None) };
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    let mut best: Option<(PathBuf, String)> = None;
    for line in mounts.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let (kind, source) = (right.next().unwrap_or_default(), right.next().unwrap_or_default());
        let Some(point) = left.split(' ').nth(4) else { continue };
        let longer = best.as_ref().is_none_or(|(b, _)| b.as_os_str().len() < point.len());
        if kind == "fuse.caribou" && full.starts_with(point) && longer {
            best = Some((PathBuf::from(point), source.to_owned()));
        }
    }
    Ok(best.map(|(point, source)| {
        let inside = Path::new("/").join(full.strip_prefix(&point).expect("the path starts with its mount point"));
        (source.split(';').map(str::to_owned).collect(), inside)
    }))
}

fn print(info: &FileInfo) {
    println!("{}: inode {}, {}", info.path, info.inode, ByteSize(info.length_bytes));
    if info.inline_bytes > 0 {
        println!("  {} with its attributes, on every metadata node", ByteSize(info.inline_bytes));
    }
    for c in &info.chunks {
        let replicas: Vec<String> =
            c.replicas.iter().map(|r| format!("server {} ({})", r.server_id, r.address)).collect();
        let granted = if c.granted { ", being written" } else { "" };
        println!(
            "  chunk {} {} version {} {}{granted}, {} of {} copies: {}",
            c.index,
            c.chunk,
            c.version,
            c.state,
            c.replicas.len(),
            c.goal,
            replicas.join(", ")
        );
    }
}
