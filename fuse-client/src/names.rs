//! Operations on names: lookup, create of everything but open files, remove, rename, link.

use bytes::Bytes;
use caribou_client::Error;
use caribou_client::meta::QueryOp;
use caribou_client::proto::ids::NAME_MAX;
use caribou_client::proto::meta::v1::{
    Attr, Caller, Create, FileKind, Link, Lookup, Mkdir, Mknod, ReadLink, RemoveXattr, Rename, ReplyBody, Rmdir,
    SetXattr, Symlink, Unlink, mutation::Op,
};

use crate::convert::{MODE_BITS, kind_of_mode};
use crate::fs::Fs;

impl Fs {
    pub(crate) async fn lookup(&self, caller: Caller, parent: u64, name: Bytes) -> Result<Attr, Error> {
        if name.len() > NAME_MAX {
            return Err(Error::Errno(libc::ENAMETOOLONG));
        }
        let body = self.client.meta().query(&caller, QueryOp::Lookup(Lookup { parent, name })).await?;
        let attr = self.attr_in(body)?;
        self.directories.seen(&attr);
        Ok(attr)
    }

    pub(crate) async fn readlink(&self, caller: Caller, inode: u64) -> Result<Bytes, Error> {
        Ok(self.client.meta().query(&caller, QueryOp::ReadLink(ReadLink { inode })).await?.bytes)
    }

    pub(crate) async fn mkdir(&self, caller: Caller, parent: u64, name: Bytes, mode: u32) -> Result<Attr, Error> {
        let op = Op::Mkdir(Mkdir { parent, name, mode: mode & MODE_BITS });
        let body = self.mutate(&caller, op).await?;
        self.attr_in(body)
    }

    pub(crate) async fn mknod(
        &self,
        caller: Caller,
        parent: u64,
        name: Bytes,
        mode: u32,
        rdev: u32,
    ) -> Result<Attr, Error> {
        let kind = kind_of_mode(mode).ok_or(Error::Errno(libc::EINVAL))?;
        let mode = mode & MODE_BITS;
        if kind != FileKind::Regular {
            let op = Op::Mknod(Mknod { parent, name, kind: kind.into(), mode, rdev });
            let body = self.mutate(&caller, op).await?;
            return self.attr_in(body);
        }
        let create = Create { parent, name, mode, exclusive: true, ..Create::default() };
        let body = self.mutate(&caller, Op::Create(create)).await?;
        let attr = self.attr_in(body)?;
        self.client.meta().release_claim(attr.inode); // S7: a create claims, and nobody has this file open
        Ok(attr)
    }

    pub(crate) async fn symlink(&self, caller: Caller, parent: u64, name: Bytes, target: Bytes) -> Result<Attr, Error> {
        let body = self.mutate(&caller, Op::Symlink(Symlink { parent, name, target })).await?;
        self.attr_in(body)
    }

    pub(crate) async fn link(&self, caller: Caller, inode: u64, parent: u64, name: Bytes) -> Result<Attr, Error> {
        let body = self.mutate(&caller, Op::Link(Link { inode, parent, name })).await?;
        self.attr_in(body)
    }

    pub(crate) async fn unlink(&self, caller: Caller, parent: u64, name: Bytes) -> Result<(), Error> {
        self.mutate(&caller, Op::Unlink(Unlink { parent, name })).await.map(drop)
    }

    pub(crate) async fn rmdir(&self, caller: Caller, parent: u64, name: Bytes) -> Result<(), Error> {
        self.mutate(&caller, Op::Rmdir(Rmdir { parent, name })).await.map(drop)
    }

    pub(crate) async fn rename(&self, caller: Caller, rename: Rename) -> Result<(), Error> {
        if !rename.exchange && self.client.files().may_have_buffered() {
            self.flush_before_rename(&caller, &rename).await?;
        }
        self.mutate(&caller, Op::Rename(rename)).await.map(drop)
    }

    /// "Write the new one, rename it over the old one" must never leave an empty file: what is renamed is written back first.
    async fn flush_before_rename(&self, caller: &Caller, rename: &Rename) -> Result<(), Error> {
        let lookup = Lookup { parent: rename.parent, name: rename.name.clone() };
        match self.client.meta().query(caller, QueryOp::Lookup(lookup)).await {
            Ok(ReplyBody { attr: Some(attr), .. }) if attr.kind() == FileKind::Regular => {
                self.client.files().flush_inode(attr.inode).await
            }
            // The rename itself says what is wrong.
            Ok(_) | Err(Error::Errno(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// A change, with the pages of directories read before and during it made worthless.
    pub(crate) async fn mutate(&self, caller: &Caller, op: Op) -> Result<ReplyBody, Error> {
        self.changed();
        // A directory that is moved, replaced or removed changes itself, as the reply tells; and no reply tells of a changed ctime alone.
        let is_told = matches!(op, Op::Rename(_) | Op::Rmdir(_));
        let own = match &op {
            Op::Setxattr(SetXattr { inode, .. }) | Op::Removexattr(RemoveXattr { inode, .. }) => Some(*inode),
            _ => None,
        };
        let call = self.directories.call();
        let result = self.client.meta().mutate(caller, op).await;
        self.changed();
        match &result {
            Ok(body) if is_told => {
                let others = body.others.as_ref().map(|others| others.inodes.as_slice());
                call.changed_others(&body.directories, others);
            }
            Ok(body) => call.changed_others(&body.directories, Some(own.as_slice())),
            Err(Error::Errno(errno)) if is_decided(*errno) => call.refused(),
            Err(_) => {}
        }
        result
    }

    fn attr_in(&self, body: ReplyBody) -> Result<Attr, Error> {
        let attr = body.attr.ok_or_else(|| Error::Fatal("the leader answered without attributes".to_owned()))?;
        Ok(self.overlaid(attr))
    }
}

/// Whether an error says that nothing has changed: else the outcome is unknown (S4, S5).
pub(crate) fn is_decided(errno: i32) -> bool {
    !matches!(errno, libc::EIO | libc::EINTR | libc::ETIMEDOUT | libc::ECANCELED)
}
