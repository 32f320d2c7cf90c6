//! Programs that people use, on a tree of files: each timed as a whole, each checked afterwards.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use caribou_cli::bench::{Caches, Figure, Progress, Unit};

use crate::source::{CHECKSUMS, Source};
use crate::turn::Work;

/// Git asks for somebody to blame.
const GIT: &str = "git -c user.name=bench -c user.email=bench@localhost -c init.defaultBranch=main -c safe.directory=* -c gc.auto=0 -c maintenance.auto=false";
/// Bytes of a database row's text.
const ROW_BYTES: usize = 100;
/// What is told of a failed program.
const TOLD_BYTES: usize = 400;

/// All of them.
pub fn run(work: &Work<'_>) -> Result<Vec<Figure>> {
    let Work { root, source, .. } = *work;
    std::fs::create_dir(root.join("tree"))?;
    source.warm()?;
    let shell = Shell { root, progress: work.progress };
    let archive = source.archive.display();
    let mut figures = vec![
        shell.timed("untar", &format!("tar -C tree -xf '{archive}'"))?.0,
        shell.timed("cp -a", "cp -a tree copy")?.0,
        checksum(&shell, source, work.caches)?,
        shell.timed("git commit", &format!("cd copy && {GIT} init -q . && {GIT} add . && {GIT} commit -qm all"))?.0,
    ];
    let status =
        shell.run("git status", &format!("cd copy && {GIT} status --porcelain && {GIT} fsck --no-progress"), None)?;
    if !status.stdout.is_empty() {
        bail!("git sees changes after its commit: {}", told(&status.stdout));
    }
    figures.push(sqlite(&shell, work.sizes.sqlite_transactions)?);
    figures.push(shell.timed("rm -rf", "rm -rf tree copy")?.0);
    let left = std::fs::read_dir(root)?.count();
    if left > 0 {
        bail!("rm -rf left {left} names behind");
    }
    Ok(figures)
}

/// Reads every byte of the copy from the file system and compares it with the archive's.
fn checksum(shell: &Shell<'_>, source: &Source, caches: Caches) -> Result<Figure> {
    // What a mount still holds in its own memory cannot be dropped, and would be read from there.
    shell.run("writing out", "find copy -type f -print0 | xargs -0 sync", None)?;
    caches.drop_now()?;
    let (figure, output) =
        shell.timed(caches.name("sha256sum, cold", "sha256sum"), &format!("cd copy && {CHECKSUMS}"))?;
    if output.stdout != source.checksums {
        let (copied, packed) = (told(&output.stdout), told(&source.checksums));
        bail!("the copy is not what was packed: its checksums begin with {copied}, those of the archive with {packed}");
    }
    Ok(figure)
}

/// Transactions of one row, each synced to the disk by the database.
fn sqlite(shell: &Shell<'_>, transactions: usize) -> Result<Figure> {
    shell.run("sqlite", "sqlite3 bench.db 'create table t(id integer primary key, v text)'", None)?;
    let row = format!("insert into t(v) values('{}');\n", "x".repeat(ROW_BYTES));
    let started = Instant::now();
    shell.run("SQLite transactions", "sqlite3 -bail bench.db", Some(&row.repeat(transactions)))?;
    let time = started.elapsed();
    let check = shell.run("sqlite", "sqlite3 bench.db 'pragma integrity_check; select count(*) from t'", None)?;
    if check.stdout != format!("ok\n{transactions}\n").as_bytes() {
        bail!("the database is not right after {transactions} transactions: {}", told(&check.stdout));
    }
    shell.run("rm", "rm bench.db", None)?;
    Ok(figure("SQLite transactions", Unit::Operations, transactions as u64, time))
}

struct Shell<'a> {
    /// Where everything is run.
    root: &'a Path,
    progress: &'a Progress,
}

impl Shell<'_> {
    fn timed(&self, workload: &str, script: &str) -> Result<(Figure, Output)> {
        let started = Instant::now();
        let output = self.run(workload, script, None)?;
        Ok((figure(workload, Unit::Seconds, 1, started.elapsed()), output))
    }

    /// Fails unless all of the script succeeded.
    fn run(&self, what: &str, script: &str, input: Option<&str>) -> Result<Output> {
        if self.progress.is_stopped() {
            bail!("stopped");
        }
        self.progress.begin(what, 0);
        let mut command = Command::new("bash");
        command.args(["-c", &format!("set -o pipefail; {script}")]).current_dir(self.root);
        // What the user has configured for git must not differ between machines.
        command.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
        command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("bash")?;
        if let (Some(text), Some(mut pipe)) = (input, child.stdin.take()) {
            // A program that ended early says why in its status.
            let _ = pipe.write_all(text.as_bytes());
        }
        let output = child.wait_with_output().with_context(|| what.to_owned())?;
        if !output.status.success() {
            bail!("{what}: {} ({}): {}", output.status, script, told(&output.stderr));
        }
        Ok(output)
    }
}

fn figure(workload: &str, unit: Unit, units: u64, time: Duration) -> Figure {
    Figure {
        workload: workload.to_owned(),
        threads: 1,
        placement: None,
        unit,
        value: unit.value(units, time),
        operations: units,
        seconds: time.as_secs_f64(),
        latency: None,
    }
}

fn told(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(TOLD_BYTES)]).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_a_pipe_that_fails_is_told_with_its_words() {
        let root = tempfile::tempdir().expect("a folder");
        let shell = Shell { root: root.path(), progress: &Progress::default() };
        let error = shell.run("cat", "cat missing | wc -l", None).expect_err("there is no such file");
        assert!(error.to_string().contains("No such file"), "{error}");
        assert_eq!(shell.run("cat", "cat", Some("text")).expect("echoed").stdout, b"text");
    }

    #[test]
    fn a_copy_with_one_other_byte_is_found() {
        let folders = [0; 3].map(|_| tempfile::tempdir().expect("a folder"));
        let [tree, work, root] = &folders;
        std::fs::write(tree.path().join("a"), "one").expect("written");
        let source = Source::pack(tree.path(), 10, work.path()).expect("packed");
        let shell = Shell { root: root.path(), progress: &Progress::default() };
        std::fs::create_dir(root.path().join("copy")).expect("made");
        std::fs::write(root.path().join("copy/a"), "one").expect("written");
        checksum(&shell, &source, Caches::Kept).expect("equal");
        std::fs::write(root.path().join("copy/a"), "onf").expect("written");
        assert!(checksum(&shell, &source, Caches::Kept).is_err());
    }
}
