//! A data folder on a real file system: plain `pread`/`pwrite`/`fdatasync` relative to the folder's descriptor.
//!
//! Owns no thread and no policy; interrupted calls are repeated, everything else is handed up.

use std::any::Any;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use caribou_failpoints::{self as failpoints, Point};
use rustix::fs::{AtFlags, FallocateFlags, FlockOperation, Mode, OFlags, StatxFlags};
use rustix::io::Errno;

use super::disk::{Boot, Disk, DiskFile, OpenMode, Space};

/// A folder of a mounted file system.
pub struct FileDisk {
    path: String,
    folder: OwnedFd,
}

struct OpenFile {
    descriptor: OwnedFd,
}

/// A UUID that the kernel makes at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
/// `STATX_MNT_ID_UNIQUE` (Linux 6.8): unlike the older mount id it is never used a second time.
const MOUNT_ID: StatxFlags = StatxFlags::from_bits_retain(0x4000);

const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);

impl FileDisk {
    /// The folder must exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { path: path.display().to_string(), folder })
    }

    fn open_folder(&self, dir: &str) -> io::Result<OwnedFd> {
        let name = if dir.is_empty() { "." } else { dir };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        Ok(rustix::fs::openat(&self.folder, name, flags, Mode::empty())?)
    }
}

impl Disk for FileDisk {
    fn path(&self) -> &str {
        &self.path
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let flags = OFlags::RDWR
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | match mode {
                OpenMode::Existing => OFlags::empty(),
                OpenMode::CreateNew => OFlags::CREATE | OFlags::EXCL,
                OpenMode::Truncate => OFlags::CREATE | OFlags::TRUNC,
            };
        let descriptor = rustix::fs::openat(&self.folder, name, flags, FILE_MODE)?;
        if mode != OpenMode::Existing {
            failpoints::pass(Point::FileCreated);
        }
        Ok(Box::new(OpenFile { descriptor }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        rustix::fs::renameat(&self.folder, from, &self.folder, to)?;
        failpoints::pass(Point::FileRenamed);
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        rustix::fs::unlinkat(&self.folder, name, AtFlags::empty())?;
        failpoints::pass(Point::FileUnlinked);
        Ok(())
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        match rustix::fs::mkdirat(&self.folder, name, FOLDER_MODE) {
            Err(Errno::EXIST) => Ok(()),
            other => Ok(other?),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(self.open_folder(dir)?)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name != "." && name != ".." {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        rustix::fs::fsync(self.open_folder(dir)?)?;
        failpoints::pass(Point::FolderSynced);
        Ok(())
    }

    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        // An own open of the folder: the lock goes with the descriptor, and nothing is written.
        let descriptor = self.open_folder("")?;
        rustix::fs::flock(&descriptor, FlockOperation::NonBlockingLockExclusive)?;
        Ok(Box::new(descriptor))
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.folder)?;
        Ok(Space { total_bytes: stat.f_blocks * stat.f_frsize, free_bytes: stat.f_bavail * stat.f_frsize })
    }

    fn boot(&self) -> Option<Boot> {
        let kernel = half_of(&std::fs::read_to_string(BOOT_ID).ok()?)?;
        let stat = rustix::fs::statx(&self.folder, "", AtFlags::EMPTY_PATH, MOUNT_ID).ok()?;
        let told = stat.stx_mask & MOUNT_ID.bits() != 0;
        told.then_some(Boot { kernel, mount: stat.stx_mnt_id })
    }
}

/// The first half of a UUID as text.
fn half_of(uuid: &str) -> Option<u64> {
    let digits: String = uuid.chars().filter(char::is_ascii_hexdigit).collect();
    u64::from_str_radix(digits.get(..16)?, 16).ok()
}

impl DiskFile for OpenFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match rustix::io::pread(&self.descriptor, &mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(read) => done += read,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        let mut done = 0;
        while done < data.len() {
            match rustix::io::pwrite(&self.descriptor, &data[done..], offset + done as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => done += written,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        failpoints::pass(Point::FileWritten);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        // W6: not repeated, not even on EINTR: the kernel may have dropped the error with it.
        rustix::fs::fdatasync(&self.descriptor)?;
        failpoints::pass(Point::FileSynced);
        Ok(())
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        let end = self.len()?;
        let length = length.min(end.saturating_sub(offset));
        if length == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.descriptor, flags, offset, length) {
            Err(Errno::OPNOTSUPP) => self.write_zeros(offset, length),
            other => Ok(other?),
        }
    }

    fn extend(&self, length: u64) -> io::Result<()> {
        if self.len()? < length {
            rustix::fs::ftruncate(&self.descriptor, length)?;
        }
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let size = rustix::fs::fstat(&self.descriptor)?.st_size;
        u64::try_from(size).map_err(|_| io::ErrorKind::InvalidData.into())
    }
}

impl OpenFile {
    /// For file systems without holes.
    fn write_zeros(&self, offset: u64, length: u64) -> io::Result<()> {
        static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
        let mut done = 0;
        while done < length {
            let part = (length - done).min(ZEROS.len() as u64);
            self.write_at(&ZEROS[..part as usize], offset + done)?;
            done += part;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m16_a_boot_is_told_by_the_kernel_and_the_mount() {
        assert_eq!(half_of("2147a51a-f754-4da0-9306-fd42e4992b75\n"), Some(0x2147_a51a_f754_4da0));
        assert_eq!(half_of("2147a51a"), None);
        let folder = tempfile::tempdir().unwrap();
        let boot = || FileDisk::open(folder.path()).unwrap().boot();
        assert_eq!(boot(), boot());
        // Another file system, another mount; `None` before Linux 6.8.
        let other = FileDisk::open(Path::new("/proc")).unwrap().boot();
        assert!(boot().is_none() || boot() != other);
    }
}
