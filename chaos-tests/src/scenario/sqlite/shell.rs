//! A sqlite3 process that is fed with statements until it is killed or its input ends; what it has answered is known line by line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use anyhow::{Context, Result};

pub(super) const PROGRAM: &str = "sqlite3";

/// A running process. Killed when it is dropped.
pub(super) struct Shell {
    child: Child,
    /// Gives the number of statements that were sent.
    feeder: Option<JoinHandle<u64>>,
    answers: Option<JoinHandle<Vec<String>>>,
    answered: Arc<AtomicUsize>,
    errors: Option<JoinHandle<String>>,
}

/// What a process has said until its end.
pub(super) struct Said {
    /// Statements that were sent; of the last ones it may not have read all.
    pub(super) sent: u64,
    pub(super) answers: Vec<String>,
    pub(super) errors: String,
}

impl Shell {
    /// Sends `setup`, and then without end what `statement` gives for 0, 1, 2 and so on.
    pub(super) fn start(db: &Path, setup: String, statement: impl Fn(u64) -> String + Send + 'static) -> Result<Self> {
        let mut command = Command::new(PROGRAM);
        command.args(["-batch", "-bail"]).arg(db);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context(PROGRAM)?;
        let mut input = child.stdin.take().context("a pipe")?;
        let output = BufReader::new(child.stdout.take().context("a pipe")?);
        let mut complaints = child.stderr.take().context("a pipe")?;
        let feeder = std::thread::spawn(move || {
            // The pipe breaks when the process is killed.
            let mut sent = 0;
            let mut alive = input.write_all(setup.as_bytes()).is_ok();
            while alive {
                alive = input.write_all(statement(sent).as_bytes()).is_ok();
                sent += 1;
            }
            sent
        });
        let answered = Arc::new(AtomicUsize::new(0));
        let seen = answered.clone();
        let answers = std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            lines.inspect(|_| _ = seen.fetch_add(1, Ordering::Relaxed)).collect()
        });
        let errors = std::thread::spawn(move || {
            let mut text = String::new();
            // What is no text would be cut off, and is not said by sqlite3.
            let _ = complaints.read_to_string(&mut text);
            text
        });
        Ok(Self { child, feeder: Some(feeder), answers: Some(answers), answered, errors: Some(errors) })
    }

    /// Lines that it has answered so far.
    pub(super) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    /// SIGKILL, in the middle of whatever it does.
    pub(super) fn kill(mut self) -> Result<Said> {
        self.child.kill()?;
        self.child.wait()?;
        let panicked = |_| anyhow::anyhow!("a thread panicked");
        Ok(Said {
            sent: self.feeder.take().context("killed once")?.join().map_err(panicked)?,
            answers: self.answers.take().context("killed once")?.join().map_err(panicked)?,
            errors: self.errors.take().context("killed once")?.join().map_err(panicked)?,
        })
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        // Fails when it has ended, which is what we want.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_answered_before_the_kill_is_known() {
        let shell = Shell::start(Path::new(":memory:"), "select 'ready';\n".to_owned(), |n| format!("select {n};\n"));
        // Where sqlite3 is missing the scenario itself says so; this test needs it as well.
        let shell = shell.expect("sqlite3 is installed by xtask/setup.sh");
        while shell.answered() < 3 {
            std::thread::yield_now();
        }
        let said = shell.kill().expect("killed");
        assert_eq!(said.errors, "");
        assert_eq!(said.answers.first().map(String::as_str), Some("ready"));
        assert!(said.sent as usize + 1 >= said.answers.len(), "{} sent, {} answered", said.sent, said.answers.len());
        assert_eq!(said.answers[2], "1");
    }
}
