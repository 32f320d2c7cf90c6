//! Going into the background, as mount(8) expects it: the caller comes back when the mount is up, with an error if it is not.
//! The fork happens before the runtime exists, for threads do not survive one.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;

use crate::server::Problem;

/// What the child sends when the mount is up; anything else is its problem in words.
const UP: &str = "up";

/// The way back to the waiting parent. Dropping it without a word counts as a failure.
pub(crate) struct Parent {
    pipe: Option<File>,
}

/// Which side of the fork this is.
pub(crate) enum Side {
    /// Go on here.
    Child(Parent),
    /// The child is up, or it told why not.
    Parent(Result<(), Problem>),
}

impl Parent {
    /// There is none: the process stays in the foreground.
    pub(crate) fn none() -> Self {
        Self { pipe: None }
    }

    /// Tells the parent how it went and lets go of its terminal.
    pub(crate) fn tell(mut self, result: &Result<(), Problem>) {
        let Some(mut pipe) = self.pipe.take() else { return };
        let sent = match result {
            Ok(()) => write!(pipe, "{UP}"),
            Err(problem) => write!(pipe, "{problem}"),
        };
        if sent.is_err() {
            tracing::debug!("the parent has gone");
        }
        drop(pipe);
        if result.is_ok() {
            quiet();
        }
    }
}

/// Forks. Must be called while the process has one thread.
///
/// # Errors
/// No process or pipe can be had.
pub(crate) fn fork() -> Result<Side, Problem> {
    let failed =
        |error: std::io::Error| Problem::input(format!("cannot go into the background: {error}; use --foreground"));
    let (reader, writer): (OwnedFd, OwnedFd) =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| failed(error.into()))?;
    // SAFETY: this is called from `run` before any thread is started, so the child has all of the process's state.
    match unsafe { libc::fork() } {
        -1 => Err(failed(std::io::Error::last_os_error())),
        0 => {
            drop(reader);
            rustix::process::setsid().map_err(|error| failed(error.into()))?;
            Ok(Side::Child(Parent { pipe: Some(File::from(writer)) }))
        }
        _ => {
            drop(writer);
            let mut answer = String::new();
            let read = File::from(reader).read_to_string(&mut answer);
            Ok(Side::Parent(match read {
                Ok(_) if answer == UP => Ok(()),
                Ok(_) if !answer.is_empty() => Err(Problem::input(answer)),
                _ => Err(Problem::input("the background process ended before the mount was up; try --foreground")),
            }))
        }
    }
}

/// A background process keeps neither a terminal nor a folder busy.
fn quiet() {
    if let Err(error) = std::env::set_current_dir("/") {
        tracing::debug!(%error, "cannot change to /");
    }
    let Ok(null) = File::options().read(true).write(true).open("/dev/null") else { return };
    use std::os::fd::AsRawFd;
    for stream in 0..=2 {
        // SAFETY: dup2 onto the standard streams' numbers; both descriptors are open, and nobody else owns 0 to 2.
        if unsafe { libc::dup2(null.as_raw_fd(), stream) } < 0 {
            tracing::debug!("a standard stream stays open");
        }
    }
}
