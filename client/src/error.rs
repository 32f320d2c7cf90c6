//! The library's one error type, split as the caller acts: a final errno, an unknown outcome, a refusal, a bug.

use crate::errno;

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The answer of the file system: final, and the same however often the call was sent (S1).
    #[error("{}", errno::describe(*.0))]
    Errno(i32),
    /// The cluster does not want this client: foreign cluster, version, limit. A sentence for a person.
    #[error("{0}")]
    Refused(String),
    /// The soft timeout passed. The call may or may not have taken effect (S5).
    #[error("{0}")]
    Unavailable(String),
    /// The caller gave the call up (a signal). The call may or may not have taken effect (S5).
    #[error("the call was interrupted")]
    Interrupted,
    /// A broken invariant, or a client that has been shut down.
    #[error("{0}")]
    Fatal(String),
}

impl Error {
    /// The errno that a system call returns for this error.
    pub fn errno(&self) -> i32 {
        errno::of(self)
    }

    pub(crate) fn from_wire(errno: u32) -> Self {
        Self::Errno(i32::try_from(errno).unwrap_or(errno::EIO))
    }
}
