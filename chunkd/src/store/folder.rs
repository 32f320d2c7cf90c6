//! The small files of a data folder: identity (F1), incarnation (F3), fence (F2), the mark of a clean stop. Each is replaced by
//! rename and fsynced, so that it is the old one or the new one after any crash.

use std::any::Any;
use std::io;
use std::sync::Arc;

use super::OpenError;
use super::disk::{Disk, OpenMode};
use super::format::identity::{self, Identity};
use super::format::record::{self, Kind, Record};
use super::format::{Decoded, SECTOR};
use super::layout;

/// What may lie in a folder that counts as empty.
const HARMLESS: [&str; 2] = ["lost+found", "caribou-disk.new"];

/// A folder that has been looked at and locked, and not changed.
pub(crate) struct Inspected {
    pub(crate) disk: Arc<dyn Disk>,
    /// `None`: an empty folder.
    pub(crate) identity: Option<Identity>,
    pub(crate) lock: Box<dyn Any + Send + Sync>,
}

pub(crate) fn failed(disk: &dyn Disk, operation: &'static str) -> impl FnOnce(io::Error) -> OpenError {
    let path = disk.path().to_owned();
    move |source| OpenError::Disk { path, operation, source }
}

/// Locks a folder and reads whose it is. Changes nothing.
pub(crate) fn inspect(disk: Arc<dyn Disk>) -> Result<Inspected, OpenError> {
    let lock = disk.lock().map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => OpenError::Locked { path: disk.path().into() },
        _ => failed(disk.as_ref(), "locking it")(error),
    })?;
    let identity = match read_sector(disk.as_ref(), layout::IDENTITY).map_err(failed(disk.as_ref(), "reading it"))? {
        None => {
            let names = disk.list("").map_err(failed(disk.as_ref(), "listing it"))?;
            if names.iter().any(|name| !HARMLESS.contains(&name.as_str())) {
                return Err(OpenError::NotOurs { path: disk.path().into() });
            }
            None
        }
        Some(sector) => Some(sound(disk.as_ref(), layout::IDENTITY, identity::FORMAT, identity::decode(&sector))?),
    };
    Ok(Inspected { disk, identity, lock })
}

/// Makes the sub-folders that are missing, durably.
pub(crate) fn furnish(disk: &dyn Disk) -> io::Result<()> {
    disk.create_dir(layout::CHUNKS)?;
    if disk.list(layout::CHUNKS)?.len() < layout::FANOUT as usize {
        for number in 0..layout::FANOUT {
            disk.create_dir(&layout::shard(number))?;
        }
        disk.sync_dir(layout::CHUNKS)?;
    }
    for dir in [layout::QUARANTINE, layout::DELETED, layout::FOUND] {
        disk.create_dir(dir)?;
    }
    disk.sync_dir(layout::QUARANTINE)?;
    disk.sync_dir("")
}

pub(crate) fn write_identity(disk: &dyn Disk, identity: &Identity) -> io::Result<()> {
    replace(disk, layout::IDENTITY, &identity::encode(identity))
}

pub(crate) fn write_record(disk: &dyn Disk, kind: Kind, disk_uuid: [u8; 16], value: Record) -> io::Result<()> {
    replace(disk, file_of(kind), &record::encode(kind, disk_uuid, value))
}

pub(crate) fn read_record(disk: &dyn Disk, kind: Kind, disk_uuid: [u8; 16]) -> Result<Option<Record>, OpenError> {
    let file = file_of(kind);
    match read_sector(disk, file).map_err(failed(disk, "reading it"))? {
        None => Ok(None),
        Some(sector) => sound(disk, file, record::FORMAT, record::decode(&sector, kind, disk_uuid)).map(Some),
    }
}

/// Removes the mark of a clean stop, durably, and says whether it was there and whole.
pub(crate) fn take_clean_mark(disk: &dyn Disk, disk_uuid: [u8; 16]) -> io::Result<bool> {
    let Some(sector) = read_sector(disk, layout::CLEAN)? else { return Ok(false) };
    let clean = matches!(record::decode(&sector, Kind::Clean, disk_uuid), Decoded::Valid(_));
    disk.unlink(layout::CLEAN)?;
    disk.sync_dir("")?;
    Ok(clean)
}

fn file_of(kind: Kind) -> &'static str {
    match kind {
        Kind::Incarnation => layout::INCARNATION,
        Kind::Fence => layout::FENCE,
        Kind::Clean => layout::CLEAN,
    }
}

fn replace(disk: &dyn Disk, name: &str, content: &[u8]) -> io::Result<()> {
    let fresh = layout::fresh(name);
    let file = disk.open(&fresh, OpenMode::Truncate)?;
    file.write_at(content, 0)?;
    file.sync_data()?;
    disk.rename(&fresh, name)?;
    disk.sync_dir("")
}

fn read_sector(disk: &dyn Disk, name: &str) -> io::Result<Option<[u8; SECTOR]>> {
    let file = match disk.open(name, OpenMode::Existing) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut sector = [0; SECTOR];
    file.read_at(&mut sector, 0)?;
    Ok(Some(sector))
}

fn sound<T>(disk: &dyn Disk, file: &'static str, known: u16, decoded: Decoded<T>) -> Result<T, OpenError> {
    let path = disk.path().to_owned();
    match decoded {
        Decoded::Valid(value) => Ok(value),
        Decoded::Empty => Err(OpenError::Damaged { path, file, reason: "it is empty" }),
        Decoded::Damaged => {
            Err(OpenError::Damaged { path, file, reason: "its checksum does not hold or it is another disk's" })
        }
        Decoded::TooNew(found) => Err(OpenError::TooNew { path, file, found, known }),
    }
}
