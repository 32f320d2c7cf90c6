//! `caribou local`: a whole cluster on this machine, in one folder.

use std::path::PathBuf;
use std::process::ExitCode;
use std::str::FromStr;

use anyhow::Result;
use rustix::process::Signal;

use super::status;
use crate::failure::usage;
use crate::local::{Binaries, Layout, LocalCluster, Options, Part};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// The cluster's folder
    #[arg(long, global = true, default_value = "./caribou-local", value_name = "DIR")]
    dir: PathBuf,
    /// Folder with Caribou's programs; by default that of this one
    #[arg(long, global = true, env = "CARIBOU_BIN", value_name = "DIR")]
    bin: Option<PathBuf>,
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a cluster, or start the one in the folder
    Up {
        /// Metadata nodes
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=7))]
        meta: u8,
        /// Chunk servers
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
        chunk: u8,
        /// Copies of every chunk
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=9))]
        goal: u32,
        /// Mount the file system there
        #[arg(long, value_name = "PATH")]
        mount: Option<PathBuf>,
    },
    /// Stop everything
    Down,
    /// Show the cluster
    Status {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// kill -9: `leader`, `meta N`, `chunk N` or `all`
    Kill {
        #[arg(num_args = 1..=2, value_name = "WHAT [N]")]
        what: Vec<String>,
    },
    /// Start what is not running, or stop (SIGTERM) and start `meta N` or `chunk N`
    Restart {
        #[arg(num_args = 0..=2, value_name = "WHAT [N]")]
        what: Vec<String>,
    },
}

/// What `kill` and `restart` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Leader,
    All,
    One(Part, usize),
}

impl Target {
    fn parse(words: &[String]) -> Result<Self> {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let number = |text: &str| usize::from_str(text).map_err(|_| usage(format!("\"{text}\" is no number")));
        match words[..] {
            ["leader"] => Ok(Self::Leader),
            ["all"] => Ok(Self::All),
            ["meta", n] => Ok(Self::One(Part::Meta, number(n)?)),
            ["chunk", n] => Ok(Self::One(Part::Chunk, number(n)?)),
            _ => Err(usage(format!("\"{}\" names nothing: write leader, all, meta N or chunk N", words.join(" ")))),
        }
    }
}

impl Args {
    pub async fn run(self) -> Result<ExitCode> {
        let binaries = Binaries::find(self.bin.as_deref())?;
        match self.action {
            Action::Up { meta, chunk, goal, mount } => {
                let mut cluster = if Layout::exists(&self.dir) {
                    let mut cluster = LocalCluster::open(&self.dir, binaries)?;
                    cluster.start_all().await?;
                    cluster.wait_ready(std::time::Duration::from_secs(30)).await?;
                    cluster
                } else {
                    let options = Options { meta: meta.into(), chunk: chunk.into(), goal, ..Options::default() };
                    LocalCluster::create(&self.dir, binaries, &options).await?
                };
                if let Some(path) = mount {
                    cluster.mount(&path, &[]).await?;
                    println!("mounted at {}", path.display());
                }
                println!("metadata nodes: {}", cluster.meta_addresses().join(","));
                println!("stop it with: caribou local down --dir {}", self.dir.display());
            }
            Action::Down => LocalCluster::open(&self.dir, binaries)?.down()?,
            Action::Status { json } => {
                let status = LocalCluster::open(&self.dir, binaries)?.status().await;
                if json {
                    println!("{}", serde_json::to_string_pretty(&status)?);
                } else {
                    status::print_table(&status);
                }
            }
            Action::Kill { what } => {
                let mut cluster = LocalCluster::open(&self.dir, binaries)?;
                match Target::parse(&what)? {
                    Target::All => cluster.kill_all(),
                    Target::One(part, number) => cluster.signal(part, number, Signal::KILL)?,
                    Target::Leader => {
                        let leader = cluster.leader().await.ok_or_else(|| {
                            usage("nobody leads now: try again when `caribou local status` shows a leader")
                        })?;
                        cluster.signal(Part::Meta, leader, Signal::KILL)?;
                        println!("killed meta {leader}");
                    }
                }
            }
            Action::Restart { what } => {
                let mut cluster = LocalCluster::open(&self.dir, binaries)?;
                match what.is_empty() {
                    true => cluster.start_all().await?,
                    false => match Target::parse(&what)? {
                        Target::One(part, number) => {
                            if cluster
                                .layout()
                                .nodes(part)
                                .get(number.wrapping_sub(1))
                                .is_some_and(|n| n.process.is_some())
                            {
                                cluster.signal(part, number, Signal::TERM)?;
                            }
                            cluster.start(part, number).await?;
                        }
                        _ => return Err(usage("restart takes nothing, meta N or chunk N")),
                    },
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}
