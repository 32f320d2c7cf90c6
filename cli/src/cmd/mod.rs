//! The command line's verbs and nouns, one file each.

mod bench;
pub mod file;
mod init;
mod leader;
mod local;
pub mod status;

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster of running, empty metadata nodes (once)
    Init(init::Args),
    /// Show the cluster: metadata nodes, chunk servers, clients
    Status(status::Args),
    /// Hand leadership to another metadata node
    Leader(leader::Args),
    /// Look at a file: its chunks, their versions and where each replica is
    File(file::Args),
    /// A whole cluster on this machine, in one folder
    Local(local::Args),
    /// Measure a mounted directory, or the metadata nodes
    Bench(bench::Args),
    /// Show what Caribou promises: copy a tree while the leader is killed again and again
    Demo(crate::demo::Args),
}

impl Command {
    pub async fn run(self) -> Result<ExitCode> {
        match self {
            Self::Init(args) => args.run().await,
            Self::Status(args) => args.run().await,
            Self::Leader(args) => args.run().await,
            Self::File(args) => args.run().await,
            Self::Local(args) => args.run().await,
            Self::Bench(args) => args.run().await,
            Self::Demo(args) => args.run().await,
        }
    }
}
