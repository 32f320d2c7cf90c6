//! The file system as async functions: open files. Directories are in `listing.rs`, names in `names.rs`, attributes in
//! `attributes.rs`.
//! Knows no kernel types beyond flag bits; every result is attributes, bytes or an errno.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use caribou_client::proto::meta::v1::{Attr, Caller, Create};
use caribou_client::{Client, Error, OpenFile};

use crate::closed::Closed;
use crate::convert::{SET_ID_BITS, access_of_flags};
use crate::directories::Directories;
use crate::handles::{FileHandle, Handles};
use crate::listing::OpenDirectory;

/// One mounted file system.
pub(crate) struct Fs {
    pub(crate) client: Client,
    files: Handles<FileHandle>,
    pub(crate) dirs: Handles<tokio::sync::Mutex<OpenDirectory>>,
    /// Counts changes through this mount: pages of directories read before one are worth nothing after it.
    changes: AtomicU64,
    pub(crate) closed: Closed,
    /// How long the kernel may keep attributes.
    pub(crate) keep: Duration,
    pub(crate) directories: Directories,
}

impl Fs {
    pub(crate) fn new(client: Client, keep: Duration) -> Self {
        let directories = Directories::new(keep);
        Self {
            client,
            files: Handles::default(),
            dirs: Handles::default(),
            changes: AtomicU64::new(0),
            closed: Closed::default(),
            keep,
            directories,
        }
    }

    /// Call before and after a change: a page read in between is not to be trusted either.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Lays what this client has buffered over attributes from the server.
    pub(crate) fn overlaid(&self, mut attr: Attr) -> Attr {
        self.client.files().overlay(&mut attr);
        attr
    }

    pub(crate) async fn create(&self, caller: Caller, create: Create) -> Result<(Attr, u64), Error> {
        let writes = create.access & 2 != 0;
        self.changed();
        let call = self.directories.call();
        let created = self.client.files().create(&caller, create).await?;
        self.changed();
        call.answered(&created.directories);
        Ok(self.register(created.attr, created.file, writes))
    }

    pub(crate) async fn open(&self, caller: Caller, inode: u64, flags: i32) -> Result<u64, Error> {
        let access = access_of_flags(flags);
        // The kernel cuts by a change of the size, after it has looked whether it may (see the capabilities in `fuse.rs`).
        let (attr, file) = self.client.files().open(&caller, inode, access, false).await?;
        Ok(self.register(attr, file, access & 2 != 0).1)
    }

    fn register(&self, attr: Attr, file: Arc<OpenFile>, writes: bool) -> (Attr, u64) {
        let set_id = AtomicBool::new(attr.mode & SET_ID_BITS != 0);
        let number = self.files.insert(FileHandle { file, writes, set_id });
        (self.overlaid(attr), number)
    }

    /// The mode of an inode changed through this mount.
    pub(crate) fn mode_seen(&self, attr: &Attr) {
        if attr.mode & SET_ID_BITS != 0 {
            self.files.for_each(|handle| {
                if handle.file.inode() == attr.inode {
                    handle.set_id.store(true, Ordering::Release);
                }
            });
        }
    }

    pub(crate) fn handle(&self, number: u64) -> Result<Arc<FileHandle>, Error> {
        self.files.get(number).ok_or(Error::Errno(libc::EBADF))
    }

    pub(crate) async fn read(&self, number: u64, offset: u64, size: u32) -> Result<Bytes, Error> {
        self.handle(number)?.file.read(offset, size).await
    }

    /// `kill_set_id`: the kernel asks to take set-user-id and set-group-id away with this write. `sync`: O_SYNC or O_DSYNC.
    pub(crate) async fn write(&self, write: Write) -> Result<u32, Error> {
        let handle = self.handle(write.handle)?;
        let len = u32::try_from(write.data.len()).expect("a request holds at most 16 MiB");
        self.changed();
        if write.kill_set_id && handle.set_id.load(Ordering::Acquire) {
            self.take_set_id_away(handle.file.inode()).await?;
            handle.set_id.store(false, Ordering::Release);
        }
        if write.append {
            handle.file.append(write.data).await?;
        } else {
            handle.file.write(write.offset, write.data).await?;
        }
        if write.sync {
            handle.file.sync(true).await?;
        }
        Ok(len)
    }

    /// close(2): write back; errors of this file are reported here.
    pub(crate) async fn flush(&self, number: u64) -> Result<(), Error> {
        let handle = self.handle(number)?;
        if handle.writes { handle.file.flush().await } else { Ok(()) }
    }

    pub(crate) async fn fsync(&self, number: u64, data_only: bool) -> Result<(), Error> {
        self.handle(number)?.file.sync(data_only).await
    }

    /// Within the runtime. Waits for nothing: what is not written back yet goes on by itself.
    pub(crate) fn release(&self, number: u64) {
        // A call on this handle that is still under way keeps the file open until its end.
        let Some(handle) = self.files.remove(number) else { return };
        if handle.writes {
            // Pages that were read before show it as it was without what has been written back since.
            self.closed.note(handle.file.inode());
            self.changed();
        }
    }
}

/// A write request.
pub(crate) struct Write {
    pub(crate) handle: u64,
    pub(crate) offset: u64,
    pub(crate) data: Bytes,
    pub(crate) kill_set_id: bool,
    pub(crate) sync: bool,
    /// At the end of the file, wherever the kernel takes that to be.
    pub(crate) append: bool,
}
