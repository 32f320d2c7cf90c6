//! Starts processes from a shell that was started before anything was opened.
//!
//! A child of our own holds copies of all our descriptors until its exec, also those of files on a Caribou mount; closing them
//! there sends a FLUSH to the mount. A metadata node that is to bring the quorum back would then wait for the mount, and the mount
//! for the node. The shell has no such descriptor.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::process::ProcessId;

/// The shell, waiting for commands.
#[derive(Debug)]
pub(super) struct Starter {
    shell: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Starter {
    pub(super) fn new() -> Result<Self> {
        let mut command = Command::new("/bin/sh");
        // Not even our own output: it may be a file on a mount.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A group of its own: Ctrl-C at the terminal reaches the launcher only, which then stops its parts in order.
        command.process_group(0);
        let mut shell = command.spawn().context("/bin/sh cannot be started")?;
        let commands = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().context("the shell's output is a pipe")?);
        Ok(Self { shell, commands, answers })
    }

    /// Starts a program in the background, in a session of its own, with both outputs appended to `log`. `through`: words in front of
    /// it, which have to end in an exec of the rest, as `nsenter` and `env` do.
    pub(super) fn start(
        &mut self,
        through: &[String],
        program: &Path,
        args: &[String],
        log: &Path,
    ) -> Result<ProcessId> {
        let mut words: Vec<String> = through.iter().map(|word| quoted(word)).collect();
        words.push(quoted_path(program)?);
        words.extend(args.iter().map(|word| quoted(word)));
        // The inner shell ends at once, so that init takes what it started, and its exit status.
        let line =
            format!("(setsid {} </dev/null >>{} 2>&1 & echo $!) || echo 0\n", words.join(" "), quoted_path(log)?);
        let commands = self.commands.as_mut().context("the shell is there as long as its starter")?;
        commands.write_all(line.as_bytes()).context("the shell that starts processes")?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer).context("the shell that starts processes")?;
        let pid = answer.trim().parse().with_context(|| format!("a process id instead of {answer:?}"))?;
        match ProcessId::of(pid) {
            Some(id) => Ok(id),
            None => bail!("{} ended at once: its log {} says why", program.display(), log.display()),
        }
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // The end of its input ends the shell; what it started goes on.
        self.commands = None;
        let _ = self.shell.wait();
    }
}

fn quoted_path(path: &Path) -> Result<String> {
    Ok(quoted(path.to_str().with_context(|| format!("{} is not UTF-8", path.display()))?))
}

/// One word of the shell, whatever it holds.
fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustix::process::Signal;

    use super::*;

    /// The program gets its arguments as they are, its output goes to the log, and it outlives its starter.
    #[test]
    fn arguments_arrive_and_processes_outlive_their_starter() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("it's a log");
        let mut starter = Starter::new()?;
        let odd = r#"a 'b' "c" $HOME \ ; #"#;
        let script = r#"printf '%s\n' "$1"; exec sleep 60"#.to_owned();
        let args = ["-c".to_owned(), script, "sh".to_owned(), odd.to_owned()];
        let id = starter.start(&["env".to_owned()], Path::new("/bin/sh"), &args, &log)?;
        drop(starter);
        let mut text = String::new();
        for _ in 0..1000 {
            // Made by what was started, perhaps a moment later.
            text = std::fs::read_to_string(&log).unwrap_or_default();
            if text.ends_with('\n') {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(text, format!("{odd}\n"));
        assert!(id.is_alive());
        id.signal(Signal::KILL)?;
        assert!(id.wait_gone(Duration::from_secs(20)));
        Ok(())
    }

    /// Nothing that we have open is open in what is started, not even until its exec: it is no child of ours.
    #[test]
    fn what_is_started_is_no_child_of_ours() -> Result<()> {
        let dir = tempfile::tempdir()?;
        let mut starter = Starter::new()?;
        let id = starter.start(&[], Path::new("sleep"), &["60".to_owned()], &dir.path().join("log"))?;
        let status = std::fs::read_to_string(format!("/proc/{}/status", id.pid))?;
        let parent = status.lines().find_map(|l| l.strip_prefix("PPid:")).context("PPid")?.trim().to_owned();
        assert_ne!(parent, std::process::id().to_string());
        id.signal(Signal::KILL)?;
        assert!(id.wait_gone(Duration::from_secs(20)));
        Ok(())
    }
}
