//! `-o remount`: changes the kernel's flags of a mount that is up, as mount(8) asks for it through its helper.
//!
//! Begins with the flags that the mount has, so that what is not named stays. Settings of Caribou itself belong to the process
//! that serves the mount: they are understood, for fstab's sake, and stay as they are.

use std::path::{Path, PathBuf};

use rustix::fs::{StatVfs, StatVfsMountFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

use crate::server::Problem;

/// What statvfs(3) says of a mount, and what mount(2) calls it.
const FLAGS: [(StatVfsMountFlags, MountFlags); 7] = [
    (StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
    (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
    (StatVfsMountFlags::NODEV, MountFlags::NODEV),
    (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
    (StatVfsMountFlags::SYNCHRONOUS, MountFlags::SYNCHRONOUS),
    (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
    (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
];

/// A change of flags of a mount that is up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remount {
    pub(crate) mount_point: PathBuf,
    /// In the order in which they were given; a later one goes before an earlier one.
    pub(crate) flags: Vec<String>,
}

impl Remount {
    /// Changes the flags.
    ///
    /// # Errors
    /// No Caribou there, files open for writing, not root: in words.
    pub fn run(&self) -> Result<(), Problem> {
        let place = self.mount_point.display();
        let failed = |errno: Errno| {
            let advice = match errno {
                Errno::PERM => "only root may do that",
                Errno::BUSY => "files are open for writing; close them first (fuser -vm shows who has them)",
                Errno::INVAL => "nothing is mounted there",
                _ => "see the kernel's log (dmesg)",
            };
            Problem::input(format!("cannot remount {place}: {errno}; {advice}"))
        };
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let found = std::fs::canonicalize(&self.mount_point).map_err(|error| {
            Problem::input(format!("the mount point {place} cannot be used: {error}; name a mount that is up"))
        })?;
        if !is_caribou(&mounts, &found) {
            return Err(Problem::input(format!("no Caribou is mounted on {place}; mount it without remount")));
        }
        let now: StatVfs = rustix::fs::statvfs(&found).map_err(failed)?;
        rustix::mount::mount_remount(&found, changed(now.f_flag, &self.flags), c"").map_err(failed)
    }
}

/// The flags that a mount has, and those that are named.
fn changed(now: StatVfsMountFlags, named: &[String]) -> MountFlags {
    let has = FLAGS.into_iter().filter(|(shown, _)| now.contains(*shown));
    let mut flags = has.fold(MountFlags::empty(), |flags, (_, flag)| flags | flag);
    for name in named {
        match name.as_str() {
            "ro" => flags |= MountFlags::RDONLY,
            "rw" => flags -= MountFlags::RDONLY,
            "nosuid" => flags |= MountFlags::NOSUID,
            "suid" => flags -= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "dev" => flags -= MountFlags::NODEV,
            "noexec" => flags |= MountFlags::NOEXEC,
            "exec" => flags -= MountFlags::NOEXEC,
            "noatime" => flags = (flags - MountFlags::RELATIME) | MountFlags::NOATIME,
            // Said in so many words: without any flag for atime the kernel keeps the one that is there.
            "atime" => flags = (flags - MountFlags::NOATIME) | MountFlags::RELATIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "dirsync" => flags |= MountFlags::DIRSYNC,
            _ => {}
        }
    }
    flags
}

/// Whether the newest mount on this path is one of Caribou.
fn is_caribou(mountinfo: &str, mount_point: &Path) -> bool {
    let wanted = crate::mount_point::escaped(&mount_point.to_string_lossy());
    let line = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some(&wanted));
    line.and_then(|line| line.split_once(" - ")).is_some_and(|(_, fs)| fs.starts_with("fuse.caribou "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_named_stays() {
        let now = StatVfsMountFlags::NOSUID | StatVfsMountFlags::NODEV | StatVfsMountFlags::RELATIME;
        let named = |list: &str| changed(now, &list.split(',').map(str::to_owned).collect::<Vec<_>>());
        let kept = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RELATIME;
        assert_eq!(named(""), kept);
        assert_eq!(named("ro"), kept | MountFlags::RDONLY);
        assert_eq!(named("ro,rw"), kept);
        assert_eq!(named("suid,noexec"), MountFlags::NODEV | MountFlags::RELATIME | MountFlags::NOEXEC);
        assert_eq!(named("noatime"), MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOATIME);
        let noatime = StatVfsMountFlags::NOATIME;
        assert_eq!(changed(noatime, &["atime".to_owned()]), MountFlags::RELATIME);
        assert_eq!(changed(StatVfsMountFlags::RDONLY, &["rw".to_owned()]), MountFlags::empty());
    }

    #[test]
    fn only_a_mount_of_caribou_is_touched() {
        let info = "36 35 98:0 / /a rw - fuse.caribou m:1 rw\n37 35 98:0 / /b rw shared:1 - ext4 /dev/root rw\n\
                    40 36 0:51 / /a/b rw - fuse.caribou m:1 rw\n41 40 0:9 / /a/b rw - tmpfs tmpfs rw\n";
        assert!(is_caribou(info, Path::new("/a")));
        assert!(!is_caribou(info, Path::new("/b")) && !is_caribou(info, Path::new("/a/b")));
        let remount = Remount { mount_point: PathBuf::from("/proc"), flags: vec!["ro".to_owned()] };
        assert!(remount.run().expect_err("not Caribou").to_string().contains("no Caribou is mounted on /proc"));
    }
}
