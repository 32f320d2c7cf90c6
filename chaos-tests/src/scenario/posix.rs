//! POSIX behaviour of a mount in small checks, run by a shell script so that anybody can read what is expected.

use std::process::Command;

use anyhow::{Context, Result};
use caribou_cli::local::Options;

use super::blocking;
use crate::args::Setting;
use crate::lab::Lab;
use crate::report::Verdict;

const SCRIPT: &str = include_str!("../../posix-smoke.sh");

#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Entries of the big directory
    #[arg(long, default_value_t = 100_000)]
    pub entries: usize,
}

pub async fn run(setting: &Setting, args: &Args) -> Result<Verdict> {
    let mut verdict = Verdict::new("posix");
    let mut lab = Lab::up(setting, &Options::default()).await?;
    let mount = lab.mount(&[]).await?;
    let entries = args.entries.to_string();
    let output = blocking(move || {
        Command::new("bash").args(["-c", SCRIPT, "posix-smoke"]).arg(&mount).arg(entries).output().context("bash")
    })
    .await?;
    let text = String::from_utf8_lossy(&output.stdout);
    verdict.figure("checks passed", text.lines().filter(|l| l.starts_with("ok ")).count());
    for (name, took) in text.lines().filter_map(big_step) {
        verdict.figure(name, took);
    }
    verdict.violations.extend(text.lines().filter(|l| l.starts_with("not ok ")).map(str::to_owned));
    verdict
        .check(output.status.success(), || format!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr)));
    lab.finish(!verdict.is_passed())?;
    Ok(verdict)
}

/// Name and time of a step whose time depends on the number of entries: `ok big-list (0.316 s)`.
fn big_step(line: &str) -> Option<(&str, &str)> {
    let (name, took) = line.strip_prefix("ok ")?.split_once(" (")?;
    let is_big = name.starts_with("big-") || name == "remove-all";
    is_big.then(|| took.strip_suffix(')').map(|took| (name, took)))?
}

#[cfg(test)]
mod tests {
    use super::big_step;

    #[test]
    fn the_steps_of_the_big_directory_are_figures() {
        assert_eq!(big_step("ok big-list (0.316 s)"), Some(("big-list", "0.316 s")));
        assert_eq!(big_step("ok remove-all (12.000 s)"), Some(("remove-all", "12.000 s")));
        assert_eq!(big_step("ok append (0.015 s)"), None);
        assert_eq!(big_step("not ok big-list (0.316 s): words"), None);
    }
}
