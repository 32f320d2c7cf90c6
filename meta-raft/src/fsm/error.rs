//! The two kinds of failure of the state machine, kept apart on purpose.
//!
//! [`Errno`] is a *value*: POSIX says that the operation fails, every replica says the same, the reply is stored.
//! [`Fatal`] stops the node: storage failed or an invariant is broken, and going on would spread it.

use std::fmt;

/// Linux error numbers that an operation can answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u32)]
pub enum Errno {
    Perm = 1,
    NoEnt = 2,
    Io = 5,
    TooBig = 7,
    Again = 11,
    Access = 13,
    Exist = 17,
    XDev = 18,
    NotDir = 20,
    IsDir = 21,
    Inval = 22,
    FileTooBig = 27,
    NoSpace = 28,
    MLink = 31,
    Range = 34,
    NameTooLong = 36,
    NotEmpty = 39,
    NoData = 61,
    Overflow = 75,
    NotSup = 95,
    Stale = 116,
}

impl Errno {
    /// The number on the wire and in stored replies.
    pub fn number(self) -> u32 {
        self as u32
    }

    /// The inverse of [`Errno::number`]; `None` for a number that no operation answers.
    pub fn from_number(number: u32) -> Option<Self> {
        use Errno::*;
        [
            Perm,
            NoEnt,
            Io,
            TooBig,
            Again,
            Access,
            Exist,
            XDev,
            NotDir,
            IsDir,
            Inval,
            FileTooBig,
            NoSpace,
            MLink,
            Range,
            NameTooLong,
            NotEmpty,
            NoData,
            Overflow,
            NotSup,
            Stale,
        ]
        .into_iter()
        .find(|e| e.number() == number)
    }
}

/// The node must stop: what failed, for the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fatal(pub String);

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Fatal {}

/// How an operation ends inside `apply`: done, a POSIX failure, or the end of this node.
#[derive(Debug)]
pub enum Failure {
    Errno(Errno),
    Fatal(Fatal),
}

impl From<Errno> for Failure {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Self::Fatal(fatal)
    }
}

/// Result of an operation.
pub type OpResult<T> = Result<T, Failure>;
