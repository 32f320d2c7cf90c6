//! Thin adapter: fuser's calls become calls of `fs.rs`, results become replies. Decides nothing but flag bits.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::SystemTime;

use bytes::Bytes;
use caribou_client::proto::ids::NAME_MAX;
use caribou_client::proto::meta::v1::{Create, Rename, SetAttr, SetXattr};
use fuser::*;

use crate::adapter::{Adapter, GENERATION, bytes, xattr};
use crate::attributes::never_there;
use crate::convert::{MODE_BITS, access_of_flags, file_attr, file_type, time_to_set};
use crate::fs::Write;

/// The longest read or write of one request.
const MAX_REQUEST_BYTES: u32 = 1 << 20;
/// The unit of statfs.
const STATFS_BLOCK_BYTES: u32 = 4096;
/// Inode numbers do not run out; programs want to see some that are free.
const FREE_INODES: u64 = 1 << 30;

impl Adapter {
    /// How the kernel is to use a handle with these flags.
    fn how_to_use(&self, flags: i32) -> FopenFlags {
        let access = access_of_flags(flags);
        if access & 2 == 0 {
            // Its close has nothing to wait for: it needs no request of its own.
            FopenFlags::FOPEN_NOFLUSH
        } else if flags & libc::O_APPEND != 0 && (self.maps_uncached || access == 2) {
            // The kernel does not know where the end is: what it kept of an append would be at the wrong place.
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::empty()
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // Not FUSE_ATOMIC_O_TRUNC: an open with O_TRUNC would cut a running program before the kernel refuses it with ETXTBSY. The client's
        // open and cut are two calls in any case.
        for wanted in [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            // The kernel then says with each write whether set-user-id has to go, instead of changing the mode as the writer.
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
        ] {
            if config.add_capabilities(wanted).is_err() {
                tracing::debug!(?wanted, "this kernel lacks a capability");
            }
        }
        self.maps_uncached = config.add_capabilities(InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP).is_ok();
        if let Err(most) = config.set_max_write(MAX_REQUEST_BYTES) {
            tracing::debug!(most, "smaller writes");
        }
        if let Err(most) = config.set_max_readahead(MAX_REQUEST_BYTES)
            && config.set_max_readahead(most).is_err()
        {
            tracing::debug!(most, "smaller read-ahead");
        }
        let background = self.settings.max_background.max(1);
        if config.set_max_background(background).is_err() || config.set_congestion_threshold(background).is_err() {
            tracing::debug!(background, "the kernel keeps its own bound of background requests");
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, caller, name) = (self.fs.clone(), self.caller(request), bytes(name));
        self.entry(request, reply, async move { fs.lookup(caller, parent.0, name).await });
    }

    /// Nothing to forget: inode numbers are the server's, and no table of them is kept.
    fn forget(&self, _request: &Request, _inode: INodeNo, _lookups: u64) {}

    fn getattr(&self, request: &Request, inode: INodeNo, _handle: Option<FileHandle>, reply: ReplyAttr) {
        if let Some((attr, left)) = self.fs.directories.get(inode.0) {
            reply.attr(&left, &file_attr(&attr));
            return;
        }
        let (fs, caller, timeout) = (self.fs.clone(), self.caller(request), self.settings.attr_timeout);
        let work = async move { fs.getattr(caller, inode.0).await };
        self.answer(request, reply, work, move |reply, attr| reply.attr(&timeout, &file_attr(&attr)));
    }

    fn setattr(
        &self,
        request: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        handle: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (atime_ns, atime_now) = time_to_set(atime);
        let (mtime_ns, mtime_now) = time_to_set(mtime);
        let by_handle = handle.is_some_and(|handle| self.fs.handle(handle.0).is_ok_and(|handle| handle.writes));
        let mode = mode.map(|mode| mode & MODE_BITS);
        let setattr =
            SetAttr { inode: inode.0, mode, uid, gid, size, atime_ns, mtime_ns, atime_now, mtime_now, by_handle };
        let (fs, caller, timeout) = (self.fs.clone(), self.caller(request), self.settings.attr_timeout);
        let work = async move { fs.setattr(caller, setattr).await };
        self.answer(request, reply, work, move |reply, attr| reply.attr(&timeout, &file_attr(&attr)));
    }

    fn readlink(&self, request: &Request, inode: INodeNo, reply: ReplyData) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let work = async move { fs.readlink(caller, inode.0).await };
        self.answer(request, reply, work, |reply, target| reply.data(&target));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (fs, caller, name) = (self.fs.clone(), self.caller(request), bytes(name));
        self.entry(request, reply, async move { fs.mknod(caller, parent.0, name, mode & !umask, rdev).await });
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let (fs, caller, name) = (self.fs.clone(), self.caller(request), bytes(name));
        self.entry(request, reply, async move { fs.mkdir(caller, parent.0, name, mode & !umask).await });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, name) = (self.fs.clone(), self.caller(request), bytes(name));
        self.empty(request, reply, async move { fs.unlink(caller, parent.0, name).await });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, name) = (self.fs.clone(), self.caller(request), bytes(name));
        self.empty(request, reply, async move { fs.rmdir(caller, parent.0, name).await });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let (name, target) = (bytes(name), bytes(target.as_os_str()));
        self.entry(request, reply, async move { fs.symlink(caller, parent.0, name, target).await });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (no_replace, exchange) = (RenameFlags::RENAME_NOREPLACE, RenameFlags::RENAME_EXCHANGE);
        if !(flags - no_replace - exchange).is_empty() || flags.contains(no_replace | exchange) {
            reply.error(Errno::EINVAL);
            return;
        }
        let rename = Rename {
            parent: parent.0,
            name: bytes(name),
            new_parent: new_parent.0,
            new_name: bytes(new_name),
            no_replace: flags.contains(no_replace),
            exchange: flags.contains(exchange),
        };
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        self.empty(request, reply, async move { fs.rename(caller, rename).await });
    }

    fn link(&self, request: &Request, inode: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, caller, name) = (self.fs.clone(), self.caller(request), bytes(name));
        self.entry(request, reply, async move { fs.link(caller, inode.0, parent.0, name).await });
    }

    fn open(&self, request: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let work = async move { fs.open(caller, inode.0, flags.0).await };
        let how = self.how_to_use(flags.0);
        self.answer(request, reply, work, move |reply, handle| reply.opened(FileHandle(handle), how));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let create = Create {
            parent: parent.0,
            name: bytes(name),
            mode: mode & !umask & MODE_BITS,
            exclusive: flags & libc::O_EXCL != 0,
            want_grant: false, // the client library asks for it
            truncate: flags & libc::O_TRUNC != 0,
            access: access_of_flags(flags),
        };
        let (fs, caller, timeout) = (self.fs.clone(), self.caller(request), self.shorter_timeout());
        let work = async move { fs.create(caller, create).await };
        let how = self.how_to_use(flags);
        self.answer(request, reply, work, move |reply, (attr, handle)| {
            reply.created(&timeout, &file_attr(&attr), GENERATION, FileHandle(handle), how);
        });
    }

    fn read(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let fs = self.fs.clone();
        let work = async move { fs.read(handle.0, offset, size).await };
        self.answer_here(request, reply, work, |reply, data| reply.data(&data));
    }

    fn write(
        &self,
        request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let write = Write {
            handle: handle.0,
            offset,
            data: Bytes::copy_from_slice(data),
            kill_set_id: write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID),
            sync: flags.0 & libc::O_DSYNC != 0, // a part of O_SYNC
            // What a mapping has written has its place.
            append: flags.0 & libc::O_APPEND != 0 && !write_flags.contains(WriteFlags::FUSE_WRITE_CACHE),
        };
        let fs = self.fs.clone();
        let work = async move { fs.write(write).await };
        self.answer_here(request, reply, work, |reply, len| reply.written(len));
    }

    fn flush(&self, request: &Request, _inode: INodeNo, handle: FileHandle, _owner: LockOwner, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.answer_here(request, reply, async move { fs.flush(handle.0).await }, |reply, ()| reply.ok());
    }

    fn release(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let _runtime = self.runtime.enter();
        self.fs.release(handle.0);
        reply.ok();
    }

    fn fsync(&self, request: &Request, _inode: INodeNo, handle: FileHandle, data_only: bool, reply: ReplyEmpty) {
        let fs = self.fs.clone();
        self.empty(request, reply, async move { fs.fsync(handle.0, data_only).await });
    }

    fn opendir(&self, request: &Request, inode: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let work = async move { fs.open_directory(caller, inode.0).await };
        self.answer(request, reply, work, |reply, handle| reply.opened(FileHandle(handle), FopenFlags::empty()));
    }

    fn readdir(&self, request: &Request, _inode: INodeNo, handle: FileHandle, at: u64, reply: ReplyDirectory) {
        let work = self.fs.clone().page(self.caller(request), handle.0, at, false);
        self.answer(request, reply, work, |mut reply, page| {
            page.hand_out(|position, entry| {
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.inode), position, file_type(entry.kind()), name)
            });
            reply.ok();
        });
    }

    fn readdirplus(&self, request: &Request, _inode: INodeNo, handle: FileHandle, at: u64, reply: ReplyDirectoryPlus) {
        let work = self.fs.clone().page(self.caller(request), handle.0, at, true);
        let timeout = self.shorter_timeout();
        self.answer(request, reply, work, move |mut reply, page| {
            page.hand_out(|position, entry| {
                // Without attributes: it was removed since it was listed.
                let Some(attr) = &entry.attr else { return true };
                let name = OsStr::from_bytes(&entry.name);
                !reply.add(INodeNo(entry.inode), position, name, &timeout, &file_attr(attr), GENERATION)
            });
            reply.ok();
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _inode: INodeNo,
        handle: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.release_directory(handle.0);
        reply.ok();
    }

    /// Changes of names are durable before they are answered.
    fn fsyncdir(&self, _request: &Request, _inode: INodeNo, _handle: FileHandle, _data_only: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn statfs(&self, request: &Request, _inode: INodeNo, reply: ReplyStatfs) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let work = async move { fs.statfs(caller).await };
        self.answer(request, reply, work, |reply, figures| {
            let unit = u64::from(STATFS_BLOCK_BYTES);
            let (total, free) = (figures.total_bytes / unit, figures.free_bytes / unit);
            let inodes = figures.inodes + FREE_INODES;
            let name_max = u32::try_from(NAME_MAX).expect("255");
            reply.statfs(total, free, free, inodes, FREE_INODES, STATFS_BLOCK_BYTES, name_max, STATFS_BLOCK_BYTES);
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        inode: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let setxattr = SetXattr {
            inode: inode.0,
            name: bytes(name),
            value: Bytes::copy_from_slice(value),
            create: flags & libc::XATTR_CREATE != 0,
            replace: flags & libc::XATTR_REPLACE != 0,
        };
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        self.empty(request, reply, async move { fs.setxattr(caller, setxattr).await });
    }

    fn getxattr(&self, request: &Request, inode: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if let Some(errno) = never_there(name.as_bytes()) {
            return reply.error(Errno::from_i32(errno));
        }
        let (fs, caller, name) = (self.fs.clone(), self.caller(request), bytes(name));
        let work = async move { fs.getxattr(caller, inode.0, name).await };
        self.answer(request, reply, work, move |reply, value| xattr(reply, &value, size));
    }

    fn listxattr(&self, request: &Request, inode: INodeNo, size: u32, reply: ReplyXattr) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let work = async move { fs.listxattr(caller, inode.0).await };
        self.answer(request, reply, work, move |reply, names| xattr(reply, &names, size));
    }

    fn removexattr(&self, request: &Request, inode: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, caller, name) = (self.fs.clone(), self.caller(request), bytes(name));
        self.empty(request, reply, async move { fs.removexattr(caller, inode.0, name).await });
    }

    fn access(&self, request: &Request, inode: INodeNo, mask: AccessFlags, reply: ReplyEmpty) {
        let (fs, caller) = (self.fs.clone(), self.caller(request));
        let mask = u32::try_from(mask.bits() & 7).expect("three bits");
        self.empty(request, reply, async move { fs.access(caller, inode.0, mask).await });
    }

    fn fallocate(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::EOPNOTSUPP);
    }

    /// ENOSYS: the kernel seeks by itself (data everywhere, a hole at the end).
    fn lseek(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// ENOSYS: the kernel copies by reading and writing.
    fn copy_file_range(
        &self,
        _request: &Request,
        _inode_in: INodeNo,
        _handle_in: FileHandle,
        _offset_in: u64,
        _inode_out: INodeNo,
        _handle_out: FileHandle,
        _offset_out: u64,
        _len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _inode: INodeNo,
        _handle: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
