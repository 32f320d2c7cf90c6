//! Looks for replicas on chunk servers' disks that no file is said to have there (R4).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use caribou_cli::cmd::file::info;
use caribou_client::{Client, ClientConfig};

use super::blocking;
use crate::lab::Lab;

/// How many replicas there are, and those that none of these files has there. `files`: all that there are; the cluster is at rest.
pub(crate) async fn left(lab: &Lab, files: &[PathBuf]) -> Result<(usize, Vec<String>)> {
    let named = named(lab, files).await?;
    let nodes = lab.cluster.layout().chunk.clone();
    blocking(move || {
        let (mut count, mut left) = (0, Vec::new());
        for node in nodes {
            for chunk in node.data.iter().flat_map(|folder| replicas(folder)) {
                count += 1;
                if !named.contains(&(node.address.clone(), chunk.clone())) {
                    left.push(format!(
                        "chunk server {} has a replica of chunk {chunk}, which nobody counts on",
                        node.number
                    ));
                }
            }
        }
        Ok((count, left))
    })
    .await
}

/// The address of a server and the id of a chunk, of every replica of these files.
async fn named(lab: &Lab, files: &[PathBuf]) -> Result<BTreeSet<(String, String)>> {
    let config = ClientConfig {
        meta: lab.cluster.meta_addresses(),
        name: "search for strays".to_owned(),
        ..ClientConfig::default()
    };
    let client = Client::connect(config).await?;
    let mut named = BTreeSet::new();
    for path in files {
        for chunk in info(&client, path).await?.chunks {
            named.extend(chunk.replicas.into_iter().map(|replica| (replica.address, chunk.chunk.clone())));
        }
    }
    client.shutdown().await;
    Ok(named)
}

/// The ids of the chunks that a data folder has, as its files are named. What goes meanwhile is not there.
fn replicas(folder: &Path) -> Vec<String> {
    let files = walkdir::WalkDir::new(folder.join("chunks")).into_iter().flatten();
    let names = files.filter_map(|entry| entry.file_name().to_str().map(str::to_owned));
    names.filter_map(|name| name.strip_suffix(".chunk").map(str::to_owned)).collect()
}
