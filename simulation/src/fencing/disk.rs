//! A chunk server's disk, with an eye on what comes into the files of chunks, and on files that go. It changes nothing, and makes no calls of its
//! own on the disk behind it, which fails at a certain call.

use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use caribou_chunkd::store::disk::{Boot, Disk, DiskFile, OpenMode, Pace, Space};
use caribou_proto::ids::ChunkId;
use parking_lot::Mutex;

use super::header::{DATA_AT, Header, PLACES};
use super::{fragments, removals};
use crate::findings::Findings;

/// See the module.
pub struct WatchedDisk {
    disk: Arc<dyn Disk>,
    server: Arc<str>,
    findings: Arc<Findings>,
    /// By name.
    files: Mutex<BTreeMap<String, Arc<Known>>>,
}

/// What is known of a chunk's file, however many have it open.
struct Known {
    chunk: ChunkId,
    /// The newest, once one has been written or read.
    header: Mutex<Option<Header>>,
}

struct WatchedFile {
    file: Box<dyn DiskFile>,
    server: Arc<str>,
    findings: Arc<Findings>,
    known: Arc<Known>,
}

/// The chunk whose file has this name.
fn chunk_of(name: &str) -> Option<ChunkId> {
    let hex = name.strip_prefix("chunks/")?.split_once('/')?.1.strip_suffix(".chunk")?;
    u64::from_str_radix(hex, 16).ok().map(ChunkId)
}

impl WatchedDisk {
    /// The disk of a server that is about to start.
    pub fn new(disk: Arc<dyn Disk>, server: &str, findings: &Arc<Findings>) -> Self {
        findings.fencing.fragments.lock().started(server);
        Self { disk, server: server.into(), findings: Arc::clone(findings), files: Mutex::default() }
    }

    fn known(&self, name: &str, chunk: ChunkId, mode: OpenMode) -> Arc<Known> {
        let mut files = self.files.lock();
        if mode != OpenMode::Existing {
            files.remove(name);
        }
        let new = || Arc::new(Known { chunk, header: Mutex::default() });
        Arc::clone(files.entry(name.to_owned()).or_insert_with(new))
    }

    /// There is no file of this name any more.
    fn removed(&self, name: &str) {
        let Some(known) = self.files.lock().remove(name) else { return };
        let header = *known.header.lock();
        if let Some(header) = header {
            removals::removed(&self.findings, &self.server, known.chunk, &header);
        }
    }
}

impl Disk for WatchedDisk {
    fn path(&self) -> &str {
        self.disk.path()
    }

    fn open(&self, name: &str, mode: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let file = self.disk.open(name, mode)?;
        let Some(chunk) = chunk_of(name) else { return Ok(file) };
        let known = self.known(name, chunk, mode);
        let (server, findings) = (Arc::clone(&self.server), Arc::clone(&self.findings));
        Ok(Box::new(WatchedFile { file, server, findings, known }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)?;
        self.removed(from);
        self.files.lock().remove(to);
        Ok(())
    }

    fn unlink(&self, name: &str) -> io::Result<()> {
        self.disk.unlink(name)?;
        self.removed(name);
        Ok(())
    }

    fn create_dir(&self, name: &str) -> io::Result<()> {
        self.disk.create_dir(name)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.sync_dir(dir)
    }

    fn lock(&self) -> io::Result<Box<dyn Any + Send + Sync>> {
        self.disk.lock()
    }

    fn space(&self) -> io::Result<Space> {
        self.disk.space()
    }

    fn boot(&self) -> Option<Boot> {
        self.disk.boot()
    }

    fn pace(&self) -> Pace {
        self.disk.pace()
    }
}

impl WatchedFile {
    /// Headers that were found there.
    fn found(&self, beginning: &[u8]) {
        let Some(found) = Header::newest(beginning) else { return };
        let mut known = self.known.header.lock();
        if known.is_none_or(|known| known.sequence < found.sequence) {
            *known = Some(found);
        }
    }

    fn wrote(&self, bytes: &[u8], offset: u64) {
        let chunk = self.known.chunk;
        if PLACES.contains(&offset)
            && let Some(new) = Header::read(bytes)
        {
            if let Some(old) = self.known.header.lock().replace(new) {
                fragments::replaced(&self.findings, &self.server, chunk, (&old, &new));
            }
        } else if offset >= DATA_AT
            && let Some(header) = *self.known.header.lock()
        {
            fragments::wrote(&self.findings, &self.server, (chunk, &header), offset - DATA_AT, bytes);
        }
    }
}

impl DiskFile for WatchedFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let count = self.file.read_at(buf, offset)?;
        if offset == 0 {
            self.found(&buf[..count]);
        }
        Ok(count)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_at(data, offset)?;
        self.wrote(data, offset);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn punch(&self, offset: u64, length: u64) -> io::Result<()> {
        self.file.punch(offset, length)?;
        if let Some(header) = *self.known.header.lock() {
            fragments::punched(&self.findings, &self.server, (self.known.chunk, &header), offset);
        }
        Ok(())
    }

    fn extend(&self, length: u64) -> io::Result<()> {
        self.file.extend(length)
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
}
