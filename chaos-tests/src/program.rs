//! Programs of others that scenarios run: whether they are there, and how a run of one ended. A run is bounded, and leaves no process
//! behind however it ends.

use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};

/// What to do when a program is missing.
const ADVICE: &str = "`make smoke` and `make scenario` install it";
/// Lines from the beginning and from the end of what a failed program said that are shown.
const FIRST_LINES: usize = 8;
const LAST_LINES: usize = 12;

/// The first line of what a program says about its version. Fails with advice if it is not there.
pub fn version(program: &Path) -> Result<String> {
    let name = program.display();
    let output = match Command::new(program).arg("--version").stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) if error.kind() == ErrorKind::NotFound => bail!("{name} is not installed: {ADVICE}"),
        Err(error) => return Err(error).with_context(|| format!("{name} cannot be started")),
    };
    if !output.status.success() {
        bail!("{name} --version: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Fails with advice unless these programs are there: names, and the packages that have them.
pub fn require(programs: &[(&str, &str)]) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    for (name, package) in programs {
        if !std::env::split_paths(&path).any(|folder| folder.join(name).is_file()) {
            bail!("{name} (package {package}) is not installed: {ADVICE}");
        }
    }
    Ok(())
}

/// Fails unless a program is there in the release that a scenario is written for.
pub fn require_release(program: &Path, release: &str) -> Result<()> {
    let found = version(program)?;
    if found.split_whitespace().last() != Some(release) {
        bail!("{} is {found:?}, and release {release} is needed: {ADVICE}", program.display());
    }
    Ok(())
}

/// How a run ended.
#[derive(Debug)]
pub struct Ended {
    pub took: Duration,
    /// None: it was still running when its time was over, and was killed.
    pub status: Option<ExitStatus>,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// How it ended and what it said, on one line of words and then lines of its own.
    pub fn words(&self) -> String {
        let how = match self.status {
            Some(status) => status.to_string(),
            None => format!("still running after {:.0?}, killed", self.took),
        };
        format!("{how}\n{}\n{}", excerpt(&self.stdout), excerpt(&self.stderr)).trim_end().to_owned()
    }
}

/// The beginning and the end of a text.
fn excerpt(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    if lines.len() <= FIRST_LINES + LAST_LINES {
        return lines.join("\n");
    }
    let left_out = format!("[{} lines]", lines.len() - FIRST_LINES - LAST_LINES);
    [&lines[..FIRST_LINES], &[left_out.as_str()], &lines[lines.len() - LAST_LINES..]].concat().join("\n")
}

/// Runs a program to its end, or for as long as `patience`.
pub async fn run(mut command: Command, patience: Duration) -> Result<Ended> {
    use std::os::unix::process::CommandExt as _;
    let name = command.get_program().to_string_lossy().into_owned();
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let started = Instant::now();
    let child = tokio::process::Command::from(command).spawn().with_context(|| format!("{name}: {ADVICE}"))?;
    let group = Group(child.id());
    let output = match tokio::time::timeout(patience, child.wait_with_output()).await {
        Ok(output) => output.with_context(|| name)?,
        Err(_) => {
            drop(group);
            let took = started.elapsed();
            return Ok(Ended { took, status: None, stdout: String::new(), stderr: String::new() });
        }
    };
    Ok(Ended {
        took: started.elapsed(),
        status: Some(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The process group of a program with all that it has started. Killed when it is dropped, as when a scenario ends early.
struct Group(Option<u32>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0.and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // Fails when all have ended, which is what we want.
            let _ = rustix::process::kill_process_group(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_advice() {
        let error = version(Path::new("caribou-no-such-program")).expect_err("is missing").to_string();
        assert!(error.contains("caribou-no-such-program is not installed") && error.contains("make smoke"), "{error}");
        assert!(require_release(Path::new("git"), "0.0.0").is_err());
        let missing = [("sh", "dash"), ("caribou-no-such-program", "caribou-none")];
        let error = require(&missing).expect_err("the second is missing").to_string();
        assert!(error.contains("caribou-no-such-program (package caribou-none) is not installed"), "{error}");
        assert!(require(&missing[..1]).is_ok());
    }

    #[tokio::test]
    async fn what_hangs_is_killed_with_all_that_it_started() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 600 & echo started; wait"]);
        let ended = run(command, Duration::from_millis(200)).await.expect("runs");
        assert!(!ended.is_success() && ended.words().starts_with("still running"), "{}", ended.words());
    }

    #[tokio::test]
    async fn a_failure_is_told_in_the_program_s_words() {
        let mut command = Command::new("sh");
        command.args(["-c", "seq 100; echo 'it broke' >&2; exit 3"]);
        let ended = run(command, Duration::from_secs(60)).await.expect("runs");
        let words = ended.words();
        assert!(words.starts_with("exit status: 3\n1\n"), "{words}");
        assert!(words.contains("[80 lines]") && words.ends_with("100\nit broke"), "{words}");
    }
}
