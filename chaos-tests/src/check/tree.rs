//! The tree as a client sees it: every inode reachable, link counts those of the names.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, Result};
use caribou_cli::local::LocalCluster;
use caribou_client::meta::QueryOp;
use caribou_client::proto::meta::v1::{Caller, FileKind, GetAttr, ReadDir};
use caribou_client::{Client, ClientConfig};

const ROOT_INODE: u64 = 1;
const PAGE: u32 = 1000;

/// What the tree holds.
#[derive(Debug, Default)]
pub struct Tree {
    pub inodes: usize,
    /// Paths of all regular files.
    pub files: Vec<PathBuf>,
    pub violations: Vec<String>,
}

/// An inode and its names.
#[derive(Debug)]
struct Found {
    path: PathBuf,
    kind: FileKind,
    nlink: u32,
    names: u32,
    /// Directories in a directory.
    folders: u32,
}

/// Walks the whole tree. Nobody may change it meanwhile.
pub async fn check(cluster: &LocalCluster) -> Result<Tree> {
    let config =
        ClientConfig { meta: cluster.meta_addresses(), name: "tree check".to_owned(), ..ClientConfig::default() };
    let client = Client::connect(config).await?;
    let mut found = BTreeMap::new();
    let root = client.meta().query(&caller(), QueryOp::GetAttr(GetAttr { inode: ROOT_INODE })).await?;
    let nlink = root.attr.context("the root has attributes")?.nlink;
    let (path, kind) = (PathBuf::from("/"), FileKind::Directory);
    found.insert(ROOT_INODE, Found { path, kind, nlink, names: 1, folders: 0 });
    let mut open = vec![ROOT_INODE];
    while let Some(folder) = open.pop() {
        walk(&client, folder, &mut found, &mut open).await?;
    }
    client.shutdown().await;
    let mut tree = Tree { inodes: found.len(), ..Tree::default() };
    for (inode, Found { path, kind, nlink, names, folders }) in found {
        let expected = if kind == FileKind::Directory { 2 + folders } else { names };
        if nlink != expected {
            tree.violations.push(format!("{} (inode {inode}) has {nlink} links, not {expected}", path.display()));
        }
        if kind == FileKind::Regular {
            tree.files.push(path);
        }
    }
    let counted = cluster.status().await.totals.map(|totals| totals.inodes);
    if counted != Some(tree.inodes as u64) {
        tree.violations.push(format!("{} inodes can be reached, the metadata count {counted:?}", tree.inodes));
    }
    Ok(tree)
}

async fn walk(client: &Client, folder: u64, found: &mut BTreeMap<u64, Found>, open: &mut Vec<u64>) -> Result<()> {
    let (mut cookie, above) = (0, found[&folder].path.clone());
    loop {
        let read = ReadDir { inode: folder, cookie, limit: PAGE, plus: true };
        let page = client.meta().query(&caller(), QueryOp::ReadDir(read)).await?;
        for entry in &page.entries {
            cookie = entry.cookie;
            let (kind, inode) = (entry.kind(), entry.inode);
            if kind == FileKind::Directory {
                open.push(inode);
                found.entry(folder).and_modify(|here| here.folders += 1);
            }
            let path = above.join(String::from_utf8_lossy(&entry.name).as_ref());
            let nlink = entry.attr.map_or(0, |attr| attr.nlink);
            found.entry(inode).or_insert(Found { path, kind, nlink, names: 0, folders: 0 }).names += 1;
        }
        if page.end_of_directory {
            return Ok(());
        }
    }
}

fn caller() -> Caller {
    Caller { uid: 0, gid: 0, groups: vec![] }
}
