//! What a local cluster's folder says: `cluster.json` with nodes, ports and processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::process::ProcessId;
use crate::failure::usage;

const FILE: &str = "cluster.json";

/// The parts of a local cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    Meta,
    Chunk,
}

impl Part {
    /// As in folder and log names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Meta => "meta",
            Self::Chunk => "chunk",
        }
    }
}

/// One server process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Node {
    /// From 1 within its part.
    pub number: usize,
    pub address: String,
    /// Words in front of the program.
    #[serde(default)]
    pub through: Vec<String>,
    /// Data folders.
    pub data: Vec<PathBuf>,
    pub config: PathBuf,
    pub log: PathBuf,
    pub process: Option<ProcessId>,
}

/// One mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MountEntry {
    pub path: PathBuf,
    pub log: PathBuf,
    pub process: Option<ProcessId>,
}

/// The whole cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layout {
    pub meta: Vec<Node>,
    pub chunk: Vec<Node>,
    pub mounts: Vec<MountEntry>,
}

impl Layout {
    /// Reads the folder of a cluster that `local up` made.
    pub fn read(dir: &Path) -> Result<Self> {
        let path = dir.join(FILE);
        let text = std::fs::read_to_string(&path).map_err(|error| {
            usage(format!(
                "{} is no local cluster ({FILE}: {error}): make one with `caribou local up --dir {}`",
                dir.display(),
                dir.display()
            ))
        })?;
        serde_json::from_str(&text).with_context(|| format!("{} cannot be understood", path.display()))
    }

    /// Whether a cluster is in this folder.
    pub fn exists(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Replaces the file as a whole.
    pub fn write(&self, dir: &Path) -> Result<()> {
        let new = dir.join(format!("{FILE}.new"));
        std::fs::write(&new, serde_json::to_vec_pretty(self)?).with_context(|| new.display().to_string())?;
        std::fs::rename(&new, dir.join(FILE)).with_context(|| new.display().to_string())
    }

    pub fn nodes(&self, part: Part) -> &[Node] {
        match part {
            Part::Meta => &self.meta,
            Part::Chunk => &self.chunk,
        }
    }

    pub fn nodes_mut(&mut self, part: Part) -> &mut Vec<Node> {
        match part {
            Part::Meta => &mut self.meta,
            Part::Chunk => &mut self.chunk,
        }
    }

    /// Addresses of all metadata nodes.
    pub fn meta_addresses(&self) -> Vec<String> {
        self.meta.iter().map(|n| n.address.clone()).collect()
    }
}
