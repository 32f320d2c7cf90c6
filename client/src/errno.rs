//! The one errno table: which number a program sees for which failure, and the words for it.
//! docs/semantics.md lists the same table.

use crate::Error;

/// Input/output error: data lost (W5), or a call whose session row is gone (S4).
pub const EIO: i32 = libc::EIO;
/// Interrupted (S5).
pub const EINTR: i32 = libc::EINTR;
/// The soft timeout passed; the outcome is unknown (S5).
pub const ETIMEDOUT: i32 = libc::ETIMEDOUT;
/// The cluster refuses this client.
pub const EACCES: i32 = libc::EACCES;
/// The inode is gone.
pub const ESTALE: i32 = libc::ESTALE;

/// The errno of an error.
pub(crate) fn of(error: &Error) -> i32 {
    match error {
        Error::Errno(errno) => *errno,
        Error::Refused(_) => EACCES,
        Error::Unavailable(_) => ETIMEDOUT,
        Error::Interrupted => EINTR,
        Error::Fatal(_) => EIO,
    }
}

/// The words of the C library for an errno, with its number.
pub(crate) fn describe(errno: i32) -> String {
    std::io::Error::from_raw_os_error(errno).to_string()
}
