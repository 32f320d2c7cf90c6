//! How a local cluster is to be made: folders, addresses and configuration files.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::layout::{Layout, Node, Part};

/// Where a server runs, if not simply on this machine's loopback.
#[derive(Debug, Clone)]
pub struct Host {
    pub address: String,
    /// Words in front of the program, such as those that run it in a network namespace.
    pub through: Vec<String>,
}

/// How to make a cluster.
#[derive(Debug, Clone)]
pub struct Options {
    pub meta: usize,
    pub chunk: usize,
    /// Copies of every chunk.
    pub goal: u32,
    /// Data folders of one metadata node or chunk server; by default below the cluster's folder.
    pub data_of: fn(dir: &Path, part: Part, number: usize) -> Vec<PathBuf>,
    /// Servers with a host of their own; the others get a free port on loopback.
    pub hosts: BTreeMap<(Part, usize), Host>,
    /// Lines added to each metadata node's configuration.
    pub meta_config: String,
    /// Lines added to each chunk server's configuration.
    pub chunk_config: String,
}

impl Default for Options {
    fn default() -> Self {
        let data_of = |dir: &Path, part: Part, number: usize| vec![dir.join(format!("{}{number}", part.name()))];
        Self {
            meta: 3,
            chunk: 3,
            goal: 2,
            data_of,
            hosts: BTreeMap::new(),
            meta_config: String::new(),
            chunk_config: String::new(),
        }
    }
}

/// Makes folders and chooses ports. All ports are held open until the last one is chosen, so that none is given twice.
pub(super) fn layout(dir: &Path, options: &Options) -> Result<Layout> {
    let mut held = Vec::new();
    let mut host = |part: Part, number: usize| -> Result<Host> {
        if let Some(host) = options.hosts.get(&(part, number)) {
            return Ok(host.clone());
        }
        let listener = TcpListener::bind("127.0.0.1:0").context("no free port")?;
        let address = listener.local_addr()?.to_string();
        held.push(listener);
        Ok(Host { address, through: Vec::new() })
    };
    let mut nodes = |part: Part, count: usize| -> Result<Vec<Node>> {
        (1..=count)
            .map(|number| {
                let Host { address, through } = host(part, number)?;
                let name = format!("{}{number}", part.name());
                let data = (options.data_of)(dir, part, number);
                for folder in &data {
                    std::fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
                }
                let (config, log) = (dir.join(format!("{name}.toml")), dir.join(format!("{name}.log")));
                Ok(Node { number, address, through, data, config, log, process: None })
            })
            .collect()
    };
    let meta = nodes(Part::Meta, options.meta)?;
    let chunk = nodes(Part::Chunk, options.chunk)?;
    Ok(Layout { meta, chunk, mounts: Vec::new() })
}

/// Writes each server's configuration file.
pub(super) fn write_configs(layout: &Layout, options: &Options) -> Result<()> {
    let meta = toml_list(&layout.meta_addresses());
    for node in &layout.meta {
        let data = node.data.first().context("a metadata node has a data folder")?;
        let text = format!(
            "node_id = {}\nlisten = \"{}\"\ndata = \"{}\"\n{}\n",
            node.number,
            node.address,
            data.display(),
            options.meta_config
        );
        std::fs::write(&node.config, text).with_context(|| node.config.display().to_string())?;
    }
    for node in &layout.chunk {
        let data: Vec<String> = node.data.iter().map(|d| d.display().to_string()).collect();
        let text = format!(
            "listen = \"{}\"\ndata = {}\nmeta = {meta}\n{}\n",
            node.address,
            toml_list(&data),
            options.chunk_config
        );
        std::fs::write(&node.config, text).with_context(|| node.config.display().to_string())?;
    }
    Ok(())
}

fn toml_list(items: &[String]) -> String {
    format!("[{}]", items.iter().map(|i| format!("\"{i}\"")).collect::<Vec<_>>().join(", "))
}
