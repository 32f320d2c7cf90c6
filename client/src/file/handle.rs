//! One open of a file. All handles of a file share one buffer; a handle has its own access, its own knowledge of errors, and
//! its own idea of whether it is read in sequence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use caribou_proto::ids::CHUNK_BYTES;
use parking_lot::Mutex;

use super::buffer::EXTENT_OVERHEAD;
use super::inode::Inode;
use super::read_ahead::Sequence;
use super::sticky::Seen;
use crate::Error;

/// Chunks of the longest file, as the metadata nodes have it (4 TiB).
const MAX_FILE_CHUNKS: u64 = 1 << 16;
/// The greatest size of a file.
const MAX_FILE_BYTES: u64 = MAX_FILE_CHUNKS * CHUNK_BYTES;

static NEXT_OWNER: AtomicU64 = AtomicU64::new(1);

/// See the head of this file.
pub struct OpenFile {
    inode: Arc<Inode>,
    writer: bool,
    owner: u64,
    seen: Mutex<Seen>,
    sequence: Mutex<Sequence>,
    released: AtomicBool,
}

impl OpenFile {
    pub(crate) fn new(inode: Arc<Inode>, writer: bool) -> Self {
        let seen = Mutex::new(inode.peek(|state| state.sticky.open()));
        let owner = NEXT_OWNER.fetch_add(1, Ordering::Relaxed);
        Self { inode, writer, owner, seen, sequence: Mutex::default(), released: AtomicBool::new(false) }
    }

    /// The file's inode number.
    pub fn inode(&self) -> u64 {
        self.inode.number
    }

    /// Reads up to `len` bytes at `offset`, this client's own buffered writes included; short only at the end of the file.
    ///
    /// # Errors
    /// EIO when every replica is damaged; [`Error::Unavailable`] after the soft timeout.
    pub async fn read(&self, offset: u64, len: u32) -> Result<Bytes, Error> {
        let end = offset.saturating_add(u64::from(len));
        let ahead = self.sequence.lock().read(offset, end, self.inode.context.settings.read_ahead_bytes);
        self.inode.read_ahead(self.owner, offset, end, ahead);
        self.inode.read(offset, len).await
    }

    /// Takes bytes into the buffer; waits while it is full.
    ///
    /// # Errors
    /// An earlier error of write-back that this handle was not told yet; EFBIG; [`Error::Unavailable`] after the soft timeout.
    pub async fn write(&self, offset: u64, data: Bytes) -> Result<(), Error> {
        self.inode.check(&self.seen)?;
        if data.is_empty() {
            return Ok(());
        }
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > MAX_FILE_BYTES) {
            return Err(Error::Errno(libc::EFBIG));
        }
        let room = self.reserve(&data).await?;
        self.inode.insert(offset, data, room);
        self.relieve();
        Ok(())
    }

    /// Takes bytes into the buffer at the end of the file (O_APPEND), wherever other clients have moved it, and says where. Their appends of
    /// the last second may be unknown here; no lock is taken.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub async fn append(&self, data: Bytes) -> Result<u64, Error> {
        self.inode.check(&self.seen)?;
        self.inode.ensure_length().await?;
        let room = self.reserve(&data).await?;
        let offset = self.inode.append(data, room, MAX_FILE_BYTES).ok_or(Error::Errno(libc::EFBIG))?;
        self.relieve();
        Ok(offset)
    }

    /// Room in the buffer, which whoever takes the bytes in settles.
    async fn reserve(&self, data: &Bytes) -> Result<u64, Error> {
        let context = &self.inode.context;
        let cost = data.len() as u64 + EXTENT_OVERHEAD;
        if !context.budget.reserve(cost) {
            context.patiently("there was no room in the write buffer", self.wait_for_room(cost)).await?;
        }
        Ok(cost)
    }

    fn relieve(&self) {
        let context = &self.inode.context;
        match context.budget.relief_due() {
            0 => {}
            bytes => context.relieve(bytes),
        }
    }

    async fn wait_for_room(&self, cost: u64) -> Result<(), Error> {
        let context = &self.inode.context;
        loop {
            let freed = context.budget.freed();
            tokio::pin!(freed);
            freed.as_mut().enable();
            if context.budget.reserve(cost) {
                return Ok(());
            }
            context.relieve(context.budget.used() / 2);
            self.inode.check(&self.seen)?;
            freed.await;
        }
    }

    /// close(2): everything written so far is with all holders, and its length and time are committed.
    ///
    /// # Errors
    /// An error of write-back that this handle was not told yet.
    pub async fn flush(&self) -> Result<(), Error> {
        if !self.writer {
            return self.inode.check(&self.seen);
        }
        self.inode.flush(&self.seen).await
    }

    /// fsync(2), fdatasync(2): every byte written to the file through this client before the call is on the disks of all
    /// holders of its chunk, and its length is committed (W5, W6). The modification time of an overwrite follows later.
    ///
    /// # Errors
    /// As [`Self::flush`].
    pub async fn sync(&self, data_only: bool) -> Result<(), Error> {
        // Both promise the same: the times alone are never waited for (W6).
        let _ = data_only;
        self.inode.sync(&self.seen).await
    }

    /// The handle is closed. What is not synced yet is synced in the background.
    pub async fn release(&self) {
        self.release_now();
    }

    fn release_now(&self) {
        if self.released.swap(true, Ordering::Relaxed) {
            return;
        }
        let inode = &self.inode;
        inode.change(0, |state| {
            state.handles -= 1;
            state.writers -= u32::from(self.writer);
            state.ahead.closed(self.owner);
        });
        inode.context.ports.meta.release_claim(inode.number);
        inode.context.forget(inode.number);
    }
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.release_now();
    }
}
