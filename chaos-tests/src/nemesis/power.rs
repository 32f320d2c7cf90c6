//! Power cuts without a device mapper: a node's data lie on a loop-mounted ext4, which the file system's shutdown ioctl stops dead.
//! Every write that was not fsynced is then lost, everything later fails, as after a real power cut. The same call, after everything was
//! written, is a disk that fails; a frozen file system is one that hangs, and can be copied, to be put back later.
#![allow(unsafe_code)]

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

/// Size of one node's (sparse) volume in bytes.
const VOLUME_BYTES: u64 = 4 << 30;
/// `FS_IOC_SHUTDOWN`, and its flags for "write everything before" and "without flushing the journal".
const FS_IOC_SHUTDOWN: libc::c_ulong = 0x8004_587D;
const WRITE_ALL: u32 = 0;
const NO_LOG_FLUSH: u32 = 2;
const FIFREEZE: libc::c_ulong = 0xC004_5877;
const FITHAW: libc::c_ulong = 0xC004_5878;

fn image_of(volume: &Path) -> PathBuf {
    volume.with_extension("img")
}

/// An image that was kept.
fn kept_of(volume: &Path) -> PathBuf {
    volume.with_extension("img.kept")
}

/// Makes a volume and mounts it at `volume`.
pub fn make_volume(volume: &Path) -> Result<()> {
    std::fs::create_dir_all(volume).with_context(|| volume.display().to_string())?;
    let image = image_of(volume);
    let file =
        OpenOptions::new().create_new(true).write(true).open(&image).with_context(|| image.display().to_string())?;
    file.set_len(VOLUME_BYTES)?;
    run(Command::new("mkfs.ext4")
        .args(["-q", "-F", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard"])
        .arg(&image))?;
    mount(volume)
}

fn mount(volume: &Path) -> Result<()> {
    run(Command::new("mount").args(["-o", "loop"]).arg(image_of(volume)).arg(volume))
}

/// Stops the file system dead: what was not synced is lost.
pub fn cut(volume: &Path) -> Result<()> {
    shut_down(volume, NO_LOG_FLUSH).with_context(|| format!("the power of {} cannot be cut", volume.display()))
}

/// From now on every call is EIO. What was written before is there after a [`remount`]; after a [`cut`] only what was synced.
pub fn fail(volume: &Path) -> Result<()> {
    shut_down(volume, WRITE_ALL).with_context(|| format!("the disk of {} cannot be made to fail", volume.display()))
}

fn shut_down(volume: &Path, mut flag: u32) -> Result<()> {
    control(volume, FS_IOC_SHUTDOWN, &mut flag)?;
    // Proof that it took effect: nothing can be written any more.
    if std::fs::write(volume.join("after-the-cut"), b"x").is_ok() {
        bail!("{} still takes writes", volume.display());
    }
    Ok(())
}

/// Whoever writes has to wait, until [`thaw`].
pub fn freeze(volume: &Path) -> Result<()> {
    control(volume, FIFREEZE, &mut 0).with_context(|| format!("{} cannot be frozen", volume.display()))
}

pub fn thaw(volume: &Path) -> Result<()> {
    control(volume, FITHAW, &mut 0).with_context(|| format!("{} cannot be thawed", volume.display()))
}

fn control(volume: &Path, request: libc::c_ulong, argument: &mut u32) -> Result<()> {
    let dir = File::open(volume).with_context(|| volume.display().to_string())?;
    // SAFETY: the descriptor is open for the whole call, and these calls read one u32 or nothing.
    let result = unsafe { libc::ioctl(dir.as_raw_fd(), request, std::ptr::from_mut(argument)) };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error().into()) }
}

/// Copies the image of a frozen volume: what would be there after a power cut at this moment.
pub fn keep(volume: &Path) -> Result<()> {
    run(Command::new("cp").args(["--sparse=always", "--reflink=auto"]).arg(image_of(volume)).arg(kept_of(volume)))
}

/// Mounts the image that was kept in the place of the newer one, which is gone then. The volume's processes must be gone.
pub fn put_back(volume: &Path) -> Result<()> {
    // Nothing is written any more to what is thrown away.
    cut(volume)?;
    unmount(volume)?;
    let kept = kept_of(volume);
    std::fs::rename(&kept, image_of(volume)).with_context(|| kept.display().to_string())?;
    mount(volume)
}

/// Removes the image that was kept.
pub fn forget(volume: &Path) -> Result<()> {
    let kept = kept_of(volume);
    std::fs::remove_file(&kept).with_context(|| kept.display().to_string())
}

/// Mounts the volume again, as after a reboot (its journal is replayed). Its processes must be gone.
pub fn remount(volume: &Path) -> Result<()> {
    unmount(volume)?;
    mount(volume)
}

fn unmount(volume: &Path) -> Result<()> {
    rustix::mount::unmount(volume, rustix::mount::UnmountFlags::empty())
        .with_context(|| format!("umount {}", volume.display()))
}

fn run(command: &mut Command) -> Result<()> {
    let output =
        command.output().with_context(|| format!("{command:?} cannot be started: install e2fsprogs and mount"))?;
    if !output.status.success() {
        bail!("{command:?} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
