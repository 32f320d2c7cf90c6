//! The place where it is mounted: what can be wrong with it beforehand, how the kernel's read-ahead is raised, how it is
//! unmounted when it is busy.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use crate::server::Problem;

const DEVICE: &str = "/dev/fuse";
/// More read-ahead than this only wastes memory of the page cache.
const MAX_READ_AHEAD_KIB: u64 = 8192;

/// Looks at everything that is needed here, before the cluster is asked.
///
/// # Errors
/// What is missing, where, and what to do.
pub(crate) fn check(mount_point: &Path) -> Result<PathBuf, Problem> {
    let place = mount_point.display();
    let found = match std::fs::canonicalize(mount_point).and_then(|path| Ok((std::fs::metadata(&path)?, path))) {
        Ok((metadata, path)) if metadata.is_dir() => path,
        Ok(_) => return Err(Problem::input(format!("the mount point {place} is not a folder; name one"))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Problem::input(format!(
                "the mount point {place} does not exist; create it with mkdir -p {place}"
            )));
        }
        Err(error) if error.raw_os_error() == Some(libc::ENOTCONN) => {
            return Err(Problem::input(format!(
                "a mount without a process is left on {place}; remove it with umount -l {place}"
            )));
        }
        Err(error) => {
            return Err(Problem::input(format!("the mount point {place} cannot be used: {error}; choose another one")));
        }
    };
    if let Err(error) = OpenOptions::new().read(true).write(true).open(DEVICE) {
        let advice = match error.kind() {
            ErrorKind::NotFound => {
                "load the kernel module with modprobe fuse (in a container: pass --device /dev/fuse)"
            }
            _ => "mount as root, or get access to the device",
        };
        return Err(Problem::input(format!("cannot open {DEVICE}: {error}; {advice}")));
    }
    Ok(found)
}

/// Words for an error of the mount itself.
pub(crate) fn mount_failed(mount_point: &Path, error: &std::io::Error) -> Problem {
    let advice = match error.kind() {
        // Not root, and no helper that may mount for a user.
        ErrorKind::NotFound => "install fuse3 (fusermount3), or mount as root",
        ErrorKind::PermissionDenied => "mount as root, or allow user_allow_other in /etc/fuse.conf",
        _ => "see the kernel's log (dmesg)",
    };
    let words = error.to_string().trim().replace('\n', " ");
    Problem::input(format!("cannot mount on {}: {words}; {advice}", mount_point.display()))
}

/// Raises the kernel's read-ahead of this mount, which FUSE offers as 128 KiB only. Needs root; without it reads are slower.
pub(crate) fn raise_read_ahead(mount_point: &Path, bytes: u64) {
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let Some(device) = device_of(&mounts, mount_point) else { return };
    let file = format!("/sys/class/bdi/{device}/read_ahead_kb");
    let kib = (bytes / 1024).clamp(128, MAX_READ_AHEAD_KIB);
    if let Err(error) = std::fs::write(&file, kib.to_string()) {
        tracing::debug!(file, %error, "the kernel's read-ahead stays as it is");
    }
}

/// `major:minor` of the newest mount on this path.
fn device_of(mountinfo: &str, mount_point: &Path) -> Option<String> {
    let wanted = escaped(&mount_point.to_string_lossy());
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(&wanted))?;
    line.split(' ').nth(2).map(str::to_owned)
}

/// As the kernel writes paths in mountinfo.
pub(crate) fn escaped(path: &str) -> String {
    path.replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011").replace('\n', "\\012")
}

/// Takes a busy mount out of the tree: who has files open keeps them until this process ends.
pub(crate) fn detach(mount_point: &Path) {
    let result = rustix::mount::unmount(mount_point, rustix::mount::UnmountFlags::DETACH);
    if let Err(error) = result {
        tracing::warn!(mount_point = %mount_point.display(), %error, "could not be unmounted");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_or_wrong_mount_point_is_named() {
        let dir = tempfile::tempdir().expect("a folder");
        let missing = dir.path().join("missing");
        assert!(check(&missing).expect_err("missing").to_string().contains("mkdir -p"));
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert!(check(&file).expect_err("a file").to_string().contains("not a folder"));
    }

    #[test]
    fn the_newest_mount_counts() {
        let info = "36 35 98:0 / /mnt rw - ext4 /dev/root rw\n40 36 0:51 / /mnt rw - fuse.caribou caribou rw\n\
                    41 36 0:52 / /m\\040t rw - fuse.caribou caribou rw\n";
        assert_eq!(device_of(info, Path::new("/mnt")).as_deref(), Some("0:51"));
        assert_eq!(device_of(info, Path::new("/m t")).as_deref(), Some("0:52"));
        assert_eq!(device_of(info, Path::new("/other")), None);
    }
}
