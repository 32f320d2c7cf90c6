//! `caribou bench DIR`: how fast a mounted directory is. `caribou bench meta`: how fast the metadata nodes commit.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytesize::ByteSize;
use clap::ValueEnum;
use serde::Serialize;

use crate::admin::MetaAddresses;
use crate::bench::bar::Drawing;
use crate::bench::big::{self, BigFile};
use crate::bench::{Caches, Figure, Placement, Progress, commits, metadata, small, table};
use crate::costs::EachCosts;
use crate::failure::usage;

/// Overwrites of single blocks without fsync.
const RANDOM_WRITES: usize = 10_000;

#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    /// A directory of any file system; everything is done in a folder below it that is removed again
    #[arg(required = true)]
    dir: Option<PathBuf>,
    /// Threads that work on small files and metadata
    #[arg(long, short, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Size of the big file
    #[arg(long, default_value = "1GiB", value_name = "SIZE")]
    big_size: ByteSize,
    /// Size of small files
    #[arg(long, default_value = "4KiB", value_name = "SIZE")]
    small_size: ByteSize,
    /// How many small files over all threads
    #[arg(long, default_value_t = 1000, value_name = "N")]
    small_files: usize,
    /// How many empty files over all threads
    #[arg(long, default_value_t = 4000, value_name = "N")]
    files: usize,
    /// All threads work in one folder instead of one each
    #[arg(long)]
    shared: bool,
    /// How long random reads and writes are measured
    #[arg(long, default_value = "3s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    time: Duration,
    /// Only these parts
    #[arg(long, value_delimiter = ',', value_name = "PART,…")]
    only: Vec<Part>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Big,
    Small,
    Metadata,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Committed creates and unlinks per second through the client library, without a mount
    Meta(MetaArgs),
}

#[derive(Debug, clap::Args)]
struct MetaArgs {
    #[command(flatten)]
    meta: MetaAddresses,
    /// Calls in flight
    #[arg(long, default_value = "1,16,64,256", value_delimiter = ',')]
    in_flight: Vec<usize>,
    /// How long creates are measured with each
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    time: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    dir: PathBuf,
    /// Whether reads that are called cold can be.
    caches_dropped: bool,
    figures: Vec<Figure>,
}

impl Args {
    pub async fn run(mut self) -> Result<ExitCode> {
        let progress = Arc::new(Progress::default());
        let stop = tokio::spawn(stop_at_ctrl_c(progress.clone()));
        let result = match (self.action.take(), self.dir.clone()) {
            (Some(Action::Meta(args)), _) => args.run(progress).await,
            (None, Some(dir)) => tokio::task::spawn_blocking(move || self.measure_in(&dir, progress)).await?,
            (None, None) => Err(usage("name a directory, or `meta`")),
        };
        stop.abort();
        result.map(|()| ExitCode::SUCCESS)
    }

    fn measure_in(&self, dir: &Path, progress: Arc<Progress>) -> Result<()> {
        if !dir.is_dir() {
            return Err(usage(format!("{} is no directory: mount the file system first", dir.display())));
        }
        let folder = tempfile::Builder::new().prefix("caribou-bench-").tempdir_in(dir);
        let folder = folder.map_err(|e| usage(format!("nothing can be made in {}: {e}", dir.display())))?;
        let caches = Caches::probe();
        let drawing = Drawing::start(progress.clone());
        let figures = self.figures(folder.path(), caches, &progress);
        drop(drawing);
        folder.close().context("the folder of this run could not be removed")?;
        let figures = figures?;
        if self.json {
            let report = Report { dir: dir.to_owned(), caches_dropped: caches == Caches::Dropped, figures };
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(());
        }
        println!("{}", table::table(&figures));
        if caches == Caches::Kept {
            println!("reads may come from this machine's cache, which only root can drop");
        }
        Ok(())
    }

    fn figures(&self, root: &Path, caches: Caches, progress: &Progress) -> Result<Vec<Figure>> {
        let wanted = |part| self.only.is_empty() || self.only.contains(&part);
        let threads = usize::from(self.threads);
        let mut figures = Vec::new();
        if wanted(Part::Big) {
            let bytes = self.big_size.as_u64();
            big::check_room(root, bytes, "the big file")?;
            let (mut file, written) = BigFile::write(root, bytes, caches, progress)?;
            figures.extend([written, file.read()?, file.read_random(1, self.time)?]);
            if threads > 1 {
                figures.push(file.read_random(threads, self.time)?);
            }
            figures.extend([file.write_random(RANDOM_WRITES)?, file.write_random_synced(self.time)?]);
            file.verify_and_remove()?;
        }
        if wanted(Part::Small) {
            let bytes = usize::try_from(self.small_size.as_u64()).context("small files fit into memory")?;
            let of_them = |figure: Figure| Figure {
                workload: format!("{} files: {}", self.small_size, figure.workload),
                ..figure
            };
            let load = small::Load { threads, files: self.small_files, bytes, caches };
            figures.extend(small::run(root, load, progress)?.into_iter().map(of_them));
        }
        if wanted(Part::Metadata) {
            let placement = if self.shared { Placement::Shared } else { Placement::Private };
            let load = metadata::Load { threads, placement, files: self.files, caches };
            figures.extend(metadata::run(root, load, progress)?);
        }
        Ok(figures)
    }
}

impl MetaArgs {
    async fn run(self, progress: Arc<Progress>) -> Result<()> {
        if self.in_flight.is_empty() || self.in_flight.contains(&0) {
            return Err(usage("--in-flight takes numbers from 1 on, separated by commas"));
        }
        let (meta, in_flight) = (self.meta.meta, self.in_flight);
        if crate::admin::status_of_all(&meta).await.iter().all(|(_, status)| status.is_err()) {
            bail!(usage(format!("none of the metadata nodes {} can be reached", meta.join(", "))));
        }
        let drawing = Drawing::start(progress.clone());
        let commits = commits::run(commits::Load { meta, in_flight, time: self.time, remove: true }, progress).await;
        drop(drawing);
        let commits = commits?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&commits)?);
        } else {
            let rows = commits.iter().flat_map(|c| {
                [Some((&c.creates, c.create_costs)), c.unlinks.as_ref().map(|unlinks| (unlinks, c.unlink_costs))]
            });
            let rows: Vec<(&Figure, Option<EachCosts>)> = rows.flatten().collect();
            let figures: Vec<Figure> = rows.iter().map(|(figure, _)| (*figure).clone()).collect();
            println!("{}", table::in_flight(&figures));
            let costs: Vec<(&Figure, EachCosts)> =
                rows.into_iter().filter_map(|(f, costs)| Some((f, costs?))).collect();
            if !costs.is_empty() {
                println!("what each has cost the metadata nodes, all together:\n{}", table::costs(&costs));
            }
        }
        Ok(())
    }
}

/// The first Ctrl-C lets the operations under way end and the folder be removed; the second ends at once.
async fn stop_at_ctrl_c(progress: Arc<Progress>) {
    if tokio::signal::ctrl_c().await.is_ok() {
        progress.stop();
        if tokio::signal::ctrl_c().await.is_ok() {
            std::process::exit(130);
        }
    }
}
