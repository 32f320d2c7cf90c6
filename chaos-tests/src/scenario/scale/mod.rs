//! A cluster with millions of inodes, made through the log, beside a small one of the same build in the same run: memory, disk, snapshots,
//! restart, failover and rates must not depend on how much there is (DESIGN 1.5).
//!
//! | file | what it owns |
//! |---|---|
//! | `place.rs` | where the n-th file lies: scattered, and found again without a list |
//! | `tree.rs` | the tree of files: loading, creates and stats all over it |
//! | `tenths.rs` | the first and the last tenth of a load |
//! | `full.rs` | what the full cluster alone is asked for |
//! | `compared.rs` | what both are asked for, and how far the full one may fall behind |
//! | `kernel.rs` | memory and writes of processes |
//! | `disk.rs` | bytes of data folders |
//! | `snapshots.rs` | how long snapshots take, seen from outside |
//! | `restart.rs` | how long killed nodes take to serve again |

mod compared;
mod disk;
mod full;
mod kernel;
mod place;
mod restart;
mod snapshots;
mod tenths;
mod tree;

use std::time::Duration;

use anyhow::{Context as _, Result};
use caribou_cli::bench::big::check_room;
use caribou_cli::local::Options;

use self::compared::{Compared, Rates};
use self::tree::{Loaded, Tree};
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

/// How the small cluster is called in figures.
const SMALL: &str = "small";
/// Files of the small cluster, in the same number of folders.
const SMALL_FILES: u64 = 20_000;
/// Room on the disk for each inode: three nodes, and tables that are being rewritten.
const ROOM_PER_INODE_BYTES: u64 = 1 << 10;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Empty files of the full cluster
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(10..))]
    pub inodes: u64,
    /// Folders that they are scattered over
    #[arg(long, default_value_t = 2000, value_parser = clap::value_parser!(u32).range(1..))]
    pub folders: u32,
    /// Creates in flight while they are made
    #[arg(long, default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub in_flight: u16,
    /// How long each rate is measured
    #[arg(long, default_value = "6s", value_parser = humantime::parse_duration)]
    pub time: Duration,
    /// Stats for so long before they are measured, of other files: with a cache that holds the state, they find it warm
    #[arg(long, default_value = "0s", value_parser = humantime::parse_duration)]
    pub warm: Duration,
    /// How often each cluster's leader is killed; 0 leaves gaps, and the mount that they are felt on, out
    #[arg(long, default_value_t = 10)]
    pub kills: usize,
    /// The metadata nodes' `block_cache`
    #[arg(long, default_value_t = 768)]
    pub cache_mib: u64,
    /// The metadata nodes' `write_buffer`, a part of it
    #[arg(long, default_value_t = 256)]
    pub write_buffer_mib: u64,
    /// The metadata nodes' `snapshot_after`
    #[arg(long, default_value_t = 256)]
    pub snapshot_after_mib: u64,
    /// Report times and rates without judging them (tests on a loaded machine); memory and content are judged all the same
    #[arg(long)]
    pub unjudged: bool,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    check_room(&setting.dir, args.inodes * ROOM_PER_INODE_BYTES, &format!("a state of {} inodes", args.inodes))
        .context("there is too little room: name another folder with --dir, or fewer --inodes")?;
    let mut verdict = Verdict::new("scale");
    let small = small(setting, args, &mut verdict).await?;
    // Loading takes long: what was measured until something failed is told all the same.
    if let Err(error) = full::run(setting, args, &small, &mut verdict).await {
        verdict.violations.push(format!("the full cluster: {error:#}"));
    }
    Ok(verdict)
}

/// What the full cluster is compared with.
async fn small(setting: &Setting, args: &Args, verdict: &mut Verdict) -> Result<Compared> {
    let mut lab = Lab::up(setting, &args.options()).await?;
    let (mut tree, _) = args.load(&lab, SMALL_FILES.min(args.inodes)).await?;
    compared::settle(&lab, SMALL, verdict).await?;
    let rates = Rates::measure(&mut tree, SMALL, args, verdict).await?;
    let gaps = compared::gaps(&mut lab, SMALL, args.kills, verdict).await?;
    lab.finish(!verdict.is_passed())?;
    Ok(Compared { rates, gaps })
}

impl Args {
    fn options(&self) -> Options {
        let meta_config = format!(
            "[raft]\nsnapshot_after = \"{}MiB\"\n[storage]\nblock_cache = \"{}MiB\"\nwrite_buffer = \"{}MiB\"\n",
            self.snapshot_after_mib, self.cache_mib, self.write_buffer_mib
        );
        Options { meta_config, ..Options::default() }
    }

    /// What the metadata nodes are told to use, in bytes.
    fn configured_bytes(&self) -> u64 {
        self.cache_mib << 20
    }

    async fn load(&self, lab: &Lab, files: u64) -> Result<(Tree, Loaded)> {
        Tree::load(lab.cluster.meta_addresses(), self.folders as usize, files, usize::from(self.in_flight)).await
    }
}
