//! Wire attributes to kernel attributes, and what mount options and mode bits mean.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use caribou_client::proto::ids::BLOCK_BYTES;
use caribou_client::proto::meta::v1::{Attr, FileKind};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

/// The set-user-id and set-group-id bits.
pub(crate) const SET_ID_BITS: u32 = libc::S_ISUID | libc::S_ISGID;
/// All bits of a mode that are stored.
pub(crate) const MODE_BITS: u32 = 0o7777;

/// Kernel attributes.
pub(crate) fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.inode),
        size: attr.size,
        blocks: attr.blocks,
        atime: time(attr.atime_ns),
        mtime: time(attr.mtime_ns),
        ctime: time(attr.ctime_ns),
        crtime: UNIX_EPOCH,
        kind: file_type(attr.kind()),
        perm: u16::try_from(attr.mode & MODE_BITS).expect("12 bits"),
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

pub(crate) fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
        FileKind::Regular | FileKind::Unknown => FileType::RegularFile,
    }
}

/// The kind that a mode names; `None` for one that mknod does not make.
pub(crate) fn kind_of_mode(mode: u32) -> Option<FileKind> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG => Some(FileKind::Regular),
        libc::S_IFIFO => Some(FileKind::Fifo),
        libc::S_IFSOCK => Some(FileKind::Socket),
        libc::S_IFCHR => Some(FileKind::CharDevice),
        libc::S_IFBLK => Some(FileKind::BlockDevice),
        _ => None,
    }
}

/// What an open needs: bits 4 read, 2 write, 1 execute.
pub(crate) fn access_of_flags(flags: i32) -> u32 {
    /// Set by the kernel when a program is executed (`__FMODE_EXEC`).
    const EXEC: i32 = 0x20;
    match flags & libc::O_ACCMODE {
        libc::O_WRONLY => 2,
        libc::O_RDWR => 6,
        _ if flags & EXEC != 0 => 1,
        _ => 4,
    }
}

fn time(ns: i64) -> SystemTime {
    let distance = Duration::from_nanos(ns.unsigned_abs());
    if ns >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// Nanoseconds since 1970; times beyond the years 1678 to 2262 are clamped.
pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_nanos()).unwrap_or(i64::MAX),
        Err(before) => i64::try_from(before.duration().as_nanos()).map_or(i64::MIN, |ns| -ns),
    }
}

/// A time to set: the value, and whether it is the present instead.
pub(crate) fn time_to_set(time: Option<TimeOrNow>) -> (Option<i64>, bool) {
    match time {
        None => (None, false),
        Some(TimeOrNow::Now) => (None, true),
        Some(TimeOrNow::SpecificTime(time)) => (Some(nanoseconds(time)), false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_both_ways() {
        for ns in [0, 1, -1, 1_700_000_000_123_456_789, -5_000_000_001, i64::MAX, i64::MIN + 1] {
            assert_eq!(nanoseconds(time(ns)), ns);
        }
    }

    #[test]
    fn access_bits() {
        assert_eq!(access_of_flags(libc::O_RDONLY), 4);
        assert_eq!(access_of_flags(libc::O_WRONLY | libc::O_TRUNC), 2);
        assert_eq!(access_of_flags(libc::O_RDWR | libc::O_APPEND), 6);
        assert_eq!(access_of_flags(0x20), 1);
    }

    #[test]
    fn kinds_of_mknod() {
        assert_eq!(kind_of_mode(libc::S_IFIFO | 0o600), Some(FileKind::Fifo));
        assert_eq!(kind_of_mode(0o600), Some(FileKind::Regular));
        assert_eq!(kind_of_mode(libc::S_IFDIR), None);
    }
}
