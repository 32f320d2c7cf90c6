//! The command line: one subcommand per scenario, and `smoke`, which runs a short form of each.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use caribou_cli::failure;
use caribou_cli::local::Binaries;
use clap::{Parser, Subcommand};

use crate::report::Verdict;
use crate::scenario;

/// Caribou's chaos harness: real processes, faults, checks.
#[derive(Debug, Parser)]
#[command(name = "caribou-chaos", version, about)]
pub struct Args {
    /// Folder with Caribou's programs; by default that of this one
    #[arg(long, global = true, env = "CARIBOU_BIN", value_name = "DIR")]
    bin: Option<PathBuf>,
    /// Where clusters are made; by default the system's temporary folder
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Leave the cluster's folder (logs!) behind when a scenario fails
    #[arg(long, global = true)]
    keep: bool,
    /// Print verdicts as JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Breaks a cluster for some minutes, records everything, says whether a promise was broken, and writes a report
    ///
    /// Exit code 0: passed, 1: a promise was broken, 2: the run proves nothing.
    Run(crate::run::Args),
    /// The longest gap that a mounted client feels over many leader kills
    Failover(scenario::failover::Args),
    /// `cp -a` of a tree, then `rm -rf`, while the leader is killed again and again
    Copy(scenario::copy::Args),
    /// Every mutation exactly once: unique names, leader kills, the tree equals the model
    ExactlyOnce(scenario::exactly_once::Args),
    /// kill -9 of all processes at once; what was fsynced is there
    KillAll(scenario::kill_all::Args),
    /// All nodes lose power at once; un-synced data are really gone, what was fsynced is there
    PowerCut(scenario::power_cut::Args),
    /// All chunk servers lose power while writers and readers live
    LivePowerCut(scenario::live_power_cut::Args),
    /// A chunk server, and a writing client, are killed during writes
    ChunkKill(scenario::chunk_kill::Args),
    /// A disk of a stopped chunk server is replaced by an empty one
    DiskSwap(scenario::disk_swap::Args),
    /// A follower that was away for longer than the log is kept comes back by snapshot
    Snapshot(scenario::snapshot::Args),
    /// A process that waits without quorum can be killed
    NoQuorum(scenario::no_quorum::Args),
    /// POSIX behaviour of a mount in small checks
    Posix(scenario::posix::Args),
    /// The POSIX test suite pjdfstest on a mount
    Pjdfstest(scenario::pjdfstest::Args),
    /// The file system exerciser fsx on a mount
    Fsx(scenario::fsx::Args),
    /// fio on a mount, every block verified
    Fio(scenario::fio::Args),
    /// The stressors of stress-ng that are about files, on a mount
    StressNg(scenario::stress_ng::Args),
    /// SQLite on a mount: its writer and the leader are killed
    Sqlite(scenario::sqlite::Args),
    /// git on a mount: commit, gc, fsck and clone of a real tree
    Git(scenario::git::Args),
    /// Committed creates per second through one client process
    Creates(scenario::creates::Args),
    /// A cluster with millions of inodes beside an almost empty one: memory, disk, restart, failover, rates
    Scale(scenario::scale::Args),
    /// A short form of everything, for CI
    Smoke(scenario::smoke::Args),
    /// One writer or reader, as scenarios start them
    #[command(hide = true, subcommand)]
    Worker(crate::workload::worker::Work),
}

/// What every scenario gets.
#[derive(Debug, Clone)]
pub struct Setting {
    pub binaries: Binaries,
    pub dir: PathBuf,
    pub keep: bool,
}

impl Args {
    pub async fn run(self) -> ExitCode {
        if let Scenario::Worker(work) = self.scenario {
            return match work.run() {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("caribou-chaos worker: {error:#}");
                    ExitCode::FAILURE
                }
            };
        }
        if let Scenario::Run(args) = &self.scenario {
            return self.break_things(args).await;
        }
        match self.verdicts().await {
            Ok(verdicts) => {
                for verdict in &verdicts {
                    verdict.print(self.json);
                }
                if verdicts.iter().all(Verdict::is_passed) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => {
                eprintln!("caribou-chaos: {error:#}");
                ExitCode::from(failure::exit_code(&error))
            }
        }
    }

    fn setting(&self) -> Result<Setting> {
        Ok(Setting {
            binaries: Binaries::find(self.bin.as_deref())?,
            dir: self.dir.clone().unwrap_or_else(std::env::temp_dir),
            keep: self.keep,
        })
    }

    async fn break_things(&self, args: &crate::run::Args) -> ExitCode {
        let report = match self.setting() {
            Ok(setting) => crate::run::run(&setting, args).await,
            Err(error) => Err(error),
        };
        match report {
            Ok(report) => {
                report.print(&args.report);
                ExitCode::from(report.outcome().code())
            }
            Err(error) => {
                eprintln!("caribou-chaos: {error:#}");
                ExitCode::from(2)
            }
        }
    }

    async fn verdicts(&self) -> Result<Vec<Verdict>> {
        let setting = self.setting()?;
        let verdict = match &self.scenario {
            Scenario::Failover(args) => scenario::failover::run(&setting, args).await?,
            Scenario::Copy(args) => scenario::copy::run(&setting, args).await?,
            Scenario::ExactlyOnce(args) => scenario::exactly_once::run(&setting, args).await?,
            Scenario::KillAll(args) => scenario::kill_all::run(&setting, args).await?,
            Scenario::PowerCut(args) => scenario::power_cut::run(&setting, args).await?,
            Scenario::LivePowerCut(args) => scenario::live_power_cut::run(&setting, args).await?,
            Scenario::ChunkKill(args) => scenario::chunk_kill::run(&setting, args).await?,
            Scenario::DiskSwap(args) => scenario::disk_swap::run(&setting, args).await?,
            Scenario::Snapshot(args) => scenario::snapshot::run(&setting, args).await?,
            Scenario::NoQuorum(args) => scenario::no_quorum::run(&setting, args).await?,
            Scenario::Posix(args) => scenario::posix::run(&setting, args).await?,
            Scenario::Pjdfstest(args) => scenario::pjdfstest::run(&setting, args).await?,
            Scenario::Fsx(args) => scenario::fsx::run(&setting, args).await?,
            Scenario::Fio(args) => scenario::fio::run(&setting, args).await?,
            Scenario::StressNg(args) => scenario::stress_ng::run(&setting, args).await?,
            Scenario::Sqlite(args) => scenario::sqlite::run(&setting, args).await?,
            Scenario::Git(args) => scenario::git::run(&setting, args).await?,
            Scenario::Creates(args) => scenario::creates::run(&setting, args).await?,
            Scenario::Scale(args) => scenario::scale::run(&setting, args).await?,
            Scenario::Worker(_) | Scenario::Run(_) => return Ok(Vec::new()),
            Scenario::Smoke(args) => return scenario::smoke::run(&setting, args).await,
        };
        Ok(vec![verdict])
    }
}
