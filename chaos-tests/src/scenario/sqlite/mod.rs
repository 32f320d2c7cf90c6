//! SQLite on a mount: in every journal mode a writer makes transactions beside a reader and is killed in the middle of one, while leaders
//! are killed too. What was committed is there, the database is whole, and no reader ever saw half a transaction. `bank.rs` has the SQL.

mod bank;
mod shell;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use caribou_cli::local::Options;

use super::replicas::replicas_differ;
use super::{blocking, healed};
use crate::args::Setting;
use crate::lab::Lab;
use crate::nemesis::kills;
use crate::program;
use crate::report::Verdict;
use bank::{MODES, Mode};
use shell::{PROGRAM, Shell};

/// How long an audit may take, which first has to roll back what the killed writer had begun.
const PATIENCE: Duration = Duration::from_secs(120);
/// A round with fewer acknowledged transactions says nothing: it goes on until they are reached.
const MIN_COMMITS: usize = 5;
/// How many times longer than asked for a round may take on a slow machine.
const MAX_STRETCH: u32 = 20;

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often the writer is killed in each mode
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// How long a writer works before it is killed
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub work: Duration,
    /// Time between two kills of the leader
    #[arg(long, default_value = "4s", value_parser = humantime::parse_duration)]
    pub kill_every: Duration,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("sqlite");
    verdict.figure("release", program::version(Path::new(PROGRAM))?);
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mount = lab.mount(&[]).await?;
    let all = async {
        let mut banks = Vec::new();
        for mode in MODES {
            let mut bank = Bank::found(mode, &mount).await?;
            for _ in 0..args.rounds {
                bank.round(args.work).await?;
            }
            banks.push(bank);
        }
        Ok(banks)
    };
    let (mut banks, count) = kills::while_running(&mut lab, args.kill_every, 1, all).await?;
    verdict.figure("leader kills meanwhile", count);
    lab.cluster.unmount(&mount)?;
    let again = lab.mount(&[]).await?;
    for bank in &mut banks {
        bank.db = again.join(bank.db.file_name().context("a database has a name")?);
        bank.audit("from another client").await?;
        verdict.figure(
            bank.mode.name,
            format!("{} transactions, writer killed {} times, {} reads", bank.last, args.rounds, bank.reads),
        );
        verdict.violations.append(&mut bank.violations);
    }
    healed(&lab).await?;
    verdict.violations.extend(replicas_differ(&lab).await?);
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// A database in one mode, and what is known of it.
struct Bank {
    mode: Mode,
    db: PathBuf,
    /// The last transaction that is there, that was acknowledged, and that was sent.
    last: u64,
    acknowledged: u64,
    sent: u64,
    reads: usize,
    violations: Vec<String>,
}

impl Bank {
    async fn found(mode: Mode, mount: &Path) -> Result<Self> {
        let db = mount.join(format!("bank-{}.db", mode.name));
        let mut bank = Self { mode, db, last: 0, acknowledged: 0, sent: 0, reads: 0, violations: Vec::new() };
        // The journal first: a database that others use does not go over to WAL.
        let ended = bank.ask(mode.pragmas() + &bank::found()).await?;
        if !ended.is_success() {
            bank.violations.push(format!("{}: no database can be made: {}", mode.name, ended.words()));
        }
        Ok(bank)
    }

    /// Runs statements in a process of their own.
    async fn ask(&self, sql: String) -> Result<program::Ended> {
        let mut command = Command::new(PROGRAM);
        command.args(["-batch", "-bail", "-cmd", ".timeout 60000"]).arg(&self.db).arg(sql);
        program::run(command, PATIENCE).await
    }

    /// A writer and a reader work, the writer is killed, and the database looked at. After a violation nothing more is done.
    async fn round(&mut self, work: Duration) -> Result<()> {
        if !self.violations.is_empty() {
            return Ok(());
        }
        let (mode, db, first) = (self.mode, self.db.clone(), self.last + 1);
        let (wrote, read) = blocking(move || {
            let writer = Shell::start(&db, mode.setup(), move |n| bank::transfer(first + n))?;
            let reader = Shell::start(&db, mode.setup(), |_| bank::sum())?;
            let enough = bank::SETUP_ANSWERS + MIN_COMMITS;
            let started = std::time::Instant::now();
            let is_over = |time| started.elapsed() >= time;
            while !is_over(work) || (writer.answered() < enough && !is_over(work * MAX_STRETCH)) {
                std::thread::sleep(Duration::from_millis(20));
            }
            Ok((writer.kill()?, reader.kill()?))
        })
        .await?;
        for (who, said) in [("writer", &wrote), ("reader", &read)] {
            if !said.errors.is_empty() || !mode.is_taken(&said.answers) {
                let words = format!("{:?}, {}", said.answers.first(), said.errors.trim());
                self.violations.push(format!("{}: the {who} began with {words}", mode.name));
            }
        }
        let commits = wrote.answers.iter().filter_map(|answer| bank::committed(answer)).collect::<Vec<_>>();
        if commits.len() < MIN_COMMITS {
            let stretched = work * MAX_STRETCH;
            self.violations.push(format!("{}: only {} transactions in {stretched:?}", mode.name, commits.len()));
        }
        self.acknowledged = commits.last().copied().unwrap_or(self.last);
        self.sent = self.last + wrote.sent;
        let total = bank::TOTAL.to_string();
        for sum in read.answers.iter().skip(bank::SETUP_ANSWERS) {
            self.reads += 1;
            if *sum != total {
                self.violations.push(format!("{}: a reader saw {sum} on all accounts instead of {total}", mode.name));
            }
        }
        self.audit("after the writer's death").await
    }

    /// Integrity, and whether everything that was acknowledged is there.
    async fn audit(&mut self, when: &str) -> Result<()> {
        let ended = self.ask(bank::audit()).await?;
        if !ended.is_success() || !ended.stderr.is_empty() {
            self.violations.push(format!("{}, {when}: {}", self.mode.name, ended.words()));
            return Ok(());
        }
        match bank::judge(&ended.stdout, self.acknowledged, self.sent)? {
            Ok(last) => self.last = last,
            Err(words) => self.violations.push(format!("{}, {when}: {words}", self.mode.name)),
        }
        Ok(())
    }
}
