//! `caribou demo`: a cluster, a mount, a real tree copied while the leader is killed again and again, every byte compared.

mod story;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;

use crate::failure::usage;
use crate::local::Binaries;
use crate::tree::Tree;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The tree to copy; by default cargo's registry sources, or /usr/share
    #[arg(long, value_name = "DIR")]
    source: Option<PathBuf>,
    /// How many files of it
    #[arg(long, default_value_t = 4000, value_name = "N")]
    files: usize,
    /// Time between two kills of the leader
    #[arg(long, default_value = "4s", value_name = "DURATION", value_parser = humantime::parse_duration)]
    kill_every: Duration,
    /// Kills at least, even if the copy is done before
    #[arg(long, default_value_t = 5, value_name = "N")]
    kills: usize,
    /// Leave the cluster running and say how to use it
    #[arg(long)]
    keep: bool,
    /// Folder with Caribou's programs; by default that of this one
    #[arg(long, env = "CARIBOU_BIN", value_name = "DIR")]
    bin: Option<PathBuf>,
}

impl Args {
    pub async fn run(self) -> Result<ExitCode> {
        let binaries = Binaries::find(self.bin.as_deref())?;
        let source = self.source.clone().unwrap_or_else(default_source);
        if !source.is_dir() {
            return Err(usage(format!("{} is no folder: name one with --source", source.display())));
        }
        let files = self.files;
        let tree = tokio::task::spawn_blocking(move || Tree::list(&source, files)).await??;
        if tree.files == 0 {
            return Err(usage(format!("{} holds no files: name another folder with --source", tree.root.display())));
        }
        story::tell(&self, binaries, tree).await
    }
}

fn default_source() -> PathBuf {
    let home = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| std::env::var_os("HOME").map(|h| PathBuf::from(h).join(".cargo")));
    home.map(|h| h.join("registry/src")).filter(|p| p.is_dir()).unwrap_or_else(|| "/usr/share".into())
}
