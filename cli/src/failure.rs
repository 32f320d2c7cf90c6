//! What a person reads when a command fails: one sentence that says what, where and what to do, and an exit code.

use std::fmt;

/// Exit code for bad input: nothing was changed.
pub const EXIT_USAGE: u8 = 2;
/// Exit code for a failure while working.
pub const EXIT_FAILED: u8 = 1;

/// Bad input: the command did not begin its work.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Usage {}

/// An error for bad input.
pub fn usage(text: impl Into<String>) -> anyhow::Error {
    Usage(text.into()).into()
}

/// The exit code of an error.
pub fn exit_code(error: &anyhow::Error) -> u8 {
    if error.downcast_ref::<Usage>().is_some() { EXIT_USAGE } else { EXIT_FAILED }
}
