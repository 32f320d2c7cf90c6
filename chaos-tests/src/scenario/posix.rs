//! POSIX behaviour of a mount in small checks, run by a shell script so that anybody can read what is expected.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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
    let second = lab.mount(&[]).await?;
    let mounts = [mount.clone(), second.clone()];
    let program = mount.join("sleeper");
    verdict.violations.extend(blocking(move || a_running_program_is_not_cut(&program)).await?);
    verdict.violations.extend(blocking(move || appends_of_two_mounts(&mounts)).await?);
    lab.cluster.unmount(&second)?;
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

/// Both mounts append to files that stay open, one after the other; nothing that was synced is written over. In the metadata, and in a chunk.
fn appends_of_two_mounts(mounts: &[PathBuf; 2]) -> Result<Option<String>> {
    for record in [10, 30_000] {
        let name = format!("appended-by-two-{record}");
        let open = |mount: &PathBuf| OpenOptions::new().create(true).append(true).open(mount.join(&name));
        let mut files: Vec<File> = mounts.iter().map(open).collect::<std::io::Result<_>>()?;
        let mut expected = Vec::new();
        for letter in [b'a', b'b', b'c', b'd'] {
            let who = usize::from(letter) % 2;
            files[who].write_all(&vec![letter; record])?;
            files[who].sync_all()?;
            expected.extend(vec![letter; record]);
            // The end is looked for once a second.
            std::thread::sleep(Duration::from_millis(1100));
        }
        drop(files);
        for mount in mounts {
            if std::fs::read(mount.join(&name))? != expected {
                return Ok(Some(format!("{}: appends of two mounts are not all there", mount.join(&name).display())));
            }
        }
    }
    Ok(None)
}

/// Whoever may open it to read it cannot take its bytes away with O_TRUNC: ETXTBSY.
fn a_running_program_is_not_cut(program: &Path) -> Result<Option<String>> {
    std::fs::copy("/bin/sleep", program)?;
    let bytes = std::fs::read(program)?;
    let mut running = Command::new(program).arg("60").spawn()?;
    let opened: Vec<_> = [(true, false), (false, true)]
        .map(|(read, write)| OpenOptions::new().read(read).write(write).custom_flags(libc::O_TRUNC).open(program))
        .into_iter()
        .collect();
    running.kill()?;
    running.wait()?;
    let is_refused =
        opened.iter().all(|opened| opened.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::ETXTBSY)));
    let is_whole = std::fs::read(program)? == bytes;
    let text = || format!("a running program was opened with O_TRUNC: {opened:?}, whole: {is_whole}");
    Ok((!is_refused || !is_whole).then(text))
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
